"""TLS of a cluster: the harness's own settings, and a check, before Ray connects, that both sides have the same."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

from harness.errors import ConfigError, os_words

_TIMEOUT_SECONDS = 5.0  # to connect, and for each answer
_PROTOCOL = "h2"  # gRPC's
_FILES = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY")
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"}
"""OpenSSL's names for an answer that is not TLS."""


def settings(protocol: int) -> ssl.SSLContext | None:
    """The TLS settings of the cluster, from the variables that Ray reads (None without TLS).

    Both sides need a certificate of its CA.

    Raises:
        OSError: a file is not named, cannot be read, or is not a certificate or key; the message names it.
    """
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    made = ssl.SSLContext(protocol)
    made.check_hostname = False  # nodes are identified by addresses, and the key shows which one this is
    made.verify_mode = ssl.CERT_REQUIRED
    ca, cert, key = (_file(name) for name in _FILES)
    try:
        doing = ca
        made.load_verify_locations(ca)
        doing = f"{cert} with {key}"
        made.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise OSError(f"{doing}: not a certificate with its key, or of a CA ({_words(error)})") from error
    return made


def _file(variable: str) -> str:
    """The file that a variable names; raises OSError if it is not set, or the file cannot be read."""
    if not (path := os.environ.get(variable, "")):
        raise OSError(f"{variable} is not set")
    with Path(path).open("rb"):
        return path


def check(host: str, port: int) -> None:
    """Compare this side's TLS settings with the head's: Ray itself would wait for minutes and not say why.

    Raises:
        ConfigError: only one side uses TLS, one does not accept the other's certificate, or a file cannot be read.
    """
    where = f"the cluster at {host}:{port}"
    try:
        own = settings(ssl.PROTOCOL_TLS_CLIENT)
    except OSError as error:
        raise ConfigError(f"TLS of the cluster, on this machine: {os_words(error)}") from error
    theirs = _uses_tls(host, port)
    if own is None and theirs:
        raise ConfigError(f"{where} uses TLS: set `tls` in the hosts file (docs/cluster.md).")
    if own is None or theirs is None:
        return
    if not theirs:
        raise ConfigError(
            f"{where} does not use TLS: remove `tls` from the hosts file, or stop the cluster with `harness cluster "
            "down` and start it again."
        )
    own.check_hostname = True  # as Ray does
    try:
        _tls_handshake(host, port, own)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{where} and this machine do not accept each other's TLS certificates ({_words(error)}): `tls` in the "
            "hosts file must name on each machine a valid certificate of the same CA, with its address in "
            "subjectAltName."
        ) from error
    except OSError:
        return  # Ray reports it


def _uses_tls(host: str, port: int) -> bool | None:
    """Whether the head uses TLS; None if its answer does not show it."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        _tls_handshake(host, port, anyone)
    except ssl.SSLError as error:
        reason = error.reason or ""
        return True if "ALERT" in reason else False if reason in _NO_TLS else None  # an alert: it wants a certificate
    except OSError:
        return None
    return True


def _tls_handshake(host: str, port: int, context: ssl.SSLContext) -> None:
    """Connect, and wait for the first byte: in TLS 1.3, a refused certificate shows only then."""
    context.set_alpn_protocols([_PROTOCOL])
    with (
        socket.create_connection((host, port), _TIMEOUT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as found,
    ):
        found.recv(1)


def _words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "unknown format").lower().replace("_", " ")
