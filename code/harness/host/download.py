"""Downloads with resume, retries, mirrors, and a checksum test before use."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from harness.errors import ConfigError, RunFailed, on_interrupt
from harness.host import console

_CHUNK = 128 * 1024
_LONG_BYTES = 256 * 2**20  # take a second or more to hash
# A connection that delivered this much resets the retries.
_PROGRESS_BYTES = 1024 * 1024
_BACKOFF_S = (1.0, 2.0, 4.0, 8.0)
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class NotDelivered(RunFailed):
    """No URL delivered the file."""

    def __init__(self, message: str, reasons: Sequence[str]) -> None:
        super().__init__(message)
        self.reasons = list(reasons)
        """One text per URL: the URL and why it failed."""


class _Lost(Exception):
    """The attempt ended early; the same URL may do better next time."""


class _Refused(Exception):
    """This URL will not give the file."""


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in lower-case hexadecimal digits."""
    return digest_of(path, "sha256")


def digest_of(path: Path, algorithm: str) -> str:
    """The "sha256" or "md5" of a file's content, in lower-case hexadecimal digits."""
    made = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) < _LONG_BYTES:
            return hashlib.file_digest(file, lambda: made).hexdigest()
        with console.Progress(f"{algorithm} of {path.name}", total=size, unit="B") as bar:
            while chunk := file.read(2**22):
                made.update(chunk)
                bar.advance(len(chunk))
    return made.hexdigest()


def download(
    urls: Sequence[str] | str,
    destination: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    description: str | None = None,
    cure: str | None = None,
    timeout: float = 30.0,
    backoff: Sequence[float] = _BACKOFF_S,
) -> Path:
    """Download the file with this `sha256`, or else `md5`, (and `size` in bytes) from the first URL that delivers it.

    Without a checksum only the length given by the server is checked: the caller must check the content. `timeout` is
    the seconds without an answer or a byte, `backoff` the seconds before each retry of a URL, `cure` the advice to the
    user when no URL delivers. An interrupted download leaves ``<destination>.part`` and resumes from there next time.

    Raises:
        ConfigError: `destination` is a different file, or a URL is not http(s).
        NotDelivered: no URL delivered the file.
        RunFailed: the file cannot be stored.
        ValueError: no URL is given, or a checksum is malformed.
    """
    urls = [urls] if isinstance(urls, str) else list(urls)
    known = ("sha256", sha256) if sha256 is not None else ("md5", md5)
    checksum = None if known[1] is None else _Checksum(known[0], known[1].lower())
    if not urls:
        raise ValueError(f"no URL given for {destination}")
    for url in urls:
        if not re.match(r"https?://[^/]", url, re.IGNORECASE):
            raise ConfigError(f"cannot download from {url!r}: only http:// and https:// URLs are allowed.")
    name = description or destination.name
    job = _Job(destination, checksum, size, timeout, tuple(backoff), cure)
    try:
        if _is_there(destination, checksum):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        with locked(destination):
            if not _is_there(destination, checksum):
                with on_interrupt(job.kept()), console.Progress(name, total=size, unit="B") as bar:
                    job.run(urls, bar)
    except OSError as error:  # from the disk: network errors have become the reasons in a RunFailed
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailed(
                f"the disk is full, so {destination} could not be downloaded: free some space and rerun; "
                f"the download resumes from the {console.quantity(job.stored(), 'B')} in {job.part}."
            ) from error
        raise RunFailed(f"cannot download to {destination}: {error}.") from error
    return destination


@dataclass(frozen=True)
class _Checksum:
    algorithm: str
    digest: str

    def __post_init__(self) -> None:
        digits = {"sha256": 64, "md5": 32}[self.algorithm]
        if not re.fullmatch(f"[0-9a-f]{{{digits}}}", self.digest):
            raise ValueError(f"a {self.algorithm} is {digits} hexadecimal digits, not {self.digest!r}")

    def __str__(self) -> str:
        return f"{self.algorithm} {self.digest}"


def _is_there(destination: Path, checksum: _Checksum | None) -> bool:
    if not destination.exists():
        return False
    if not destination.is_file():
        raise ConfigError(f"cannot download to {destination}: it is not a regular file; move it away.")
    if checksum is None:
        return True
    found = digest_of(destination, checksum.algorithm)
    if found != checksum.digest:
        raise ConfigError(
            f"{destination} exists but is a different file ({checksum.algorithm} {found}, expected {checksum.digest}): "
            "delete it or move it away, and rerun."
        )
    return True


