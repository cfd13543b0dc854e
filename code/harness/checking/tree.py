"""A submission tree on disk, read without trusting its contents.

Everything broken becomes a `Problem`: the functions are generators that yield problems and return the values that could
be read, so that a check can continue as far as possible: ``value = yield from read_object(...)``.
"""

import io
import json
import math
import os
import stat
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.rules.limits import LARGEST_FILE

T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """Something that makes a tree unfit for submission."""

    path: str
    """The file or folder, relative to the tree's root."""
    what: str
    cure: str
    mark: bool = False
    """Whether it is only a mark of a rehearsal or a development run, which a rehearsal may contain."""
    stand_in: bool = False
    """Whether stand-ins or a short test cause it in a rehearsal, where it becomes only a note."""


Findings = Generator[Problem, None, T]


@dataclass(frozen=True)
class TreeEntry:
    """A file, a folder or anything else in the tree."""

    kind: str
    """"file", "folder", "link" or "other"."""
    size: int = 0


class Tree:
    """All entries below a root, listed once; links are listed but never followed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: dict[str, TreeEntry] = {}
        self.unreadable: list[tuple[str, str]] = []
        self._bytes: dict[str, bytes | None] = {}
        pending = [""]
        while pending:
            pending += self._list(pending.pop())
        self._children: dict[str, list[str]] = {"": []}
        for path in sorted(self.entries):
            folder, _, name = path.rpartition("/")
            self._children.setdefault(folder, []).append(name)

    def relative(self, path: Path) -> str:
        """The path below the root, with slashes."""
        return path.relative_to(self.root).as_posix()

    def kind(self, path: str) -> str | None:
        """The kind of the entry; None if it does not exist."""
        entry = self.entries.get(path)
        return entry.kind if entry else None

    def names(self, folder: str, kind: str | None = None) -> list[str]:
        """The names of the direct children of a folder, including hidden ones."""
        prefix = f"{folder}/" if folder else ""
        return [n for n in self._children.get(folder, []) if kind is None or self.entries[prefix + n].kind == kind]

    def below(self, folder: str, kind: str | None = None) -> list[str]:
        """The paths of all entries below a folder."""
        prefix = f"{folder}/" if folder else ""
        return [p for p, e in self.entries.items() if p.startswith(prefix) and (kind is None or e.kind == kind)]

    def read(self, path: str) -> bytes | None:
        """The content of a regular file of allowed size; None for anything else."""
        if path not in self._bytes:
            entry = self.entries.get(path)
            content = None
            if entry and entry.kind == "file" and entry.size <= LARGEST_FILE:
                try:
                    content = (self.root / path).read_bytes()
                except OSError as error:
                    self.unreadable.append((path, error.strerror or "it cannot be read"))
            self._bytes[path] = content
        return self._bytes[path]

    def _list(self, folder: str) -> list[str]:
        found: list[str] = []
        try:
            names = sorted(os.listdir(self.root / folder))  # noqa: PTH208
        except OSError as error:
            self.unreadable.append((folder or ".", error.strerror or "it cannot be listed"))
            return found
        for name in names:
            if not folder and name == ".git":
                continue  # a round's repository may be checked directly
            path = f"{folder}/{name}" if folder else name
            try:
                status = (self.root / path).lstat()
            except OSError as error:
                self.unreadable.append((path, error.strerror or "it cannot be read"))
                continue
            if stat.S_ISDIR(status.st_mode):
                self.entries[path] = TreeEntry("folder")
                found.append(path)
            elif stat.S_ISREG(status.st_mode):
                self.entries[path] = TreeEntry("file", status.st_size)
            else:
                self.entries[path] = TreeEntry("link" if stat.S_ISLNK(status.st_mode) else "other")
        return found


def values_of(findings: Findings[T]) -> T:
    """The return value of a check; its problems are dropped, since another call reports them."""
    while True:
        try:
            next(findings)
        except StopIteration as end:
            value: T = end.value
            return value


def printable(text: object, limit: int = 80) -> str:
    """A value from a file for a message: on one line, limited in length, without unprintable characters."""
    shown = str(text).encode("utf-8", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else "?" for c in shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def read_text(tree: Tree, path: str, cure: str) -> Findings[str | None]:
    """The text of a file that must exist and must not be empty."""
    kind = tree.kind(path)
    if kind != "file":
        yield Problem(path, "the file is missing" if kind is None else f"it is not a regular file ({kind})", cure)
        return None
    content = tree.read(path)
    if content is None:
        return None  # check_names reports files that are too large or unreadable
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        yield Problem(path, f"it is not UTF-8 text (byte {error.start})", cure)
        return None
    if not text.strip():
        yield Problem(path, "the file is empty", cure)
        return None
    return text


def lines_of(text: str) -> list[str]:
    """The lines that reading a text file would give; ``str.splitlines`` also splits at other characters."""
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def read_object(tree: Tree, path: str, cure: str) -> Findings[dict[str, object] | None]:
    """The object of a JSON file."""
    text = yield from read_text(tree, path, cure)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield Problem(path, f"it is not JSON ({printable(error)})", cure)
        return None
    if not isinstance(value, dict):
        yield Problem(path, f"it contains {_kind(value)} instead of an object", cure)
        return None
    return value


def writable(path: str, values: Mapping[str, object]) -> Findings[None]:
    """Strings must be encodable as UTF-8: JSON can contain single surrogates, which no file can."""
    for key, value in values.items():
        if isinstance(value, str) and any(0xD800 <= ord(c) < 0xE000 for c in value):
            yield Problem(path, f"{printable(key)} contains an incomplete character", "retype the value")


def required_text(path: str, values: Mapping[str, object], keys: Iterable[str]) -> Findings[None]:
    """Fields that must be strings and must not be empty."""
    for key in keys:
        value = values.get(key)
        if key not in values:
            yield Problem(path, f"the field {key} is missing", "add it")
        elif not isinstance(value, str):
            yield Problem(
                path, f"{key} is {_kind(value)}, not a string", f'write it in quotation marks: "{key}": "..."'
            )
        elif not value.strip():
            yield Problem(path, f"{key} is empty", 'fill it in, with "N/A" or "No" if nothing applies')


def number(value: object) -> float | int | None:
    """A finite number; None for anything else, including `true`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if (abs(value) < 2**70 if isinstance(value, int) else math.isfinite(value)) else None


def _kind(value: object) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")


def contents(
    tree: Tree,
    folder: str,
    *,
    files: Iterable[str] = (),
    folders: Iterable[str] = (),
    allowed: Iterable[str] = (),
    cure: str,
) -> Findings[None]:
    """A folder must contain exactly these files and folders; ``allowed`` ones are optional."""
    if tree.kind(folder) != "folder":
        yield Problem(folder, "the folder is missing", cure)
        return
    wanted = {**dict.fromkeys(files, "file"), **dict.fromkeys(folders, "folder")}
    for name, kind in wanted.items():
        if tree.kind(f"{folder}/{name}") != kind:
            yield Problem(f"{folder}/{name}", f"the {kind} is missing", cure)
    for name in tree.names(folder):
        if name not in wanted and name not in allowed:
            yield Problem(f"{folder}/{name}", "it does not belong here", "remove it")
