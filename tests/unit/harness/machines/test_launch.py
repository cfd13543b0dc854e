"""Starting machines over ssh, the shares of nodes on this machine, and the guard that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import ConfigError, RunFailed
from harness.machines import launch, start
from harness.machines.hosts import Host, Hosts


def usable():
    return sorted(os.sched_getaffinity(0))


def test_nodes_on_this_machine_divide_the_cores():
    assert sorted(launch.shares(1)[0]) == usable()
    many = launch.shares(2)
    if len(usable()) > 1:
        assert sorted(cpu for share in many for cpu in share) == usable()
    assert all(launch.shares(200))


def test_a_node_on_this_machine_has_no_agents():
    began = []
    agents = ["--dashboard_agent_command=python agent.py --head", "--runtime_env_agent_command=python main.py"]
    start._start_process(
        lambda command, *given, **named: began.append((command, given, named)),
        ["raylet", "--head", *agents, "--node_id=1"],
        "raylet",
        fate_share=True,
    )
    ((command, *rest),) = began
    assert rest == [("raylet",), {"fate_share": True}]
    assert (command[:2], command[4:]) == (["raylet", "--head"], ["--node_id=1"])
    assert [word.partition("=")[0] for word in command[2:4]] == [word.partition("=")[0] for word in agents]
    assert not any("python" in word for word in command)


# ---- over ssh


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder that stands for a checkout on another machine: its ssh runs here, and its ray prints its arguments."""
    commands = tmp_path / "commands"
    commands.mkdir()
    ssh = commands / "ssh"
    ssh.write_text('#!/bin/sh\nwhile [ $# -gt 1 ]; do printf "%s " "$1" >> "$SSH_LOG"; shift; done\nexec sh -c "$1"\n')
    ray = tmp_path / "far" / ".venv" / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.write_text(
        '#!/bin/sh\necho "$@" > ../../given\n{ cat "$RAY_AUTH_TOKEN_PATH"; echo " $RAY_AUTH_MODE"; } > ../../token\n'
        "[ ! -f ../../fails ] || { echo 'port in use'; exit 1; }\necho -- --block\n"
        "mkfifo ../../wait.$$ && read line < ../../wait.$$\n"
    )
    for script in (ssh, ray):
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("SSH_LOG", str(tmp_path / "ssh.log"))
    folder = tmp_path / "far"
    monkeypatch.setattr(launch, "Host", lambda **given: Host(**{"folder": str(folder), **given}))
    return folder


def hosts_of(folder, **given):
    node = Host(address="127.0.0.9", name="b", user="me", folder=str(folder), cores="0")
    return Hosts(address="127.0.0.8:7000", nodes=(node,), token=folder / "secret", source="hosts.toml", **given)


def test_up_starts_ray_with_a_token_that_only_its_owner_can_read(machine):
    hosts = hosts_of(machine)
    lines = list(launch.up(hosts))
    pids = [int((machine / "build/cluster" / f"{name}.pid").read_text()) for name in ("head", "b")]
    try:
        assert lines == ["head: 127.0.0.8:7000", "node b: 127.0.0.9"]
        given = (machine / "given").read_text()
        assert "--address=127.0.0.8:7000 --node-ip-address=127.0.0.9 --node-name=b" in given
        assert "--num-cpus=1 " in given
        secret = (machine / "secret").read_text().strip()
        assert len(secret) == 64
        assert (machine / "token").read_text().split() == [secret, "token"]
        assert secret not in given
        for file in ("secret", "build/cluster/b.token", "build/cluster/head.token"):
            assert stat.S_IMODE((machine / file).stat().st_mode) == 0o600, file
        assert "me@127.0.0.9" in (machine.parent / "ssh.log").read_text()
        assert launch.credentials(hosts)["RAY_AUTH_TOKEN"] == secret
    finally:
        assert list(launch.down(hosts)) == ["node b: ended", "head: ended"]
    ends = time.monotonic() + 10
    while any(running(pid) for pid in pids) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not any(running(pid) for pid in pids)


def test_a_second_up_starts_only_what_does_not_run(machine):
    hosts = hosts_of(machine)
    list(launch.up(hosts))
    pid = {name: machine / "build/cluster" / f"{name}.pid" for name in ("head", "b")}
    tokens = [machine / "build/cluster" / f"{name}.token" for name in pid]
    before = [file.read_text() for file in (*pid.values(), *tokens)]
    try:
        assert list(launch.up(hosts)) == ["head: 127.0.0.8:7000, already runs", "node b: 127.0.0.9, already runs"]
        assert [file.read_text() for file in (*pid.values(), *tokens)] == before
        assert all(running(int(file.read_text())) for file in pid.values())

        end(int(pid["b"].read_text()))
        assert list(launch.up(hosts)) == ["head: 127.0.0.8:7000, already runs", "node b: 127.0.0.9"]
        assert running(int(pid["b"].read_text()))
        assert pid["head"].read_text() == before[0]
    finally:
        list(launch.down(hosts))


