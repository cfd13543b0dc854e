"""Recognises, by its first bytes, a file that is not what was expected, and says how to get the right one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_READ_BYTES = 1024  # from the beginning
_TEXT = frozenset(range(32, 127)) | frozenset(b"\t\n\r\f\b") | frozenset(range(128, 256))


@dataclass(frozen=True)
class FileKind:
    """A kind of file."""

    what: str
    """Such as "a Git LFS pointer"."""
    cure: str = ""
    """How to get the file that it stands for; "" if it does not stand for one."""


EMPTY = FileKind("empty", "download or copy it again")
_AGAIN = "download the file again, using the link to the file itself instead of a page about it"
_UNPACK = "unpack it, and give the path of the file in it"
_Test = Callable[[bytes], bool]


def _starts(*beginnings: bytes) -> _Test:
    return lambda start: start.startswith(beginnings)


def _matches(pattern: bytes) -> _Test:
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)
    return lambda start: compiled.match(start) is not None


_STAND_INS: tuple[tuple[_Test, FileKind], ...] = (
    (
        _starts(b"version https://git-lfs.github.com/", b"version https://hawser.github.com/"),
        FileKind("a Git LFS pointer", "run `git lfs pull` in its repository, or download the file itself"),
    ),
    (
        _matches(rb"(/annex/objects/|\S*\.git/annex/objects/)"),
        FileKind("a git-annex pointer", "run `git annex get` on it"),
    ),
    (_matches(rb"\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b"), FileKind("a web page (HTML)", _AGAIN)),
    (_matches(rb"\s*(<\?xml[^>]*>\s*)?<Error>"), FileKind("an error message of a server (XML)", _AGAIN)),
)
"""Files that stand in for another."""

_OTHERS: tuple[tuple[_Test, FileKind], ...] = (
    (_matches(rb"PK\x03\x04.{0,400}?/data\.pkl"), FileKind("a PyTorch checkpoint")),
    (_matches(rb"PK\x03\x04.{26}[^/]{1,100}\.npy"), FileKind("an archive of NumPy arrays")),
    (_starts(b"PK\x03\x04", b"PK\x05\x06"), FileKind("a zip archive", _UNPACK)),
    (_starts(b"\x1f\x8b"), FileKind("packed by gzip", _UNPACK)),
    (_starts(b"BZh"), FileKind("packed by bzip2", _UNPACK)),
    (_starts(b"\xfd7zXZ\0"), FileKind("packed by xz", _UNPACK)),
    (_starts(b"\x28\xb5\x2f\xfd"), FileKind("packed by Zstandard", _UNPACK)),
    (_starts(b"7z\xbc\xaf\x27\x1c"), FileKind("a 7-Zip archive", _UNPACK)),
    (_matches(rb".{257}ustar"), FileKind("a tar archive", _UNPACK)),
    (_matches(rb"\x80[\x02-\x05]"), FileKind("a Python pickle, such as a PyTorch checkpoint")),
    (_matches(rb".{3,5}\0{3,5}\{\s*\""), FileKind("a safetensors checkpoint")),
    (_matches(rb".{4}TFL3"), FileKind("a TensorFlow Lite model")),
    (_matches(rb".{4}ORTM"), FileKind("a model in ONNX Runtime's own format")),
    (_starts(b"\x89HDF"), FileKind("an HDF5 file, such as a Keras model")),
    (_starts(b"\x93NUMPY"), FileKind("a NumPy array")),
    (_starts(b"\xff\xd8\xff", b"\x89PNG", b"GIF8"), FileKind("an image")),
    (_starts(b"%PDF"), FileKind("a PDF document")),
    (_starts(b"\x7fELF"), FileKind("a program")),
)
_TEXTS: tuple[tuple[_Test, FileKind], ...] = (
    (_matches(rb"\s*(<\?xml[^>]*>\s*)?<net\b"), FileKind("an OpenVINO model (XML)")),
    (_starts(b"<?xml"), FileKind("an XML file")),
    (_matches(rb"\s*[{\[]"), FileKind("a JSON file")),
    (lambda start: set(start) <= _TEXT and _decodes(start), FileKind("a text file")),
)


def look(path: Path) -> FileKind | None:
    """The kind of a file that should be a model; None if it is not recognised.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_READ_BYTES)
    return _find(start, (*_STAND_INS, *_OTHERS, *_TEXTS))


def stand_in(content: bytes) -> FileKind | None:
    """The kind of a file that stands in for another one or contains it, as ``cure`` says; None if it does not."""
    kind = _find(content[:_READ_BYTES], (*_STAND_INS, *_OTHERS)) if content else None
    return kind if kind and kind.cure else None


def _find(start: bytes, kinds: tuple[tuple[_Test, FileKind], ...]) -> FileKind | None:
    if not start.strip(b"\0"):
        return EMPTY if not start else FileKind("full of zeros", EMPTY.cure)
    return next((kind for test, kind in kinds if test(start)), None)


def _decodes(start: bytes) -> bool:
    try:
        start[:-4].decode()
    except UnicodeDecodeError:
        return False
    return True
