"""The hosts file: its valid contents, and the error for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.machines.hosts import number_in, read


def written(folder: Path, text: str) -> str:
    path = folder / "hosts.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_local_nodes_need_no_file() -> None:
    assert read("local:3").local == 3
    assert read("local:3").source == "local:3"


@pytest.mark.parametrize(
    "cluster", ["local:", "local:0", "local:-1", "local:two", "local:1000", "local:02 ", "local:²", "local:65"]
)
def test_a_wrong_number_of_local_nodes_is_refused(cluster: str) -> None:
    with pytest.raises(ConfigError, match="write local:N"):
        read(cluster)


@pytest.mark.parametrize("number", ["", "0", "²", "65", "9" * 5000])
def test_a_wrong_number_of_threads_is_refused_in_the_same_way(number: str) -> None:
    with pytest.raises(ConfigError, match="write threads:N"):
        number_in(f"threads:{number}", "threads:")
    assert number_in("threads:64", "threads:") == 64


def test_a_file_names_machines_and_a_token_beside_it(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'token = "secret"\n[[nodes]]\naddress = "10.0.0.1"\nuser = "me"\ncores = "0-3,8"\n'
        '[[nodes]]\naddress = "b.example"\nname = "b"\nfolder = "/srv/harness"\n',
    )
    hosts = read(file)
    assert [host.called for host in hosts.nodes] == ["10.0.0.1", "b"]
    assert hosts.token == tmp_path / "secret"
    assert hosts.nodes[1].folder == "/srv/harness"


def test_an_absolute_token_is_taken_as_it_is(tmp_path: Path) -> None:
    assert read(written(tmp_path, 'address = "h:6379"\ntoken = "/etc/token"\n')).token == Path("/etc/token")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no machine is given"),
        ("nodes = 3", "nodes"),
        ("[[nodes]]", "address"),
        ('[[nodes]]\naddress = "a"\nspeed = 3', "speed"),
        ('[[nodes]]\naddress = "a; rm -rf ~"', "address"),
        ('[[nodes]]\naddress = "a"\ncores = "$(id)"', "cores"),
        ('[[nodes]]\naddress = "a"\n[[nodes]]\naddress = "a"', "called a"),
        ('[[nodes]]\naddress = "localhost"\n[[nodes]]\naddress = "a"', "localhost"),
        ('address = "without a port"', "address"),
        ('address = "h:1"\ntoken = "~nosuchuser/x"', "token: ~nosuchuser/x names an unknown user"),
        ("local = 2", "local:2"),
        ("= 3", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "hosts.toml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: give a hosts file"):
        read(str(tmp_path / "none.toml"))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text"):
        read(str(tmp_path / "x.toml"))


def test_tls_becomes_rays_variables(tmp_path: Path) -> None:
    text = 'address = "h:6379"\n[tls]\ncert = "/c"\nkey = "/k"\nca = "/a"\n'
    tls = read(written(tmp_path, text)).tls
    assert tls is not None
    assert tls.environment()["RAY_TLS_SERVER_KEY"] == "/k"
    with pytest.raises(ConfigError, match=r"tls\.cert: cert\.pem must be a full path, the same on all machines"):
        read(written(tmp_path, text.replace("/c", "cert.pem")))


def test_no_node_is_called_like_the_head(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'head' is the driver's own part of the cluster"):
        read(written(tmp_path, '[[nodes]]\naddress = "h"\nname = "head"\n'))
