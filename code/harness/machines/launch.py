"""Starts and stops Ray's processes: nodes on this machine for one run, or the machines of a hosts file over ssh."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from harness.errors import ConfigError, RunFailed, os_words
from harness.host import sysfs
from harness.host.machine import cores
from harness.machines.heartbeats import reachable
from harness.machines.hosts import HEAD, PORT, Host, Hosts
from harness.paths import ROOT

TOKEN = "RAY_AUTH_TOKEN"
_OWN = ROOT / "build" / "cluster"
_LOOPBACK = "127.0.0.1"
_STORE_BYTES = 1 << 30  # maximum shared memory for the samples and answers of a node on this machine
_MIN_STORE_BYTES = 80 << 20  # Ray's minimum
_MAX_INLINE_BYTES = 2 << 20  # of a message inside a call: see `quiet`
_ENDING_SECONDS = 5.0  # to end all processes
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
_AGENTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
_BLOCKS = "--block"  # in the last lines that `ray start` prints
_ALREADY, _ENDED = ", already runs", "ended"
_OTHER_SETTINGS = "Ray runs with other settings: harness cluster down"
_STARTING_SECONDS = 120.0  # for `ray start` on a machine


def quiet() -> dict[str, str]:
    """Environment variables of every Ray process.

    Ray sends no usage statistics, does not report each call to the head, and a late call does not start Ray again.
    Messages of up to 2 MiB are sent inside a call: through the object store, which Ray uses by default from 100 kB,
    they cost several times as much. A process has four minutes to start: Ray's one minute is too short on a busy
    machine. Nodes run at normal priority: at Ray's nice 15, any other process would go first. Raylets do not check the
    memory four times a second, and do not kill a node that uses much of it.
    """
    return {
        "RAY_max_direct_call_object_size": str(_MAX_INLINE_BYTES),
        "RAY_task_events_report_interval_ms": "0",
        "RAY_worker_niceness": "0",
        "RAY_worker_register_timeout_seconds": "240",
        "RAY_ENABLE_AUTO_CONNECT": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


class LocalCluster:
    """Ray on the loopback interface of this machine: a head without cores, and nodes that share the cores.

    All of it ends with this process: `guard`, the parent of Ray's processes, then kills those that remain.
    """

    def __init__(self, count: int) -> None:
        """Begin to start ``count`` nodes; `check` raises an error if one fails."""
        self.names = [f"local-{number}" for number in range(1, count + 1)]
        # One token for all clusters of a process, since Ray reads it once.
        os.environ.setdefault(TOKEN, secrets.token_hex(32))
        self.environment = {"RAY_AUTH_MODE": "token", TOKEN: os.environ[TOKEN], **quiet()}
        self._ports = _free_ports(1 + len(_AGENTS) * (count + 1))
        self.address = f"{_LOOPBACK}:{self._ports.pop()}"
        self._folder = Path(tempfile.mkdtemp(prefix="mlperf-cluster-", dir=_short_folder()))
        self._ended: dict[str, int] = {}
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "harness.machines.guard", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self.environment},
            start_new_session=True,  # Ctrl-C is for the harness to handle
            text=True,
        )
        self._later: dict[str, list[str]] = self._commands(_store(count + 1))
        self._run_commands({"head": self._later.pop("head")})
        threading.Thread(target=self._listen, name="ray", daemon=True).start()

    def _run_commands(self, commands: dict[str, list[str]]) -> None:
        """Make the guard start these commands, by name."""
        assert self._guard.stdin
        with contextlib.suppress(OSError):  # the guard has ended: `check` reports it
            self._guard.stdin.write(json.dumps(commands) + "\n")
            self._guard.stdin.flush()

    def _commands(self, store: int) -> dict[str, list[str]]:
        usable = sorted(os.sched_getaffinity(0))
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", "--disable-usage-stats"]
        head.append("--no-monitor")
        commands = {"head": self._command("head", usable, [*head, f"--object-store-memory={_MIN_STORE_BYTES}"])}
        for name, cpus in zip(self.names, shares(len(self.names)), strict=True):
            node = [f"--address={self.address}", f"--node-name={name}", "--num-cpus=1"]
            commands[name] = self._command(name, cpus, [*node, f"--object-store-memory={store}"])
        return commands

    def _command(self, name: str, cpus: Sequence[int], options: Sequence[str]) -> list[str]:
        own = self._folder / name
        common = [f"--node-ip-address={_LOOPBACK}", f"--temp-dir={own}", "--include-log-monitor=false", "--block"]
        # A raylet waits seconds for agents that choose their own ports, and times out on a busy machine.
        ports = [f"--{agent}-port={self._ports.pop()}" for agent in _AGENTS]
        return [sys.executable, "-m", "harness.machines.start", ",".join(map(str, cpus)), *options, *common, *ports]

    def _listen(self) -> None:
        assert self._guard.stdout
        for line in self._guard.stdout:
            name, code = json.loads(line)
            self._ended[name] = code

    def started(self) -> bool:
        """Whether all nodes have joined; call it repeatedly, since it starts the nodes once the head is ready."""
        if self._later and _BLOCKS in self._log("head"):
            self._run_commands(self._later)
            self._later = {}
        return not self._later and all(_BLOCKS in self._log(name) for name in self.names)

    def _log(self, name: str) -> str:
        path = self._folder / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def check(self) -> None:
        """Check that the guard and every `ray start` still run; the latter ends if a process of its node ends.

        Raises:
            RunFailed: one has ended; the message names its node.
        """
        for name, code in self._ended.items():
            lines = self._log(name).split("\n")
            why = next((line for line in reversed(lines) if line.strip()), "")
            raise RunFailed(f"Ray of node {name} ended with code {code} ({why.strip()}).")
        if (ended := self._guard.poll()) is not None:
            raise RunFailed(f"the process that starts Ray on this machine ended with code {ended}: run again.")

    def close(self) -> None:
        """Kill everything that was started, even stopped processes, and remove its files."""
        assert self._guard.stdin
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(_ENDING_SECONDS)


def shares(count: int) -> list[list[int]]:
    """The CPUs of each of ``count`` nodes on this machine: whole cores, divided as equally as possible.

    If there are more nodes than cores, several nodes share a core.
    """
    usable = cores()
    siblings: dict[object, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        place = sysfs.place(Path("/") / sysfs.CPUS / f"cpu{cpu}")
        siblings.setdefault(place if place.core else cpu, []).append(cpu)
    of_core = {cpus[0]: cpus for cpus in siblings.values()}
    if count > len(usable):
        return [of_core[usable[number % len(usable)].cpu] for number in range(count)]
    ends = [len(usable) * part // count for part in range(count + 1)]
    return [[cpu for core in usable[first:last] for cpu in of_core[core.cpu]] for first, last in pairwise(ends)]


def _short_folder() -> str:
    """A folder with a short path, since socket paths may have at most 107 characters."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 20 else "/tmp"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as probes:
        found = []
        for _ in range(count):
            probe = probes.enter_context(socket.socket())
            probe.bind((_LOOPBACK, 0))
            found.append(int(probe.getsockname()[1]))
        return found


