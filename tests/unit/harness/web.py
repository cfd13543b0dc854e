"""A web server that misbehaves as a test demands."""

from __future__ import annotations

import contextlib
import random
import re
import socketserver
import threading
import time
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = random.Random(1).randbytes(700_001)


class Site(ThreadingHTTPServer):
    """A web server that misbehaves as its attributes say; `log` and `paths` record each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/model.onnx"
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.ranges = self.minds_if_range = self.says_length = self.says_total = True
        self.shift = 0
        self.statuses: list[int] = []
        self.cuts: list[int] = []
        self.versions: list[tuple[bytes, str]] = []
        self.extra: dict[str, str] = {}
        self.endless = False
        self.pause = 0.0
        self.log: list[Message] = []
        self.paths: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is part of the tests


class Handler(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site = self.server
        site.log.append(self.headers)
        site.paths.append(self.path)
        time.sleep(site.pause)
        if site.versions:
            site.content, site.etag = site.versions.pop(0)
        status = site.statuses.pop(0) if site.statuses else 200
        if status != 200:
            self.send_response(status)
            for name, value in site.extra.items():
                self.send_header(name, value)
            self.end_headers()
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, site.etag) or not site.minds_if_range
        start = int(wanted[1]) if wanted and site.ranges and same else 0
        size = len(site.content)
        if start >= size:
            self.send_response(416)
            self.end_headers()
            return
        body = site.content[start + (site.shift if start else 0) :]
        self.send_response(206 if start else 200)
        if start:
            total = size if site.says_total else "*"
            self.send_header("Content-Range", f"bytes {start + site.shift}-{size - 1}/{total}")
        if site.says_length:
            self.send_header("Content-Length", str(len(body)))
        if site.etag:
            self.send_header("ETag", site.etag)
        for name, value in site.extra.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)
        while site.endless:
            self.wfile.write(body)


@contextlib.contextmanager
def saying(*first: bytes, then: bytes = b"", pause: float = 0.0) -> Iterator[str]:
    """The URL of a server that answers each request with ``first``, and then repeats ``then`` for as long as it can."""

    class Speaker(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            with contextlib.suppress(OSError):
                self.request.sendall(b"".join(first))
                while then and not stopped.wait(pause):
                    self.request.sendall(then)

    stopped = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Speaker) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/model.onnx"
        finally:
            stopped.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.endless = False
        site.shutdown()
        thread.join()
        site.server_close()
