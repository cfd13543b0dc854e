"""The driver's check of TLS before Ray connects, against servers that speak it or not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest
from certificates import certificate_in

from harness.errors import ConfigError
from harness.machines import tls

HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return certificate_in(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return certificate_in(tmp_path_factory.mktemp("others"))


@pytest.fixture
def here(monkeypatch):
    """Sets this side's variables."""
    monkeypatch.delenv("RAY_USE_TLS", raising=False)

    def set_to(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return set_to


@pytest.fixture
def head():
    """Starts a server that speaks first, as gRPC's does: with the TLS files of a side, in a version, or without TLS."""
    with contextlib.ExitStack() as stack:

        def start(files=None, newest=ssl.TLSVersion.TLSv1_3):
            context = None
            if files:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(files["RAY_TLS_SERVER_CERT"], files["RAY_TLS_SERVER_KEY"])
                context.load_verify_locations(files["RAY_TLS_CA_CERT"])
                context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, newest
            listening = stack.enter_context(socket.create_server((HERE, 0)))
            threading.Thread(target=serve, args=(listening, context), daemon=True).start()
            return listening.getsockname()[1]

        yield start


def serve(listening, context):
    while True:
        try:
            found, _ = listening.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), found:
            found.settimeout(2.0)
            if context:
                found = context.wrap_socket(found, server_side=True)
            found.sendall(b"\0\0\x12\4\0\0\0\0\0" + b"\0" * 18)  # the frame with which HTTP/2 begins
            found.recv(1024)
            found.close()


VERSIONS = pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
def test_both_sides_with_certificates_of_one_ca_are_right(ours, here, head, newest):
    here(ours)
    port = head(ours, newest)
    assert tls._uses_tls(HERE, port) is True
    tls.check(HERE, port)


def test_both_sides_without_tls_are_right(here, head):
    port = head()
    assert tls._uses_tls(HERE, port) is False
    tls.check(HERE, port)


def test_a_head_that_hangs_up_is_left_to_ray(ours, here):
    here(ours)
    with socket.create_server((HERE, 0)) as listening:
        threading.Thread(target=lambda: [listening.accept()[0].close() for _ in range(2)], daemon=True).start()
        tls.check(HERE, listening.getsockname()[1])


@VERSIONS
def test_a_head_with_tls_is_not_joined_without(ours, here, head, newest):
    with pytest.raises(ConfigError, match=r"uses TLS: set `tls` in the hosts file"):
        tls.check(HERE, head(ours, newest))


def test_a_head_without_tls_is_not_joined_with_it(ours, here, head):
    here(ours)
    with pytest.raises(ConfigError, match=r"does not use TLS: remove `tls` from the hosts file"):
        tls.check(HERE, head())


def test_a_certificate_for_another_address_is_named_as_ray_would_wait(here, head, tmp_path):
    files = certificate_in(tmp_path, "IP:192.0.2.1")
    here(files)
    with pytest.raises(ConfigError, match=r"IP address mismatch.*with its address in subjectAltName"):
        tls.check(HERE, head(files))


@VERSIONS
@pytest.mark.parametrize("foreign", ["RAY_TLS_CA_CERT", "both certificate and key"])
def test_certificates_of_another_ca_are_named(ours, others, here, head, newest, foreign):
    names = ("RAY_TLS_CA_CERT",) if foreign == "RAY_TLS_CA_CERT" else ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY")
    here({**ours, **{name: others[name] for name in names}})
    with pytest.raises(ConfigError, match=r"do not accept each other's TLS certificates .*same CA"):
        tls.check(HERE, head(ours, newest))


def test_a_file_that_is_absent_or_wrong_is_an_error_of_this_machine(ours, here, tmp_path):
    here({**ours, "RAY_TLS_SERVER_CERT": tmp_path / "absent.pem"})
    with pytest.raises(ConfigError, match=r"on this machine: [Nn]o such file.*absent\.pem"):
        tls.check(HERE, 1)
    (tmp_path / "text.pem").write_text("a certificate")
    here({"RAY_TLS_SERVER_CERT": tmp_path / "text.pem"})
    with pytest.raises(
        ConfigError, match=r"on this machine: .*text\.pem with .*key\.pem: not a certificate with its key"
    ):
        tls.check(HERE, 1)
    here({**ours, "RAY_TLS_CA_CERT": tmp_path / "text.pem"})
    with pytest.raises(ConfigError, match=r"on this machine: .*text\.pem: not a certificate"):
        tls.check(HERE, 1)
    here({"RAY_TLS_CA_CERT": ""})
    with pytest.raises(ConfigError, match=r"on this machine: RAY_TLS_CA_CERT is not set"):
        tls.check(HERE, 1)


def test_a_head_that_does_not_answer_is_left_to_ray(ours, here):
    tls.check(HERE, 1)
    here(ours)
    tls.check(HERE, 1)
