"""Downloads with resume, retries and mirrors, and checks the checksum before use."""

import errno
import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3

from harness.errors import ConfigError, RunFailed, on_interrupt
from harness.files.digest import digest_of
from harness.files.disk import locked
from harness.files.transfer import Forbidden, Reply, Stalled, TransferLimits, opened
from harness.terminal import console
from harness.terminal.progress import Progress

_PROGRESS_BYTES = 1024 * 1024  # an attempt that delivers this much resets the retries
_BACKOFF_S = (1.0, 2.0, 4.0, 8.0)
_LIMITS = TransferLimits()
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class NotDelivered(RunFailed):
    """No URL delivered the file."""

    def __init__(self, message: str, reasons: Sequence[str]) -> None:
        super().__init__(message)
        self.reasons = list(reasons)
        """One text per URL: the URL and why it failed."""


class _AttemptFailed(Exception):
    """The attempt ended early; another one with the same URL may succeed."""


class _UrlRejected(Exception):
    """This URL will not deliver the file."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on one or several servers, and how to recognise it."""

    urls: Sequence[str]
    sha256: str | None = None
    md5: str | None = None
    """Used only without a `sha256`."""
    size: int | None = None
    """In bytes."""
    authorization: str | None = None
    """The request header of that name; servers that a URL redirects to do not get it."""


def download(
    file: RemoteFile,
    destination: Path,
    *,
    description: str | None = None,
    cure: str | None = None,
    limits: TransferLimits = _LIMITS,
    backoff: Sequence[float] = _BACKOFF_S,
) -> Path:
    """Download the file with this checksum and size from the first URL that delivers it.

    Without a checksum only the length given by the server is checked: the caller must check the content. A server that
    exceeds the `limits` is abandoned. `backoff` is the seconds before each retry of a URL, `cure` the advice to the
    user when no URL delivers. An interrupted download leaves ``<destination>.part`` and resumes from there next time.

    Raises:
        ConfigError: `destination` is a different file, or a URL is not http(s).
        NotDelivered: no URL delivered the file.
        RunFailed: the file cannot be stored.
        ValueError: no URL is given, or a checksum is malformed.
    """
    known = ("sha256", file.sha256) if file.sha256 is not None else ("md5", file.md5)
    checksum = None if known[1] is None else _Checksum(known[0], known[1].lower())
    if not file.urls:
        raise ValueError(f"no URL given for {destination}")
    for url in file.urls:
        if not re.match(r"https?://[^/]", url, re.IGNORECASE):
            raise ConfigError(f"cannot download from {url!r}: only http:// and https:// URLs are allowed.")
    name = description or destination.name
    job = _Job(file, destination, checksum, limits, tuple(backoff), cure)
    try:
        if _already_stored(destination, checksum):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        with download_lock(destination):
            if not _already_stored(destination, checksum):
                with on_interrupt(job.kept()), Progress(name, total=file.size, unit="B") as bar:
                    job.run(bar)
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


def _already_stored(destination: Path, checksum: _Checksum | None) -> bool:
    if not destination.exists():
        return False
    if not destination.is_file():
        raise ConfigError(f"cannot download to {destination}: it is not a regular file; move it elsewhere.")
    if checksum is None:
        return True
    found = digest_of(destination, checksum.algorithm)
    if found != checksum.digest:
        raise ConfigError(
            f"{destination} exists but is a different file ({checksum.algorithm} {found}, expected {checksum.digest}): "
            "delete it or move it elsewhere, and rerun."
        )
    return True


def download_lock(destination: Path) -> AbstractContextManager[None]:
    """Lock `destination` and its ``.part`` against other processes; waits for one that is downloading."""
    path = destination.with_name(destination.name + ".lock")
    return locked(path, f"another process is downloading {destination}", wait=True)


