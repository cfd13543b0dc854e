from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import io
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from web import CONTENT, Site, saying, serving

from harness.errors import ConfigError, Interrupted, RunFailed
from harness.files import download as module
from harness.files.digest import sha256_of
from harness.files.download import RemoteFile, download
from harness.files.transfer import TransferLimits
from harness.terminal.progress import Progress

OTHER = random.Random(2).randbytes(700_001)
SHA = hashlib.sha256(CONTENT).hexdigest()
NO_WAIT = (0.0, 0.0, 0.0)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as made:
        yield made


@pytest.fixture
def mirror() -> Iterator[Site]:
    with serving() as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models" / "model.onnx"


def get(urls: list[str] | str, path: Path, **settings) -> Path:
    known = {name: settings.pop(name) for name in ("sha256", "md5", "size", "authorization") if name in settings}
    file = RemoteFile([urls] if isinstance(urls, str) else urls, **{"sha256": SHA, **known})
    return download(file, path, **{"limits": TransferLimits(idle=5.0), "backoff": NO_WAIT, **settings})


def leave_part(path: Path, content: bytes, url: str, validator: str = '"one"', sha256: str = SHA) -> None:
    path.parent.mkdir(parents=True)
    path.with_name("model.onnx.part").write_bytes(content)
    about = {"url": url, "sha256": sha256, "validator": validator}
    path.with_name("model.onnx.part.json").write_text(json.dumps(about))


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def ranges(site: Site) -> list[str | None]:
    return [headers["Range"] for headers in site.log]


def test_a_file_arrives_and_nothing_else_is_left(site: Site, path: Path) -> None:
    assert get(site.url, path, size=len(CONTENT), sha256=SHA.upper()) == path
    assert path.read_bytes() == CONTENT
    assert names(path) == ["model.onnx"]
    assert sha256_of(path) == SHA


def test_a_right_file_is_not_asked_for_again(site: Site, path: Path) -> None:
    get(site.url, path)
    get(site.url, path)
    assert len(site.log) == 1


def test_another_file_is_never_overwritten(site: Site, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"model\.onnx exists but is a different file .*delete it or move it"):
        get(site.url, path)
    assert path.read_bytes() == b"mine"
    assert not site.log


def test_a_folder_in_the_place_is_named(site: Site, path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(ConfigError, match="not a regular file"):
        get(site.url, path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "host/x", "http:///x", ""])
def test_only_http_is_allowed_even_as_a_mirror(site: Site, path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="only http"):
        get([site.url, url], path)
    assert not site.log


