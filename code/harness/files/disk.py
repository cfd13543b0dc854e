"""Reads files named by the user, writes files and replaces folders atomically, and locks: errors say what to do.

New files and folders are made in a *room*: a hidden folder beside their target, `.<name>.<kernel>.<random>.partial`,
which its process locks with flock. The kernel frees that lock when the process ends, however it ends, and it holds
across containers, where process numbers mean nothing. So a room whose lock can be taken was left by a killed process.
"""

import atexit
import contextlib
import fcntl
import glob
import os
import platform
import secrets
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

from harness.errors import Busy, ConfigError, os_words
from harness.files.contents import stand_in
from harness.terminal import console


@contextlib.contextmanager
def locked(path: Path, what: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock that the kernel frees when the process ends, however it ends; ``shared`` locks can coexist.

    ``what`` says in messages what the other process does: "another sweep is running". The file, which is removed at the
    end, names the process that holds an exclusive lock. With ``wait``, the lock is waited for, with a note.

    Raises:
        Busy: another process holds the lock, and ``wait`` is not set.
        ConfigError: the file cannot be written or locked.
    """
    try:
        lock = None
        while lock is None:
            lock = _lock(path, what, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written and locked ({error.strerror}): check its permissions.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            # The file of a shared lock is left to the last holder, who is the only one to get this.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, lock):
                path.unlink()
        os.close(lock)


def _lock(path: Path, what: str, kind: int, wait: bool) -> int | None:
    """The descriptor of the locked file; None if the file was removed meanwhile: such a lock excludes nobody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        if path.parent.is_dir():
            raise
        return None  # the folder was removed meanwhile
    try:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _holder(lock)
            if not wait:
                raise Busy(f"{what}{who}: wait until it ends, or stop it.") from None
            console.note(f"{what}{who}: waiting until it ends")
            fcntl.flock(lock, kind)
        if not _is_at(path, lock):
            os.close(lock)
            return None
        with contextlib.suppress(OSError):  # a full disk: the name is for messages only
            os.ftruncate(lock, 0)  # the name of a process that was killed
            if kind == fcntl.LOCK_EX:
                os.pwrite(lock, f"{os.getpid()} {_numbering()}".encode(), 0)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file or folder is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _holder(lock: int) -> str:
    """The process that a lock's file names, as part of a sentence; "" if it names none of this container's."""
    number, _, numbering = os.pread(lock, 200, 0).decode("ascii", "replace").partition(" ")
    return f" (process {number})" if numbering == _numbering() else ""


def _numbering() -> str:
    """What process numbers count for: the kernel, and the container on it."""
    try:
        container = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  it names no file
    except OSError:
        container = ""
    return f"{kernel()} {container}"


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Turn any OSError from reading a file named by the user into a one-sentence ConfigError."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or "a file")[:200]
        raise ConfigError(f"{where} cannot be read ({error.strerror}): check the path and its permissions.") from error


def native(path: Path) -> Path:
    """A path under which a native library can open a file or folder, valid as long as this process lives.

    Such libraries take names as UTF-8. In another locale, and for names that are not UTF-8, Python's text differs from
    the name on disk: the folder is then given as an open descriptor. A file whose own name is not UTF-8 gets a link in
    a temporary folder, without the files beside it.
    """
    if _is_utf8(path):
        return path
    if path.is_dir():
        folder, name = path, ""
    elif _is_utf8(Path(path.name)):
        folder, name = path.absolute().parent, path.name
    else:
        folder, name = Path(tempfile.mkdtemp()), f"model{path.suffix}"
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        (folder / name).symlink_to(path.absolute())
    return Path(f"/proc/self/fd/{os.open(folder, os.O_RDONLY | os.O_DIRECTORY)}") / name


def _is_utf8(path: Path) -> bool:
    return os.fsencode(path) == str(path).encode("utf-8", "surrogatepass")


def user_path(text: str) -> Path:
    """A path as typed by the user, with ~ expanded."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of a user who does not exist
        return Path(text)


def read_input(path: str | Path, what: str) -> bytes:
    """The bytes of a text file named by the user; ConfigError if it cannot be read, or stands in for another file."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}; check the path.") from error
    if kind := stand_in(content):
        raise ConfigError(f"the {what} {path} is {kind.what}: {kind.cure}.")
    return content


