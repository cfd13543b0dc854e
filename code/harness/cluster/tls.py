"""TLS of a cluster: the harness's own settings, and a check that both sides have the same before Ray connects."""

from __future__ import annotations

import os
import socket
import ssl

from harness.errors import ConfigError, os_words

_TIMEOUT = 5.0  # seconds to connect, and for each answer
_PROTOCOL = "h2"  # gRPC's


def settings(protocol: int) -> ssl.SSLContext | None:
    """The TLS settings of the cluster, from the variables that Ray reads (None without TLS).

    Both sides need a certificate of its CA.

    Raises:
        OSError: a file cannot be read, or is not a certificate or key.
    """
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    made = ssl.SSLContext(protocol)
    made.check_hostname = False  # nodes are known by addresses, and the key shows which one this is
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(os.environ["RAY_TLS_CA_CERT"])
    made.load_cert_chain(os.environ["RAY_TLS_SERVER_CERT"], os.environ["RAY_TLS_SERVER_KEY"])
    return made


def check(host: str, port: int) -> None:
    """Compare this side's TLS settings with those of the head: Ray would wait for minutes, and not say why.

    Raises:
        ConfigError: only one side uses TLS, one does not accept the other's certificate, or a file cannot be read.
    """
    where = f"the cluster at {host}:{port}"
    try:
        own = settings(ssl.PROTOCOL_TLS_CLIENT)
    except OSError as error:
        raise ConfigError(f"`tls`, the certificate and key of this machine: {_words(error)}") from error
    theirs = _uses_tls(host, port)
    if own is None and theirs:
        raise ConfigError(f"{where} uses TLS: set `tls` in the hosts file (docs/cluster.md).")
    if own is None or theirs is None:
        return
    if not theirs:
        raise ConfigError(
            f"{where} does not use TLS: remove `tls` from the hosts file, or end the cluster with `harness cluster "
            "down` and start it again."
        )
    try:
        _shake_hands(host, port, own)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{where} and this machine do not accept each other's TLS certificates ({_words(error)[:-1]}): `tls` in "
            "the hosts file must name files of the same CA on all machines."
        ) from error
    except OSError:
        return  # Ray reports it


def _uses_tls(host: str, port: int) -> bool | None:
    """Whether the head speaks TLS; None if it does not answer."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        _shake_hands(host, port, anyone)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # the head asks for a certificate in TLS; otherwise it is no TLS
    except OSError:
        return None
    return True


def _shake_hands(host: str, port: int, context: ssl.SSLContext) -> None:
    """Connect, and wait for the first byte: in TLS 1.3 a refused certificate shows only then."""
    context.set_alpn_protocols([_PROTOCOL])
    with (
        socket.create_connection((host, port), _TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=host) as found,
    ):
        found.recv(1)


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{(error.reason or 'no TLS').lower().replace('_', ' ')}."
    return os_words(error)