def _store(parts: int) -> int:
    """Bytes of shared memory for each of ``parts`` nodes: together half of the free memory, within limits."""
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    return max(_MIN_STORE_BYTES, min(_STORE_BYTES, free // 2 // parts))


def head_address(hosts: Hosts) -> str:
    """HOST:PORT of the cluster's head."""
    return hosts.address or f"{_own_address(hosts.nodes[0].address)}:{PORT}"


def token_file(hosts: Hosts) -> Path | None:
    """The file with the cluster's token; None for a running cluster that is joined without a token."""
    return hosts.token or (_OWN / "token" if hosts.nodes else None)


def credentials(hosts: Hosts) -> dict[str, str]:
    """The variables that let a process join the cluster of a hosts file.

    Raises:
        ConfigError: the token file cannot be read.
    """
    found = {**quiet(), **(hosts.tls.environment() if hosts.tls else {})}
    if path := token_file(hosts):
        try:
            token = path.read_text("utf-8").strip()
        except OSError as error:
            start = f": run `harness cluster up {hosts.source}`" if hosts.nodes else ""
            raise ConfigError(f"the cluster's token: {os_words(error)[:-1]}{start}.") from error
        found |= {"RAY_AUTH_MODE": "token", TOKEN: token}
    return found


def up(hosts: Hosts) -> Iterator[str]:
    """Start the head here and a node on each machine, unless they already run; yields a line for each one.

    Nodes whose head no longer runs are stopped first.

    Raises:
        ConfigError: the file names no machines to start Ray on.
        RunFailed: Ray does not start on a machine, or runs there with other settings; processes that were started keep
            running until `down` stops them.
    """
    if hosts.local:
        raise ConfigError(f"{hosts.source} starts with each run: there is nothing to start.")
    if not hosts.nodes:
        raise ConfigError(f"{hosts.source} joins a cluster that others start: there is nothing to start.")
    path = token_file(hosts)
    assert path is not None
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    token = credentials(hosts)[TOKEN]
    address = head_address(hosts)
    own, _, port = address.rpartition(":")
    head = f"--head --port={port} --node-ip-address={own} --num-cpus=0 --include-dashboard=false --disable-usage-stats"
    here = Host(address=own)
    if not _run(["sh", "-c", _test_command(here, HEAD)], "", "this machine"):
        if reachable((own, int(port))):
            raise RunFailed(
                f"this machine: {address} is in use, but not by this checkout: stop the program that listens there."
            )
        for host in hosts.nodes:  # old ones wait a minute for their head, and Ray starts none beside them
            if _run(_over_ssh(host, _stop_command(host, host.called)), "", f"node {host.called}") == _ENDED:
                yield f"node {host.called}: stopped, since its head was no longer running"
    output = _run(["sh", "-c", _start_command(hosts, here, head, HEAD, token)], token, "this machine")
    yield f"head: {address}{_already(output)}"
    for host in hosts.nodes:
        node = f"--address={address} --node-ip-address={host.address} --node-name={host.called}"
        command = _over_ssh(host, _start_command(hosts, host, node, host.called, token))
        output = _run(command, token, f"node {host.called}")
        yield f"node {host.called}: {host.address}{_already(output)}"


def down(hosts: Hosts) -> Iterator[str]:
    """Stop the processes that `up` started; yields a line for each machine, even an idle or unreachable one.

    Raises:
        ConfigError: the file names no machines to start Ray on.
    """
    if hosts.local:
        raise ConfigError(f"{hosts.source} starts and stops with each run: there is nothing to stop.")
    if not hosts.nodes:
        raise ConfigError(f"{hosts.source} joins a cluster that others start: they must stop it.")
    for host in hosts.nodes:
        try:
            output = _run(_over_ssh(host, _stop_command(host, host.called)), "", f"node {host.called}")
            yield f"node {host.called}: {output}"
        except RunFailed as error:
            yield str(error)
    own = head_address(hosts).rpartition(":")[0]
    output = _run(["sh", "-c", _stop_command(Host(address=own), HEAD)], "", "this machine")
    yield f"head: {output}"


def _start_command(hosts: Hosts, host: Host, options: str, name: str, token: str) -> str:
    """The shell command that starts Ray on a machine; it reads the token from standard input, hidden from `ps`."""
    pin = f"taskset -c {host.cores} " if host.cores else ""
    variables = {**quiet(), **(hosts.tls.environment() if hosts.tls else {}), "RAY_AUTH_MODE": "token"}
    given = " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items())
    cpus = "" if "--num-cpus" in options else '--num-cpus="$(nproc)" '
    if host.cores:
        cpus = f'--num-cpus="$(taskset -c {host.cores} nproc)" '
    settings = sha256(" ".join([given, pin, cpus, options, token]).encode()).hexdigest()
    return (
        f"cd {shlex.quote(host.folder)} && umask 077 && mkdir -p build/cluster && cd build/cluster && "
        f"if {_runs(f'{name}.pid')}; then "
        f"grep -qx {settings} {name}.settings && echo '{_ALREADY}' && exit 0; "
        f"echo '{_OTHER_SETTINGS}' >&2; exit 1; fi && "
        f"echo {settings} > {name}.settings && cat > {name}.token && "
        f"export {given} RAY_AUTH_TOKEN_PATH=$PWD/{name}.token && "
        f"{{ setsid nohup {pin}../../.venv/bin/ray start {cpus}{options} --include-log-monitor=false --block "
        f"> {name}.log 2>&1 < /dev/null & echo $! > {name}.pid; }} && "
        f"for turn in $(seq 100); do grep -q 'block' {name}.log && exit 0; kill -0 $(cat {name}.pid) 2>/dev/null || "
        f"break; sleep 0.5; done; tail -n 3 {name}.log >&2; exit 1"
    )


def _already(output: str) -> str:
    """The end of a machine's line: `_ALREADY` if the start command's output says that Ray already ran, else ""."""
    return _ALREADY if output.endswith(_ALREADY) else ""


def _test_command(host: Host, name: str) -> str:
    """The shell command that prints a word if Ray runs on a machine."""
    return f"if {_runs(_pid_file(host, name))}; then echo runs; fi"


def _pid_file(host: Host, name: str) -> str:
    return shlex.quote(f"{host.folder}/build/cluster/{name}.pid")


def _stop_command(host: Host, name: str) -> str:
    """The shell command that kills `ray start --block`, and with it all Ray processes of the node."""
    file = _pid_file(host, name)
    return (
        f"if {_runs(file)}; then kill -9 $pid && rm -f {file} && echo {_ENDED}; "
        f"else rm -f {file}; echo 'was not running'; fi"
    )


def _runs(file: str) -> str:
    """A shell condition that sets $pid: whether the process in the pid file is Ray's, since pids are reused."""
    return (
        f'pid=$(cat {file} 2>/dev/null) && [ -n "$pid" ] && '
        "{ tr '\\0' ' ' < /proc/$pid/cmdline; } 2>/dev/null | grep -q 'ray.*start'"
    )


def _over_ssh(host: Host, command: str) -> list[str]:
    target = f"{host.user}@{host.address}" if host.user else host.address
    return [*_SSH, target, command]


def _run(command: Sequence[str], given: str, where: str) -> str:
    """Run a command with ``given`` as standard input, and return its output; RunFailed names ``where`` it failed."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_STARTING_SECONDS,
            check=False,
        )
    except OSError as error:
        raise RunFailed(f"{where}: {os_words(error)}") from error
    except subprocess.TimeoutExpired as error:
        took = time.monotonic() - began
        raise RunFailed(f"{where}: no answer for {took:.0f} s; check the machine and its network.") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).split("\n") if line.strip()]
        raise RunFailed(f"{where}: {lines[-1] if lines else f'exit code {done.returncode}'}.")
    return done.stdout.strip()


def _own_address(other: str) -> str:
    """The address at which ``other`` reaches this machine.

    Raises:
        ConfigError: it cannot be reached.
    """
    try:
        family, kind, _, _, where = socket.getaddrinfo(other, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(f"{other} cannot be reached ({error.strerror or error}): fix its address.") from error


def set_environment(variables: Mapping[str, str]) -> None:
    """Set environment variables of this process, which Ray reads when it is imported."""
    os.environ.update(variables)