@dataclass
class _Job:
    file: RemoteFile
    destination: Path
    checksum: _Checksum | None
    limits: TransferLimits
    backoff: tuple[float, ...]
    cure: str | None

    def __post_init__(self) -> None:
        self.part = self.destination.with_name(self.destination.name + ".part")
        self.about = self.destination.with_name(self.destination.name + ".part.json")

    def run(self, bar: Progress) -> None:
        """Try one URL after the other, and move the verified file to its destination."""
        reasons = []
        for url in self.file.urls:
            try:
                self._fetch(url, bar)
            except _UrlRejected as reason:
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
        """A sentence on the file that an interrupted download leaves, and how to resume."""
        return f"the partial file is kept in {self.part}, and the same command resumes from there."

    def stored(self) -> int:
        """Bytes in the part file; 0 if there is none."""
        return self.part.stat().st_size if self.part.exists() else 0

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)

    def _known(self, url: str) -> dict[str, Any]:
        """The facts saved about the part file; a part of a different file, or of unknown origin, is deleted."""
        try:
            about: dict[str, Any] = json.loads(self.about.read_text(encoding="utf-8"))
            if self.checksum:
                usable = about[self.checksum.algorithm] == self.checksum.digest
            else:  # only the server can say whether a part belongs to the same file
                usable = about["url"] == url and bool(about["validator"])
            usable = usable and (self.file.size is None or self.stored() <= self.file.size)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            usable = False
        if usable:
            return about
        self._drop()
        return {}

    def _fetch(self, url: str, bar: Progress) -> None:
        """Fill the part file from one URL until its checksum is right."""
        waits = iter(self.backoff)
        furthest, afresh = 0, False
        while True:
            known = self._known(url)
            start = self.stored()
            afresh = afresh or start == 0
            bar.start_from(start)
            try:
                if start == 0 or start != self.file.size:
                    self._stream(url, start, known, bar)
            except _AttemptFailed as lost:
                if self.stored() >= furthest + _PROGRESS_BYTES:
                    furthest, waits = self.stored(), iter(self.backoff)
                wait = next(waits, None)
                if wait is None:
                    raise _UrlRejected(str(lost)) from lost
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
                raise _UrlRejected(f"it is a different file, with {self.checksum.algorithm} {found}")
            # The beginning came from an earlier run or another mirror, and may be at fault.
            afresh = True

    def _stream(self, url: str, start: int, known: dict[str, Any], bar: Progress) -> None:
        headers = {"Accept-Encoding": "identity"}
        if self.file.authorization:
            headers["Authorization"] = self.file.authorization
        if start:
            headers["Range"] = f"bytes={start}-"
            if known.get("url") == url and known.get("validator"):
                headers["If-Range"] = known["validator"]
        try:
            with opened(url, headers, self.limits) as reply:
                if self._has_content(reply, start):
                    if reply.status == 206:
                        total = self._rest(reply, start, known, headers)
                    else:
                        total, start = self._begin_part(reply, url), 0
                        bar.start_from(0)
                    self._store(reply, start, total, bar)
        except Forbidden as error:
            raise _UrlRejected(str(error)) from error
        except requests.exceptions.SSLError as error:
            raise _UrlRejected(_root(error)) from error
        except Stalled as error:
            raise _AttemptFailed(str(error)) from error
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise _AttemptFailed(_root(error)) from error
        except requests.RequestException as error:
            raise _UrlRejected(_root(error)) from error

    def _has_content(self, reply: Reply, start: int) -> bool:
        """Check the status of a reply; False if nothing follows the part file, as its checksum will show."""
        if reply.status == 416 and start:
            if self.checksum:
                return False
            self._drop()
            raise _AttemptFailed(
                "the server has nothing after the partial file, and no checksum shows whether that is complete"
            )
        if reply.status == 206 and not start:
            raise _UrlRejected("it sends only a part of the file, although all of it was requested")
        if reply.status not in (200, 206):
            reason = f"HTTP {reply.status} {reply.reason}".strip()
            raise (_AttemptFailed if reply.status in _TRY_AGAIN else _UrlRejected)(reason)
        return True

    def _begin_part(self, reply: Reply, url: str) -> int | None:
        """Begin a new part file with the reply; returns the size of the file, None if it is unknown."""
        total = self._size(_length(reply))
        if total is None and self.checksum is None and "Transfer-Encoding" not in reply.headers:
            raise _UrlRejected("neither its size nor a checksum is known, so that a truncated file would go unnoticed")
        self._drop()
        about = {"url": url, "validator": _validator(reply), "total": total}
        if self.checksum:
            about[self.checksum.algorithm] = self.checksum.digest
        self.about.write_text(json.dumps(about), encoding="utf-8")
        return total

    def _rest(self, reply: Reply, start: int, known: dict[str, Any], headers: dict[str, str]) -> int | None:
        """Check that a partial reply continues the part file; returns the size of the whole file, None if unknown."""
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", reply.headers.get("Content-Range", ""))
        changed = "If-Range" in headers and _validator(reply) not in ("", headers["If-Range"])
        if span and not changed:
            first, last = int(span[1]), int(span[2])
            total = None if span[3] == "*" else int(span[3])
            fits = first == start and first <= last and _length(reply) in (None, last + 1 - first)
            fits = fits and (total is None or last < total) and not (total is None and self.checksum is None)
            if fits and known.get("total") in (None, total):
                return self._size(total)
        self._drop()
        raise _AttemptFailed("the file changed on the server, or the server's ranges are wrong")

    def _size(self, stated: int | None) -> int | None:
        """The size of the file; ``stated`` is the size by the server, None if it gives none."""
        if self.file.size is not None and stated not in (None, self.file.size):
            raise _UrlRejected(f"the server's file has {stated:,} bytes instead of {self.file.size:,}")
        if self.file.size is None and (stated or 0) > self.limits.size:
            raise _UrlRejected(f"the server's file has {stated:,} bytes, more than the limit of {self.limits.size:,}")
        return self.file.size if stated is None else stated

    def _store(self, reply: Reply, start: int, total: int | None, bar: Progress) -> None:
        bar.update(total=total, note="")
        maximum = self.limits.size if total is None else total
        done = start
        with self.part.open("ab") as file:
            for chunk in reply.chunks():
                done += len(chunk)
                if done > maximum:
                    self._drop()
                    kind = "allowed" if total is None else "expected"
                    raise _UrlRejected(f"the server sends more than the {kind} {maximum:,} bytes")
                file.write(chunk)
                bar.update(done=done)
        if total is not None and done < total:
            raise _AttemptFailed(f"the connection ended after {done:,} of {total:,} bytes")


def _length(reply: Reply) -> int | None:
    """The length of a reply's body, None if it does not state it."""
    text = reply.headers.get("Content-Length", "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _validator(reply: Reply) -> str:
    """A validator for If-Range: a strong ETag, or else the date; "" if the server gives neither."""
    etag = reply.headers.get("ETag", "")
    return etag if etag.startswith('"') else reply.headers.get("Last-Modified", "")


def _root(error: BaseException) -> str:
    """The root cause inside the errors of requests and urllib3: 'Connection refused'."""
    inner = (error.__cause__, getattr(error, "reason", None), *error.args)
    for wrapped in inner:
        if isinstance(wrapped, BaseException):
            return _root(wrapped)
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