@contextlib.contextmanager
def locked(destination: Path) -> Iterator[None]:
    """Keep other processes away from `destination` and its ``.part``; waits for a running one."""
    path = destination.with_name(destination.name + ".lock")
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.note(f"waiting for another process that is downloading {destination}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            # The previous holder deleted its lock file: a lock on a deleted file excludes nobody.
            try:
                current = path.stat()
            except FileNotFoundError:
                continue
            if not os.path.samestat(os.fstat(lock.fileno()), current):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


@dataclass
class _Job:
    destination: Path
    checksum: _Checksum | None
    size: int | None
    timeout: float
    backoff: tuple[float, ...]
    cure: str | None

    def __post_init__(self) -> None:
        self.part = self.destination.with_name(self.destination.name + ".part")
        self.about = self.destination.with_name(self.destination.name + ".part.json")

    def run(self, urls: Sequence[str], bar: console.Progress) -> None:
        """Try one URL after the other, and move the verified file to its destination."""
        reasons = []
        for url in urls:
            try:
                self._fetch(url, bar)
            except _Refused as reason:
                reasons.append(f"{url}: {reason}")
                continue
            with self.part.open("rb+") as file:
                os.fsync(file.fileno())
            self.part.replace(self.destination)
            self.about.unlink(missing_ok=True)
            return
        by_hand = f"download it by hand to {self.destination} ({self.checksum or 'no checksum is known'})"
        raise NotDelivered(
            f"cannot download {self.destination.name} ({'; '.join(reasons)}): rerun later, or {self.cure or by_hand}.",
            reasons,
        )

    def kept(self) -> str:
        """What an interrupted download leaves, and how to resume it."""
        return f"the partial file is kept in {self.part}, and the same command resumes from there."

    def stored(self) -> int:
        """Bytes in the part file; 0 if there is none."""
        return self.part.stat().st_size if self.part.exists() else 0

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)

    def _known(self, url: str) -> dict[str, str]:
        """The facts saved about the part file; a part of a different file, or of unknown origin, is deleted."""
        try:
            about: dict[str, str] = json.loads(self.about.read_text(encoding="utf-8"))
            if self.checksum:
                usable = about[self.checksum.algorithm] == self.checksum.digest
            else:  # only the server can say whether a part belongs to the same file
                usable = about["url"] == url and bool(about["validator"])
            usable = usable and (self.size is None or self.stored() <= self.size)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            usable = False
        if usable:
            return about
        self._drop()
        return {}

    def _fetch(self, url: str, bar: console.Progress) -> None:
        """Fill the part file from one URL until its checksum is right."""
        waits = iter(self.backoff)
        furthest, afresh = 0, False
        while True:
            known = self._known(url)
            start = self.stored()
            afresh = afresh or start == 0
            bar.start_from(start)
            try:
                if start == 0 or start != self.size:
                    self._stream(url, start, known, bar)
            except _Lost as lost:
                if self.stored() >= furthest + _PROGRESS_BYTES:
                    furthest, waits = self.stored(), iter(self.backoff)
                wait = next(waits, None)
                if wait is None:
                    raise _Refused(str(lost)) from lost
                bar.update(note=f"{lost}, next attempt in {console.duration(wait)}")
                time.sleep(wait)
                continue
            if self.checksum is None:
                return
            bar.update(note=f"checking the {self.checksum.algorithm}")
            found = digest_of(self.part, self.checksum.algorithm)
            if found == self.checksum.digest:
                bar.update(note="")
                return
            self._drop()
            if afresh:
                raise _Refused(f"it is a different file, with {self.checksum.algorithm} {found}")
            # The beginning came from an earlier run or another mirror, and may be at fault.
            afresh = True

    def _stream(self, url: str, start: int, known: dict[str, str], bar: console.Progress) -> None:
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if known.get("url") == url and known.get("validator"):
                headers["If-Range"] = known["validator"]
        try:
            with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
                self._store(response, url, start, headers.get("If-Range", ""), bar)
        except requests.exceptions.SSLError as error:
            raise _Refused(_root(error)) from error
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise _Lost(_root(error)) from error
        except requests.RequestException as error:
            raise _Refused(_root(error)) from error

    def _store(self, response: requests.Response, url: str, start: int, validator: str, bar: console.Progress) -> None:
        status = response.status_code
        if status == 416 and start:
            if self.checksum:
                return  # nothing follows the part: its checksum shows whether it is the complete file
            self._drop()
            raise _Lost("the server has nothing after the partial file, and no checksum shows whether that is complete")
        if status not in (200, 206):
            reason = f"HTTP {status} {response.reason}".strip()
            raise (_Lost if status in _TRY_AGAIN else _Refused)(reason)
        length = response.headers.get("Content-Length", "")
        whole = int(length) if length.isdigit() else None
        if status == 206:
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
            changed = validator and _validator(response) not in ("", validator)
            if span is None or int(span[1]) != start or changed:
                self._drop()
                raise _Lost("the file changed on the server, or the server's ranges are wrong")
            whole = None if span[3] == "*" else int(span[3])
        if self.size is not None and whole not in (None, self.size):
            raise _Refused(f"the server's file has {whole:,} bytes instead of {self.size:,}")
        if status == 200:
            start = 0
            bar.start_from(0)
            self._drop()
            about = {"url": url, "validator": _validator(response)}
            if self.checksum:
                about[self.checksum.algorithm] = self.checksum.digest
            self.about.write_text(json.dumps(about), encoding="utf-8")
        expected = self.size if whole is None else whole
        if expected is None and self.checksum is None and "Transfer-Encoding" not in response.headers:
            raise _Refused("neither its size nor a checksum is known, so that a truncated file would go unnoticed")
        bar.update(total=expected, note="")
        done = start
        with self.part.open("ab") as file:
            # Undecoded: offsets, lengths and the checksum refer to the file as stored on the server.
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                done += len(chunk)
                if self.size is not None and done > self.size:
                    self._drop()
                    raise _Refused(f"the server sends more than the expected {self.size:,} bytes")
                file.write(chunk)
                bar.update(done=done)
        if expected is not None and done < expected:
            raise _Lost(f"the connection ended after {done:,} of {expected:,} bytes")


def _validator(response: requests.Response) -> str:
    """A validator for If-Range: a strong ETag, or else the date; "" if the server gives neither."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _root(error: BaseException) -> str:
    """The root cause inside the errors of requests and urllib3: 'Connection refused'."""
    inner = (error.__cause__, getattr(error, "reason", None), *error.args)
    for wrapped in inner:
        if isinstance(wrapped, BaseException):
            return _root(wrapped)
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
