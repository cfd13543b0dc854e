"""Nodes of a cluster that are killed or stopped, and what is left when a driver ends, however it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness.machines.silence import SILENT_SECONDS

pytest.importorskip("ray", reason="Ray is not installed: make setup CLUSTER=1")

HERE = Path(__file__).parent
KILLED, FROZEN = 6.0, SILENT_SECONDS + 9.0
"""Seconds until a loss is seen, with room for a busy machine; Ray alone takes 14 to 65 where nothing answers."""


class Driver:
    """A process of `cluster_nodes`, and the events that it prints."""

    def __init__(self, cluster, phase):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "cluster_nodes.py"), cluster, phase],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            start_new_session=True,
        )
        self.events, self._told = [], threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.pids = self.wait("met", limit=120)["pids"]
        except BaseException:
            self.kill()
            raise

    def _read(self):
        for line in self.process.stdout:
            if not line.startswith("{"):  # Ray's
                print(line)
                continue
            with self._told:
                self.events.append(json.loads(line))
                self._told.notify_all()
        with self._told:
            self.events.append({"event": "end"})
            self._told.notify_all()

    def wait(self, event, limit=30.0, **facts):
        """The first such event."""

        def found():
            wanted = {"event": event, **facts}
            return next((e for e in self.events if wanted.items() <= e.items()), None)

        with self._told:
            self._told.wait_for(lambda: found() or self.events[-1:] == [{"event": "end"}], limit)
            got = found()
        assert got, (event, facts, self.events, self.process.poll())
        return got

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)

    def alive(self):
        return [pid for pids in self.pids.values() for pid in pids if is_alive(pid)]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def named(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def soon(condition, limit=15.0):
    ends = time.monotonic() + limit
    while not condition() and time.monotonic() < ends:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def driver_of():
    made = []

    def make(cluster, phase):
        made.append(Driver(cluster, phase))
        return made[-1]

    yield make
    for driver in made:
        driver.kill()


def hit(driver, node, place, number):
    """Send a signal to the node's own process (0) or to its raylet (1); the moment."""
    when = time.monotonic()
    os.kill(driver.pids[node][place], number)
    return when


def test_nodes_that_are_killed_or_stopped_are_lost_within_seconds_each_by_its_name(driver_of):
    """Four are answering, and two have answered their last sample."""
    driver = driver_of("local:6", "some finish")
    driver.wait("ready")
    for node in driver.pids:
        driver.wait("answers", node=node)
    killed, frozen = (0, signal.SIGKILL, KILLED), (1, signal.SIGSTOP, FROZEN)
    faults = [killed, frozen, (0, signal.SIGSTOP, FROZEN), (1, signal.SIGKILL, FROZEN), killed, frozen]
    moments = {
        node: (hit(driver, node, place, number), limit)
        for node, (place, number, limit) in zip(driver.pids, faults, strict=True)
    }
    for node, (when, limit) in moments.items():
        lost = driver.wait("lost", node=node)
        assert lost["when"] - when < limit, lost
        assert f"node {node} on " in lost["message"]
        assert " was lost: " in lost["message"]
    driver.end()
    assert driver.events[-2]["event"] == "closed"
    assert soon(lambda: not driver.alive())


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_all_nodes_are_lost_within_seconds_if_the_raylet_of_the_drivers_machine_ends_or_is_stopped(driver_of, number):
    driver = driver_of("local:2", "idle")
    driver.wait("ready")
    theirs = [parent for _, parent in driver.pids.values()]
    family = psutil.Process(driver.process.pid).children(recursive=True)
    assert not any(child.name().endswith("Agent") or "dashboard.py" in str(child.cmdline()) for child in family), family
    (own,) = (child.pid for child in family if named(child.pid) == "raylet" and child.pid not in theirs)
    when = time.monotonic()
    os.kill(own, number)
    for node in driver.pids:
        lost = driver.wait("lost", node=node)
        assert lost["when"] - when < KILLED, lost
        assert "Ray's process (raylet) on the driver's machine has ended or was stopped" in lost["message"], lost
    driver.end()
    assert soon(lambda: not any(is_alive(child.pid) for child in family))


def test_a_node_that_is_lost_while_it_warms_up_ends_the_preparation(driver_of):
    driver = driver_of("local:2", "warm-up")
    driver.wait("beat", doing="it held the lock for longer than a heartbeat may take")
    when = hit(driver, "local-2", 0, signal.SIGSTOP)
    failed = driver.wait("failed")
    assert failed["when"] - when < FROZEN
    assert failed["kind"] == "RunFailed"
    assert "node local-2 on " in failed["message"]
    driver.wait("closed")
    assert soon(lambda: not driver.alive())


@pytest.fixture(scope="module")
def with_errors():
    made = []
    yield made
    for driver in made:
        driver.kill()


@pytest.fixture
def driver_with_errors(with_errors):
    """The driver of two tests, or another one if the first has ended."""
    if not with_errors or with_errors[-1].process.poll() is not None:
        with_errors.append(Driver("local:3", "errors"))
    return with_errors[-1]


def test_errors_of_nodes_keep_their_kind_and_get_the_name_of_the_node(driver_with_errors):
    driver = driver_with_errors
    message = driver.wait("failed", kind="RunFailed")["message"]
    assert message.startswith("node local-1 on ")
    assert message.endswith(" made no progress in time while the engine of a test warms up.")
    message = driver.wait("failed", kind="EngineError")["message"]
    assert message.startswith("node local-2 on ")
    assert message.endswith(": the model has no such operator")
    assert driver.wait("lost", node="local-3")["message"].endswith(": the engine broke")


def test_nothing_is_left_of_a_driver_that_is_killed(driver_with_errors):
    driver = driver_with_errors
    driver.wait("answers", node="local-2")
    driver.wait("lost", node="local-3")
    # What is stopped cannot notice that its parents are gone.
    hit(driver, "local-2", 0, signal.SIGSTOP)
    hit(driver, "local-3", 1, signal.SIGSTOP)
    driver.kill()
    assert soon(lambda: not driver.alive()), driver.alive()


def test_a_run_that_loses_a_node_fails_and_keeps_nothing(harness):
    # Slower batches, for a query that takes little memory.
    slow = ("--engine", "null", "--set", "delay_us=20000")
    process = harness.start(*slow, "--cluster", "local:2", "--duration", "60", verbose=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
    reader.start()
    assert soon(lambda: any("LoadGen: " in line for line in lines) or process.poll() is not None, 120), lines
    assert process.poll() is None, lines
    family = psutil.Process(process.pid).children(recursive=True)
    nodes = [child for child in family if child.name().startswith("ray::")]
    raylets = [child for child in family if child.name() == "raylet"]
    assert len(raylets) == 3, family  # one serves the driver
    next(child for child in nodes if "NodeActor" in child.name() or "_Actor" in child.name()).kill()
    assert process.wait(60) == 1
    reader.join()
    assert not harness.runs.exists() or not list(harness.runs.iterdir())
    assert any("error: node local-" in line and " was lost: " in line for line in lines), lines
    assert soon(lambda: not any(is_alive(child.pid) for child in family))