def read_toml(path: Path, what: str, where: str) -> dict[str, object]:
    """The table in a TOML file named by the user, which should be ``what``; ``where`` names a document on such files.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{os_words(error)[:-1]}: give {what} ({where}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: give {what} ({where}).") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML ({error}): fix it ({where}).") from error


def check_writable(path: Path) -> None:
    """Check that a file can be written, before spending much work on its content.

    Raises:
        ConfigError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write {path}: {error.strerror}; choose another place.")


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, creating parent folders; after a ConfigError the old file is unchanged.

    Characters that UTF-8 cannot encode, such as parts of a path in another encoding, are written as escapes.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically, creating parent folders; after a ConfigError the old file is unchanged."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging(path) as room:
            new = room / path.name
            new.write_bytes(content)
            new.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


_ABANDONED_S = 86_400.0  # without a change, if locks cannot show whether a room is in use


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new room beside ``target``: build the target in it, then move it, or the room itself, into place.

    First removes rooms that killed processes left for the same target; at the end, removes what was not moved.

    Raises:
        OSError: the parent folder cannot be written.
    """
    remove_left_over(target.parent, _stem(target))
    room = room_for(target)
    lock = claim(room)
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)
        os.close(lock)


def room_for(target: Path) -> Path:
    """The path of a new room for ``target``, not yet created."""
    return target.with_name(f".{_stem(target)}.{kernel()}.{secrets.token_hex(4)}.partial")


def claim(room: Path) -> int:
    """Create a room and lock it until the returned descriptor is closed, or until this process ends.

    The lock follows the folder when it is renamed. Child processes do not inherit it.

    Raises:
        OSError: the folder cannot be created.
    """
    while True:
        room.mkdir(parents=True)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(room, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # NFS cannot lock folders, so only old rooms are removed there
                fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have removed the folder before it was locked.
            if _is_at(room, lock):
                return lock
            os.close(lock)


def remove_left_over(folder: Path, name: str = "*") -> None:
    """Remove the rooms of killed processes in a folder, for the target ``name`` or by default for any.

    Rooms of another kernel (another machine that shares the file system, or this one before a reboot), rooms named by
    another version, and rooms that cannot be locked are only removed after a day without a change.
    """
    pattern = name if name == "*" else glob.escape(name)
    for room in folder.glob(f".{pattern}.*.partial"):
        with contextlib.suppress(OSError):
            descriptor = os.open(room, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if _left_over(room, descriptor):
                    _remove(room)
            finally:
                os.close(descriptor)


def _left_over(room: Path, descriptor: int) -> bool:
    """Whether no process uses a room; it is then locked, so that none can begin to."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        certain = False
    else:
        certain = room.name.split(".")[-3] == kernel()
    return certain or _idle(room) > _ABANDONED_S


def _idle(room: Path) -> float:
    """Seconds since the last change of a room or of anything in it."""
    return time.time() - max(path.lstat().st_mtime for path in (room, *room.rglob("*")))


def _remove(room: Path) -> None:
    if room.is_dir():
        shutil.rmtree(room, ignore_errors=True)
    else:
        room.unlink(missing_ok=True)


def shown(path: Path) -> Path:
    """The path as messages show it: relative to the current folder if it is inside it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _stem(target: Path) -> str:
    """A target's name, short enough to be part of a room's name."""
    return os.fsdecode(os.fsencode(target.name)[:200])


@cache
def kernel() -> str:
    """A short name of the running kernel, which all containers on it share: its locks are seen by all of them."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:
        name = platform.node()
    return sha256(name.encode()).hexdigest()[:8]


def sync(path: Path) -> None:
    """Flush a file, or a folder with all its files, to the disk: call it before a rename, and for the parent after it.

    Raises:
        OSError: a file could not be written, or cannot be opened.
    """
    for each in (*path.rglob("*"), path) if path.is_dir() else (path,):
        sync_entry(each)


def sync_entry(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def restore(target: Path, old: Path) -> None:
    """Undo a `replace_folder` that was killed between its renames; the caller holds a lock on the target."""
    if old.exists() and not target.exists():
        old.rename(target)


def replace_folder(new: Path, target: Path, old: Path, *, force: bool = True) -> None:
    """Rename ``new``, on the same file system, to ``target``; an existing one is removed only once that is done.

    Meanwhile the existing one is ``old``. The caller holds a lock on the target, since a `restore` by another process
    would undo the first of the two renames.

    Raises:
        OSError: it cannot be renamed, or without ``force`` the target holds something; the target is unchanged.
    """
    restore(target, old)
    shutil.rmtree(old, ignore_errors=True)
    if force and target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        restore(target, old)
        raise
    with contextlib.suppress(OSError):  # it is in place
        sync_entry(target.parent)
    shutil.rmtree(old, ignore_errors=True)
