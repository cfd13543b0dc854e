"""The machines that form a cluster: those in a TOML file, or nodes on this machine.

    token = "token"                 # a file; made by `harness cluster up` if missing
    [[nodes]]
    address = "10.0.0.1"

A running cluster is joined by its address instead:

    address = "10.0.0.9:6379"
    token = "~/.ray/auth_token"
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness.errors import ConfigError
from harness.files.disk import read_toml
from harness.paths import ROOT
from harness.validation import first_error

LOCAL = "local:"
"""Prefix of a setting that asks for nodes on this machine, as in "local:2"."""
PORT = 6379
"""Ray's own default."""
HEAD = "head"
"""The name of the driver's part of a cluster, beside the names of its nodes."""
_MAX_LOCAL_NODES = 64
_NUMBER = r"[1-9][0-9]?"
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.:-]*"  # not an option of ssh


class Host(BaseModel):
    """One machine that `harness cluster up` reaches over ssh."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(pattern=rf"^{_PLAIN}$")
    """Host name or IP address, for ssh and for the other machines."""
    name: str = Field("", pattern=rf"^({_PLAIN})?$")
    """Its name in messages; by default its address."""
    user: str = Field("", pattern=rf"^({_PLAIN})?$")
    """User for ssh; by default ssh decides."""
    folder: str = str(ROOT)
    """The checkout of this repository on it, with its .venv."""
    cores: str = Field("", pattern=r"^[0-9,-]*$")
    """CPUs to use, in the kernel's list format such as "0-15,32"; by default all."""

    @property
    def called(self) -> str:
        """Its name in messages."""
        return self.name or self.address


class Tls(BaseModel):
    """The files for Ray's TLS encryption, at the same paths on all machines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert: Path
    key: Path
    ca: Path

    @field_validator("cert", "key", "ca")
    @classmethod
    def _full(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError(f"{path} must be a full path, the same on all machines")
        return path

    def environment(self) -> dict[str, str]:
        """The environment variables that pass them to Ray."""
        return {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(self.cert),
            "RAY_TLS_SERVER_KEY": str(self.key),
            "RAY_TLS_CA_CERT": str(self.ca),
        }


class Hosts(BaseModel):
    """A cluster: nodes on this machine (``local``), machines to start Ray on (``nodes``), or a running one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    local: int = Field(0, ge=0, le=_MAX_LOCAL_NODES)
    address: str = Field("", pattern=r"^([^\s:]+:\d+)?$")
    """HOST:PORT of the cluster to join; with ``nodes``, the address of the head that `harness cluster up` starts."""
    nodes: tuple[Host, ...] = ()
    token: Path | None = None
    """The file with the token of the cluster."""
    tls: Tls | None = None
    source: str = Field("", exclude=True)
    """The file, or "local:2": for messages."""

    @model_validator(mode="after")
    def _named_machines(self) -> Self:
        if not (self.local or self.nodes or self.address):
            raise ValueError("no machine is given: add [[nodes]], or the address of a cluster")
        names = [host.called for host in self.nodes]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two nodes are called {min(doubled)}: give each a name")
        if HEAD in names:
            raise ValueError(f"{HEAD!r} is the driver's own part of the cluster: give the node another name")
        return self

    @field_validator("nodes")
    @classmethod
    def _no_localhost(cls, nodes: tuple[Host, ...]) -> tuple[Host, ...]:
        if len(nodes) > 1 and any(host.address in ("localhost", "127.0.0.1") for host in nodes):
            raise ValueError("localhost means a different machine on each node: give an address that all can reach")
        return nodes


def read(cluster: str) -> Hosts:
    """The machines named by ``cluster``: a TOML file or "local:N".

    Raises:
        ConfigError: the file cannot be read or is wrong, or N is not a number of nodes.
    """
    if cluster.startswith(LOCAL):
        return Hosts(local=number_in(cluster, LOCAL), source=cluster)
    path = Path(cluster)
    values = read_toml(path, f"a hosts file, or {LOCAL}N", "docs/cluster.md")
    try:
        found = Hosts.model_validate({**values, "source": cluster})
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_error(error)}.") from error
    if found.local:
        raise ConfigError(f"{path}: 'local' cannot be set in a file: pass {LOCAL}{found.local} instead of the file.")
    return found if found.token is None else found.model_copy(update={"token": _token_path(path, found.token)})


def number_in(cluster: str, kind: str) -> int:
    """The number of nodes in a setting such as "local:2", which begins with ``kind``.

    Raises:
        ConfigError: there is no valid number.
    """
    number = cluster.removeprefix(kind)
    if not re.fullmatch(_NUMBER, number) or int(number) > _MAX_LOCAL_NODES:
        raise ConfigError(f"{cluster}: write {kind}N with the number of nodes, 1 to {_MAX_LOCAL_NODES}.")
    return int(number)


def _token_path(file: Path, token: Path) -> Path:
    """The token's path, relative to the hosts file's folder instead of the working directory."""
    try:
        return file.resolve().parent / token.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{file}: token: {token} names an unknown user: write the full path.") from error