def test_up_refuses_what_runs_with_other_settings_or_is_not_ours(machine):
    hosts = hosts_of(machine)
    list(launch.up(hosts))
    try:
        with pytest.raises(RunFailed, match=r"this machine: Ray runs with other settings: harness cluster down\."):
            list(launch.up(hosts.model_copy(update={"address": "127.0.0.8:7001"})))
        (machine / "secret").write_text("another token\n")
        with pytest.raises(RunFailed, match="this machine: Ray runs with other settings"):
            list(launch.up(hosts))
    finally:
        list(launch.down(hosts))
    with socket.create_server(("127.0.0.8", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RunFailed, match=rf"127\.0\.0\.8:{port} is in use, but not by this checkout"):
            list(launch.up(hosts.model_copy(update={"address": f"127.0.0.8:{port}"})))


def test_nodes_of_a_head_that_ended_are_started_anew(machine):
    hosts = hosts_of(machine)
    list(launch.up(hosts))
    pid = {name: machine / "build/cluster" / f"{name}.pid" for name in ("head", "b")}
    old = int(pid["b"].read_text())
    try:
        end(int(pid["head"].read_text()))
        ended = "node b: stopped, since its head was no longer running"
        assert list(launch.up(hosts)) == [ended, "head: 127.0.0.8:7000", "node b: 127.0.0.9"]
        assert not running(old)
        assert all(running(int(file.read_text())) for file in pid.values())
    finally:
        list(launch.down(hosts))


@pytest.mark.parametrize("left", ["nothing", "an empty file", "a number of nobody", "a number that another has now"])
def test_down_kills_no_other_process_and_says_so(machine, left):
    folder = machine / "build/cluster"
    folder.mkdir(parents=True)
    other = subprocess.Popen(["sleep", "60"])
    try:
        number = {"an empty file": "", "a number of nobody": "999999999", "a number that another has now": other.pid}
        if left in number:
            (folder / "b.pid").write_text(f"{number[left]}\n")
        assert list(launch.down(hosts_of(machine))) == ["node b: was not running", "head: was not running"]
        assert running(other.pid)
        assert not (folder / "b.pid").exists()
    finally:
        other.kill()
        other.wait()


def test_an_error_of_starting_ray_names_the_machine_and_the_reason(machine):
    (machine / "fails").touch()
    with pytest.raises(RunFailed, match="this machine: port in use"):
        list(launch.up(hosts_of(machine)))


def test_a_machine_without_a_checkout_is_named(machine):
    with pytest.raises(RunFailed, match=r"node b: .*none"):
        launch._run(
            launch._over_ssh(Host(address="b", folder=str(machine / "none")), f"cd {machine}/none"), "", "node b"
        )


def test_a_cluster_of_others_is_neither_started_nor_ended():
    joined = Hosts(address="h:1", source="x.toml")
    for work in (launch.up, launch.down):
        with pytest.raises(ConfigError, match=r"x\.toml joins a cluster that others start"):
            list(work(joined))
    assert "RAY_AUTH_TOKEN" not in launch.credentials(joined)


def test_nodes_of_a_run_are_neither_started_nor_ended():
    local = Hosts(local=2, source="local:2")
    with pytest.raises(ConfigError, match=r"^local:2 starts with each run: there is nothing to start\.$"):
        list(launch.up(local))
    with pytest.raises(ConfigError, match=r"^local:2 starts and stops with each run: there is nothing to stop\.$"):
        list(launch.down(local))


def test_no_process_starts_a_ray_of_its_own():
    assert launch.quiet()["RAY_ENABLE_AUTO_CONNECT"] == "0"
    assert launch.credentials(Hosts(address="h:1", source="x.toml"))["RAY_ENABLE_AUTO_CONNECT"] == "0"


def test_a_missing_token_says_what_makes_it(tmp_path):
    with pytest.raises(ConfigError, match=r"run `harness cluster up hosts\.toml`"):
        launch.credentials(hosts_of(tmp_path))


# ---- the guard


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def end(pid):
    os.kill(pid, signal.SIGKILL)
    while running(pid):
        time.sleep(0.01)


def test_the_guard_kills_all_that_descends_from_it_also_what_is_stopped_or_orphaned(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    guard = subprocess.Popen(
        [sys.executable, "-m", "harness.machines.guard", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = tmp_path / "pids"
    # The shell in the middle ends, so that its child is an orphan, and has a session of its own.
    orphan = f"setsid sh -c 'echo $$ >> {pids}; exec sleep 100' & exit 3"
    stopped = f"echo $$ >> {pids}; exec sleep 100"
    commands = {"one": ["sh", "-c", orphan], "two": ["sh", "-c", stopped]}
    guard.stdin.write(json.dumps(commands) + "\n")
    guard.stdin.flush()
    assert json.loads(guard.stdout.readline()) == ["one", 3]
    ends = time.monotonic() + 20
    while (not pids.exists() or len(pids.read_text().split()) < 2) and time.monotonic() < ends:
        time.sleep(0.02)
    started = [int(word) for word in pids.read_text().split()]
    assert len(started) == 2
    os.kill(started[-1], signal.SIGSTOP)
    assert all(map(running, started))
    guard.stdin.close()
    guard.wait(20)
    assert not any(map(running, started))
    assert not folder.exists()