@pytest.mark.parametrize("sha256", ["", "abc", SHA[:-1], SHA + "0", "g" * 64, SHA + "\n"])
def test_a_wrong_sha256_argument_is_a_value_error(path: Path, sha256: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal"):
        get("http://127.0.0.1:1/x", path, sha256=sha256)


def test_no_url_is_a_value_error(path: Path) -> None:
    with pytest.raises(ValueError, match="no URL"):
        get([], path)


@pytest.mark.parametrize("says_length", [True, False])
def test_lost_connections_are_resumed(site: Site, path: Path, says_length: bool) -> None:
    site.cuts, site.says_length = [200_000, 300_000], says_length
    get(site.url, path, size=len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=200000-", "bytes=500000-"]
    assert [headers["If-Range"] for headers in site.log] == [None, '"one"', '"one"']


def test_a_weak_etag_is_not_used_for_resuming(site: Site, path: Path) -> None:
    site.etag, site.cuts = 'W/"one"', [200_000]
    site.extra = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    site.minds_if_range = False
    get(site.url, path)
    assert site.log[1]["If-Range"] == "Wed, 21 Oct 2015 07:28:00 GMT"
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(site: Site, path: Path) -> None:
    site.ranges, site.cuts = False, [200_000]
    get(site.url, path)
    assert path.read_bytes() == CONTENT


def test_retries_end_when_nothing_is_gained(site: Site, path: Path) -> None:
    site.content = CONTENT * 10
    site.ranges, site.cuts = False, [3_000_000, 2_000_000] * 5
    with pytest.raises(RunFailed, match=re.escape(site.url)):
        get(site.url, path)
    assert len(site.log) == 1 + len(NO_WAIT)


def test_retries_do_not_run_out_while_the_file_grows(site: Site, path: Path) -> None:
    site.content = CONTENT * 10
    site.cuts = [1_100_000] * 10
    sha256 = hashlib.sha256(site.content).hexdigest()
    get(site.url, path, sha256=sha256, backoff=(0.0,))
    assert path.read_bytes() == site.content


def test_waits_grow_between_retries(site: Site, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    site.statuses = [500, 503, 429]
    get(site.url, path, backoff=(1.0, 2.0, 4.0))
    assert waits == [1.0, 2.0, 4.0]


def test_a_file_changed_on_the_server_is_not_glued_together(site: Site, path: Path) -> None:
    leave_part(path, OTHER[:300_000], site.url, '"old"')
    get(site.url, path)
    assert path.read_bytes() == CONTENT
    assert site.log[0]["If-Range"] == '"old"'
    assert len(site.log) == 1


def test_a_changed_etag_is_noticed_where_if_range_is_ignored(site: Site, path: Path) -> None:
    leave_part(path, OTHER[:300_000], site.url, '"old"')
    site.minds_if_range = False
    get(site.url, path)
    assert path.read_bytes() == CONTENT
    assert ranges(site) == ["bytes=300000-", None]


@pytest.mark.parametrize("minds", [True, False])
def test_a_file_may_change_between_two_attempts(site: Site, path: Path, minds: bool) -> None:
    site.versions, site.cuts = [(OTHER, '"old"'), (CONTENT, '"new"')], [300_000]
    site.minds_if_range = minds
    get(site.url, path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_beginning_is_thrown_away_once(site: Site, path: Path) -> None:
    leave_part(path, OTHER[:300_000], site.url, "")
    site.etag = None
    get(site.url, path)
    assert path.read_bytes() == CONTENT
    assert ranges(site) == ["bytes=300000-", None]


def test_a_wrong_range_is_not_stored(site: Site, path: Path) -> None:
    leave_part(path, CONTENT[:300_000], site.url)
    site.shift = 1
    get(site.url, path)
    assert path.read_bytes() == CONTENT
    assert ranges(site) == ["bytes=300000-", None]


def test_a_part_of_another_file_is_not_continued(site: Site, path: Path) -> None:
    leave_part(path, CONTENT[:300_000], site.url, sha256="0" * 64)
    get(site.url, path)
    assert ranges(site) == [None]


def test_a_part_of_unknown_origin_is_not_continued(site: Site, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("model.onnx.part").write_bytes(OTHER[:300_000])
    get(site.url, path)
    assert ranges(site) == [None]


@pytest.mark.parametrize("about", ["", "[]", "{}", "\xff", '{"sha256": 1}'])
def test_unreadable_notes_about_a_part_do_no_harm(site: Site, path: Path, about: str) -> None:
    leave_part(path, CONTENT[:300_000], site.url)
    path.with_name("model.onnx.part.json").write_text(about, encoding="latin-1")
    get(site.url, path)
    assert names(path) == ["model.onnx"]


def test_a_complete_part_of_known_size_needs_no_server(path: Path) -> None:
    leave_part(path, CONTENT, "http://127.0.0.1:1/x")
    get("http://127.0.0.1:1/x", path, size=len(CONTENT))
    assert path.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_not_continued(site: Site, path: Path) -> None:
    leave_part(path, CONTENT + b"x", site.url)
    get(site.url, path, size=len(CONTENT))
    assert ranges(site) == [None]


def test_416_for_a_complete_part(site: Site, path: Path) -> None:
    leave_part(path, CONTENT, site.url)
    get(site.url, path)
    assert ranges(site) == [f"bytes={len(CONTENT)}-"]
    assert path.read_bytes() == CONTENT


def test_416_for_a_part_that_is_too_long(site: Site, path: Path) -> None:
    leave_part(path, CONTENT + b"x", site.url)
    get(site.url, path)
    assert ranges(site) == [f"bytes={len(CONTENT) + 1}-", None]
    assert path.read_bytes() == CONTENT


def test_a_mirror_continues_what_the_first_url_began(site: Site, mirror: Site, path: Path) -> None:
    site.cuts, mirror.etag = [200_000], '"of the mirror"'
    site.statuses = [200, 404]
    get([site.url, mirror.url], path)
    assert path.read_bytes() == CONTENT
    assert ranges(mirror) == ["bytes=200000-"]
    assert mirror.log[0]["If-Range"] is None  # an ETag means nothing on another server


def test_404_is_not_retried_and_the_mirror_is_used(site: Site, mirror: Site, path: Path) -> None:
    site.statuses = [404]
    get([site.url, mirror.url], path)
    assert (len(site.log), len(mirror.log)) == (1, 1)


def test_wrong_content_everywhere_is_one_clear_sentence(site: Site, mirror: Site, path: Path) -> None:
    site.content, mirror.statuses = OTHER, [404]
    with pytest.raises(RunFailed) as caught:
        get([site.url, mirror.url], path)
    message = str(caught.value)
    assert f"{site.url}: it is a different file, with sha256 {hashlib.sha256(OTHER).hexdigest()}" in message
    assert f"{mirror.url}: HTTP 404 Not Found" in message
    assert f"download it by hand to {path} (sha256 {SHA})" in message
    assert names(path) == []
    assert len(site.log) == 1


def test_a_refused_connection_is_reported_in_plain_words(path: Path) -> None:
    with pytest.raises(RunFailed, match=r"/x: Connection refused\)"):
        get("http://127.0.0.1:1/x", path)


def test_a_silent_server_times_out(site: Site, path: Path) -> None:
    site.pause = 0.5
    with pytest.raises(RunFailed, match="timed out"):
        get(site.url, path, limits=TransferLimits(idle=0.1), backoff=())


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
STRICT = TransferLimits(idle=5.0, headers=0.2, slowest=100_000, window=0.2, size=1_000_000)


@pytest.mark.parametrize("known", [{}, {"sha256": None}])
@pytest.mark.parametrize(
    ("first", "then", "pause", "reason"),
    [
        (OK, b"X-More: 1\r\n", 0.02, "no complete answer within 0 s"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, "no complete answer within 0 s"),
        (OK + b"Content-Length: 700001\r\n\r\n", b"x", 0.02, r"slower than 97\.7 KiB/s for 0 s"),
        (CHUNKED, b"1\r\nx\r\n", 0.02, r"slower than 97\.7 KiB/s for 0 s"),
        (CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n", 0.0, "sends more than the allowed 1,000,000 bytes"),
        (CHUNKED + b"1;", b"x" * 100_000, 0.0, "chunk size line exceeded"),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X-More: 1\r\n" * 10_000, 0.0, "megabytes without content"),
        (OK + b"Content-Length: 9000000\r\n\r\n", b"", 0.0, "9,000,000 bytes, more than the limit of 1,000,000"),
        (
            b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-0/1\r\nContent-Length: 1\r\n\r\nx",
            b"",
            0.0,
            "although all of it was requested",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", b"x" * 100_000, 0.0, "megabytes without content"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: /x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            b"",
            0.0,
            "redirects more than 10 times",
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", b"x" * 100_000, 0.0, "HTTP 404 Not Found"),
    ],
)
def test_a_server_cannot_go_on_for_ever(
    path: Path, first: bytes, then: bytes, pause: float, reason: str, known: dict[str, None]
) -> None:
    with saying(first, then=then, pause=pause) as url, pytest.raises(RunFailed, match=reason):
        get(url, path, limits=STRICT, backoff=(), **known)
    assert not path.exists()


def test_a_body_ends_at_its_stated_length(path: Path) -> None:
    with saying(OK + b"Content-Length: 700001\r\n\r\n", CONTENT, then=b"x" * 100_000) as url:
        get(url, path, sha256=None)
    assert path.read_bytes() == CONTENT


def test_a_steady_slow_server_delivers(path: Path) -> None:
    with saying(OK + b"Content-Length: 200000\r\n\r\n", then=b"x" * 10_000, pause=0.02) as url:
        get(url, path, sha256=None, limits=STRICT)
    assert path.stat().st_size == 200_000


@pytest.mark.parametrize("known", [{}, {"sha256": None}])
@pytest.mark.parametrize(
    "span",
    [
        "300000-700000/700002",
        "300001-700000/700001",
        "0-700000/700001",
        "300000-700001/700001",
        "300000-400000/400001",
        "x",
    ],
)
def test_a_lying_partial_reply_is_not_stored(site: Site, path: Path, span: str, known: dict[str, None]) -> None:
    rest = CONTENT[300_000:]
    start = f"HTTP/1.1 206 Partial\r\nContent-Range: bytes {span}\r\nContent-Length: {len(rest)}\r\n\r\n"
    with saying(start.encode(), rest) as url:
        leave_part(path, CONTENT[:300_000], url)
        about = path.with_name("model.onnx.part.json")
        about.write_text(json.dumps({**json.loads(about.read_text()), "total": len(CONTENT)}))
        with pytest.raises(RunFailed, match="the server's ranges are wrong"):
            get(url, path, backoff=(), **known)
    assert names(path) == []


def test_without_a_checksum_a_part_needs_the_size_of_the_file(site: Site, path: Path) -> None:
    leave_part(path, CONTENT[:300_000], site.url)
    site.says_total = False
    get(site.url, path, sha256=None)
    assert (ranges(site), path.read_bytes()) == (["bytes=300000-", None], CONTENT)


@pytest.mark.parametrize("known", [{}, {"sha256": None}])
def test_a_redirect_from_https_to_http_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, None]
) -> None:
    asked = []

    def send(self: object, request: requests.PreparedRequest, **_: object) -> requests.Response:
        asked.append(request.url)
        reply = requests.Response()
        reply.status_code, reply.url, reply.raw = 302, request.url, io.BytesIO()
        reply.request = request
        reply.headers["Location"] = "http://127.0.0.1:1/model.onnx"
        return reply

    monkeypatch.setattr("harness.files.transfer._Adapter.send", send)
    with pytest.raises(RunFailed, match=r"it redirects from https:// to http://127\.0\.0\.1:1/model\.onnx, where"):
        get("https://127.0.0.1:1/model.onnx", path, **known)
    assert asked == ["https://127.0.0.1:1/model.onnx"]


def test_a_redirect_is_followed(site: Site, mirror: Site, path: Path) -> None:
    site.statuses, site.extra = [302], {"Location": mirror.url}
    get(site.url, path)
    assert path.read_bytes() == CONTENT


def test_a_redirect_to_a_local_file_is_refused(site: Site, path: Path) -> None:
    site.statuses, site.extra = [302], {"Location": "file:///etc/passwd"}
    with pytest.raises(RunFailed, match="file:///etc/passwd"):
        get(site.url, path)
    assert len(site.log) == 1


@pytest.mark.parametrize("place", ["http://[login/", "http://x/\u00ff"])
def test_a_redirect_that_cannot_be_read_is_one_sentence_and_the_next_source_is_tried(
    site: Site, path: Path, place: str
) -> None:
    site.statuses, site.extra = [302], {"Location": place}
    with pytest.raises(RunFailed, match="the one that it redirects to, cannot be read"):
        get(site.url, path)


def test_an_endless_body_is_stopped(site: Site, path: Path) -> None:
    site.says_length, site.endless = False, True
    with pytest.raises(RunFailed, match="more than the expected 700,001 bytes"):
        get(site.url, path, size=len(CONTENT))
    assert names(path) == []


@pytest.mark.parametrize("part", [b"", CONTENT[:300_000]])
def test_a_wrong_size_is_seen_before_the_body(site: Site, path: Path, part: bytes) -> None:
    leave_part(path, part, site.url)
    with pytest.raises(RunFailed, match="has 700,001 bytes instead of 700,002"):
        get(site.url, path, size=len(CONTENT) + 1)
    assert (len(site.log), path.with_name("model.onnx.part").read_bytes()) == (1, part)


def test_content_encoding_does_not_disturb(site: Site, path: Path) -> None:
    site.content = gzip.compress(CONTENT)
    site.extra, site.cuts = {"Content-Encoding": "gzip"}, [200_000]
    get(site.url, path, sha256=hashlib.sha256(site.content).hexdigest(), size=len(site.content))
    assert path.read_bytes() == site.content
    assert site.log[0]["Accept-Encoding"] == "identity"


def test_an_interruption_keeps_the_part(site: Site, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Progress, *, done: float = 0, **_: object) -> None:
        if done > 300_000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupt)
        with pytest.raises(Interrupted, match=r"kept in .*model\.onnx\.part, and the same command resumes"):
            get(site.url, path)
    assert names(path) == ["model.onnx.part", "model.onnx.part.json"]
    get(site.url, path)
    start = int(site.log[1]["Range"].removeprefix("bytes=").removesuffix("-"))
    assert start > 300_000
    assert path.read_bytes() == CONTENT


def test_a_full_disk_keeps_the_part(site: Site, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Progress, *, done: float = 0, **_: object) -> None:
        if done > 300_000:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Progress, "update", fail)
    with pytest.raises(RunFailed, match=r"the disk is full, .* the download resumes from the \d+\.\d KiB in"):
        get(site.url, path)
    assert names(path) == ["model.onnx.part", "model.onnx.part.json"]
    assert len(site.log) == 1


def test_a_folder_that_cannot_be_made_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"")
    with pytest.raises(RunFailed, match=r"cannot download to .*models/model\.onnx"):
        get(site.url, tmp_path / "models" / "model.onnx")


def test_two_at_once_download_it_once(site: Site, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.pause = 0.3
    failures: list[BaseException] = []

    def work() -> None:
        try:
            get(site.url, path)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(site.log) == 1
    assert names(path) == ["model.onnx"]
    said = " ".join(capsys.readouterr().err.split())
    assert f"model.onnx (process {os.getpid()}): waiting until it ends" in said


def test_a_lock_file_that_its_holder_removed_locks_nothing(site: Site, path: Path) -> None:
    path.parent.mkdir()
    lock = path.with_name("model.onnx.lock")
    thread = threading.Thread(target=get, args=(site.url, path))
    with lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        thread.start()
        time.sleep(0.1)
        lock.unlink()
        with lock.open("w") as second:
            fcntl.flock(second, fcntl.LOCK_EX)
            fcntl.flock(first, fcntl.LOCK_UN)
            thread.join(0.2)
            assert not site.log
    thread.join()
    assert path.read_bytes() == CONTENT


def test_the_file_is_synced_before_it_gets_its_name(site: Site, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(module.os, "fsync", lambda number: synced.append(path.exists()))
    get(site.url, path)
    assert synced == [False]


def test_progress_starts_from_what_was_there(site: Site, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    monkeypatch.setattr(Progress, "start_from", lambda self, done: calls.append(done))
    leave_part(path, CONTENT[:300_000], site.url)
    get(site.url, path)
    assert calls == [300_000]


def test_an_md5_is_checked_where_no_sha256_is_known(site: Site, path: Path) -> None:
    get(site.url, path, sha256=None, md5=hashlib.md5(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT
    with pytest.raises(ConfigError, match=r"is a different file \(md5 [0-9a-f]{32}, expected 0{32}\)"):
        get(site.url, path, sha256=None, md5="0" * 32)


def test_a_wrong_md5_leaves_nothing_and_says_the_callers_cure(site: Site, path: Path) -> None:
    with pytest.raises(RunFailed, match=r"it is a different file, with md5 [0-9a-f]{32}\): rerun later, or sing\."):
        get(site.url, path, sha256=None, md5="0" * 32, cure="sing")
    assert names(path) == []


def test_without_a_checksum_a_part_goes_on_only_where_the_server_vouches_for_it(site: Site, path: Path) -> None:
    leave_part(path, CONTENT[:300_000], site.url)
    get(site.url, path, sha256=None)
    assert (ranges(site), path.read_bytes()) == (["bytes=300000-"], CONTENT)
    path.unlink()
    for url, validator in ((f"{site.url}?other", '"one"'), (site.url, "")):
        path.with_name("model.onnx.part").write_bytes(OTHER[:300_000])
        path.with_name("model.onnx.part.json").write_text(json.dumps({"url": url, "validator": validator}))
        get(site.url, path, sha256=None)
        assert (ranges(site)[-1], path.read_bytes()) == (None, CONTENT)
        path.unlink()


def test_without_a_checksum_a_truncated_body_is_not_stored(site: Site, path: Path) -> None:
    site.cuts = [200_000, 400_000]
    get(site.url, path, sha256=None)
    assert path.read_bytes() == CONTENT
    path.unlink()
    site.says_length = False
    with pytest.raises(RunFailed, match="neither its size nor a checksum is known"):
        get(site.url, path, sha256=None)
    assert not path.exists()


def test_without_a_checksum_a_complete_part_is_fetched_again(site: Site, path: Path) -> None:
    leave_part(path, CONTENT, site.url)
    get(site.url, path, sha256=None)
    assert ranges(site) == [f"bytes={len(CONTENT)}-", None]
    assert path.read_bytes() == CONTENT
