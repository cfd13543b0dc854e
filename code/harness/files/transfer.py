"""One HTTP request with limits: no server can stall a download forever, or fill the memory.

The timeout of `requests` restarts with every byte, so that an occasional byte keeps a request alive. `requests` also
reads the whole body of a redirect, and follows redirects from https to http. Here all of that is limited or refused.
"""

import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from harness.terminal import console

_CHUNK_BYTES = 64 * 1024
_MAX_REDIRECTS = 10
_MAX_OVERHEAD_BYTES = 8 * 2**20  # other than content that a server may send in a row: headers, chunk lengths, trailers


@dataclass(frozen=True)
class TransferLimits:
    """Limits on a transfer; a slower or larger one is abandoned."""

    idle: float = 30.0
    """Seconds without a byte."""
    headers: float = 60.0
    """Seconds until the headers are complete."""
    slowest: float = 10 * 1024
    """Bytes per second, on average over a window."""
    window: float = 60.0
    """Seconds."""
    size: int = 16 * 2**30
    """Bytes of a file whose size is not known beforehand: more than any model or data set here."""


class Stalled(Exception):
    """The server is too slow, or sends no content; another attempt may do better."""


class Forbidden(Exception):
    """The server redirects to an address that is not allowed."""


class Reply:
    """The headers of a response, and its body."""

    def __init__(self, response: requests.Response, adapter: "_Adapter") -> None:
        self.status = response.status_code
        self.reason = response.reason
        self.headers = response.headers
        self._response = response
        self._adapter = adapter

    def chunks(self) -> Iterator[bytes]:
        """The body as it is stored on the server: offsets, lengths and checksums refer to that.

        Raises:
            Stalled: it came too slowly.
            urllib3.exceptions.HTTPError: the connection was lost.
        """
        for chunk in self._response.raw.stream(_CHUNK_BYTES, decode_content=False):
            self._adapter.wire.content(len(chunk))
            yield chunk


@contextmanager
def opened(url: str, headers: dict[str, str], limits: TransferLimits) -> Iterator[Reply]:
    """Request a URL, and follow its redirects; another server does not get the header Authorization.

    Raises:
        Forbidden: it redirects from https to http, to another protocol, or too often, or an address cannot be read.
        Stalled: the server took too long.
        requests.RequestException: the request failed.
    """
    with requests.Session() as session:
        adapter = _Adapter(limits)
        for protocol in ("http://", "https://"):
            session.mount(protocol, adapter)
        for _ in range(_MAX_REDIRECTS + 1):
            with _get(session, url, headers, limits) as response:
                place = session.get_redirect_target(response)
                if not place:
                    yield Reply(response, adapter)
                    return
            target = _redirected(url, urljoin(url, place))
            if _server(target) != _server(url):
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
            url = target
        raise Forbidden(f"it redirects more than {_MAX_REDIRECTS} times")


def _get(session: requests.Session, url: str, headers: dict[str, str], limits: TransferLimits) -> requests.Response:
    """The response of a server, whose redirects are not followed."""
    try:
        return session.get(url, headers=headers, stream=True, timeout=limits.idle, allow_redirects=False)
    except requests.RequestException:
        raise
    except ValueError as error:  # `requests` reads the address of a redirect even if it does not follow it
        raise Forbidden(f"the address, or the one that it redirects to, cannot be read ({error})") from error


def _redirected(old: str, new: str) -> str:
    protocols = urlsplit(old).scheme.lower(), urlsplit(new).scheme.lower()
    if protocols[1] not in ("http", "https"):
        raise Forbidden(f"it redirects to {new}, and only http:// and https:// are allowed")
    if protocols == ("https", "http"):
        raise Forbidden(f"it redirects from https:// to {new}, where the file could be changed on its way")
    return new


def _server(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()


class _Adapter(HTTPAdapter):
    """Lets requests read every response through a `_Wire`."""

    def __init__(self, limits: TransferLimits) -> None:
        self._limits = limits
        self.wire: _Wire
        super().__init__()

    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        super().init_poolmanager(*args, **settings)
        self.poolmanager.pool_classes_by_scheme = self._pools()

    def proxy_manager_for(self, proxy: str, **settings: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **settings)
        if not proxy.lower().startswith("socks"):  # which has connections of its own
            manager.pool_classes_by_scheme = self._pools()
        return manager

    def _pools(self) -> dict[str, type[HTTPConnectionPool]]:
        adapter = self

        class Plain(HTTPConnection):
            response_class = adapter._response  # type: ignore[assignment]  # it is only called

        class Secure(HTTPSConnection):
            response_class = adapter._response  # type: ignore[assignment]  # it is only called

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        return {"http": PlainPool, "https": SecurePool}

    def _response(self, sock: socket.socket, *args: Any, **settings: Any) -> HTTPResponse:
        response = _Response(sock, *args, **settings)
        self.wire = response.through(_Wire(sock, self._limits))
        return response


class _Response(HTTPResponse):
    def through(self, wire: "_Wire") -> "_Wire":
        """Read the rest of the response through ``wire``."""
        wire.raw = self.fp.detach()
        self.fp = io.BufferedReader(wire)
        self._wire = wire
        return wire

    def begin(self) -> None:
        super().begin()
        self._wire.headers_end()


class _Wire(io.RawIOBase):
    """The bytes of one response as they arrive."""

    raw: io.RawIOBase

    def __init__(self, sock: socket.socket, limits: TransferLimits) -> None:
        self._sock = sock
        self._limits = limits
        self._deadline: float | None = time.monotonic() + limits.headers
        self._waited, self._content, self._overhead = 0.0, 0, 0

    def content(self, size: int) -> None:
        """Count ``size`` bytes of content; only these count for the rate."""
        self._content += size
        self._overhead = 0

    def headers_end(self) -> None:
        """From here on the minimum rate applies, instead of the deadline."""
        self._deadline = None
        self._waited = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        limits, begin = self._limits, time.monotonic()
        left = limits.idle if self._deadline is None else min(limits.idle, self._deadline - begin)
        if left <= 0:
            raise Stalled(f"no complete answer within {console.duration(limits.headers)}")
        self._sock.settimeout(left)
        try:
            count = self.raw.readinto(buffer)
        except TimeoutError as error:
            if self._deadline is not None and left < limits.idle:
                raise Stalled(f"no complete answer within {console.duration(limits.headers)}") from error
            raise Stalled(f"timed out: no data for {console.duration(limits.idle)}") from error
        self._count(count or 0, time.monotonic() - begin)
        return count

    def _count(self, received: int, waited: float) -> None:
        limits = self._limits
        self._overhead += received
        if self._overhead > _MAX_OVERHEAD_BYTES:
            raise Stalled("the server sends megabytes without content")
        # Only time spent waiting counts: a slow disk is not the server's fault.
        self._waited += waited
        if self._deadline is None and self._waited >= limits.window:
            if self._content < limits.slowest * self._waited:
                rate = console.quantity(int(limits.slowest), "B")
                raise Stalled(f"slower than {rate}/s for {console.duration(limits.window)}")
            self._waited, self._content = 0.0, 0

    def close(self) -> None:
        if not self.closed:
            self.raw.close()
        super().close()
