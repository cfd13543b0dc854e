"""Recognises, by its first bytes, a file that is not what was expected, and says how to get the right one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_READ_BYTES = 1024  # from the beginning
_TEXT = frozenset(range(32, 127)) | frozenset(b"\t\n\r\f\b") | frozenset(range(128, 256))


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    what: str
    """Such as "a Git LFS pointer"."""
    cure: str = ""
    """How to get the file that it stands for; "" if it does not stand for one."""


EMPTY = Kind("empty", "download or copy it again")
_AGAIN = "download the file again, by the link of the file itself instead of a page about it"
_UNPACK = "unpack it, and give the path of the file in it"
_Test = Callable[[bytes], bool]


def _starts(*beginnings: bytes) -> _Test:
    return lambda start: start.startswith(beginnings)


def _matches(pattern: bytes) -> _Test:
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)
    return lambda start: compiled.match(start) is not None


_STAND_INS: tuple[tuple[_Test, Kind], ...] = (
    (
        _starts(b"version https://git-lfs.github.com/", b"version https://hawser.github.com/"),
        Kind("a Git LFS pointer", "run `git lfs pull` in its repository, or download the file itself"),
    ),
    (_matches(rb"(/annex/objects/|\S*\.git/annex/objects/)"), Kind("a git-annex pointer", "run `git annex get` on it")),
    (_matches(rb"\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b"), Kind("a web page (HTML)", _AGAIN)),
    (_matches(rb"\s*(<\?xml[^>]*>\s*)?<Error>"), Kind("an error message of a server (XML)", _AGAIN)),
)
"""Files that stand in for another."""

_OTHERS: tuple[tuple[_Test, Kind], ...] = (
    (_matches(rb"PK\x03\x04.{0,400}?/data\.pkl"), Kind("a PyTorch checkpoint")),
    (_matches(rb"PK\x03\x04.{26}[^/]{1,100}\.npy"), Kind("an archive of NumPy arrays")),
    (_starts(b"PK\x03\x04", b"PK\x05\x06"), Kind("a zip archive", _UNPACK)),
    (_starts(b"\x1f\x8b"), Kind("packed by gzip", _UNPACK)),
    (_starts(b"BZh"), Kind("packed by bzip2", _UNPACK)),
    (_starts(b"\xfd7zXZ\0"), Kind("packed by xz", _UNPACK)),
    (_starts(b"\x28\xb5\x2f\xfd"), Kind("packed by Zstandard", _UNPACK)),
    (_starts(b"7z\xbc\xaf\x27\x1c"), Kind("a 7-Zip archive", _UNPACK)),
    (_matches(rb".{257}ustar"), Kind("a tar archive", _UNPACK)),
    (_matches(rb"\x80[\x02-\x05]"), Kind("a Python pickle, such as a PyTorch checkpoint")),
    (_matches(rb".{3,5}\0{3,5}\{\s*\""), Kind("a safetensors checkpoint")),
    (_matches(rb".{4}TFL3"), Kind("a TensorFlow Lite model")),
    (_matches(rb".{4}ORTM"), Kind("a model in ONNX Runtime's own format")),
    (_starts(b"\x89HDF"), Kind("an HDF5 file, such as a Keras model")),
    (_starts(b"\x93NUMPY"), Kind("a NumPy array")),
    (_starts(b"\xff\xd8\xff", b"\x89PNG", b"GIF8"), Kind("an image")),
    (_starts(b"%PDF"), Kind("a PDF document")),
    (_starts(b"\x7fELF"), Kind("a program")),
)
_TEXTS: tuple[tuple[_Test, Kind], ...] = (
    (_matches(rb"\s*(<\?xml[^>]*>\s*)?<net\b"), Kind("an OpenVINO model (XML)")),
    (_starts(b"<?xml"), Kind("an XML file")),
    (_matches(rb"\s*[{\[]"), Kind("a JSON file")),
    (lambda start: set(start) <= _TEXT and _decodes(start), Kind("a text file")),
)


def look(path: Path) -> Kind | None:
    """The kind of a file that should be a model; None if it is not recognised.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_READ_BYTES)
    return _find(start, (*_STAND_INS, *_OTHERS, *_TEXTS))


def stand_in(content: bytes) -> Kind | None:
    """The kind of a file that stands in for another one or contains it, as ``cure`` says; None if it does not."""
    kind = _find(content[:_READ_BYTES], (*_STAND_INS, *_OTHERS)) if content else None
    return kind if kind and kind.cure else None


def _find(start: bytes, kinds: tuple[tuple[_Test, Kind], ...]) -> Kind | None:
    if not start.strip(b"\0"):
        return EMPTY if not start else Kind("full of zeros", EMPTY.cure)
    return next((kind for test, kind in kinds if test(start)), None)


def _decodes(start: bytes) -> bool:
    try:
        start[:-4].decode()
    except UnicodeDecodeError:
        return False
    return True
