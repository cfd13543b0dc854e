"""The checks of `harness cluster check`: whether the machines of a cluster can work together, before a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from harness.errors import HarnessError
from harness.host.usage import CoreUse, Reading
from harness.machines.actor_link import RayLink
from harness.machines.hosts import Hosts
from harness.machines.ray_link import RayCluster

GOOD, WARNING, BAD = "good", "warning", "bad"
_ROUND_TRIPS = 100
_PAYLOAD_BYTES = 16 << 20  # to measure bandwidth
_MAX_ROUND_TRIP_SECONDS = 0.003  # the delay that a cluster may add to a single query
_MAX_CLOCK_SECONDS = 0.1  # with larger clock differences, logs of two machines are hard to compare
_WATCH_SECONDS = 1.0  # time for measuring other processes


@dataclass(frozen=True)
class Facts:
    """The hardware, code, packages and models of a machine."""

    host: str
    cpu: str
    cores: int
    code: str
    """The digest of the project's code."""
    versions: Mapping[str, str]
    """The versions of Python and of the packages that results depend on."""
    models: Mapping[str, str]
    """sha256 of the model files, by name."""


@dataclass(frozen=True)
class ClusterFinding:
    """One finding."""

    level: str
    node: str
    """"" for all nodes together."""
    subject: str
    what: str
    cure: str = ""


@dataclass(frozen=True)
class NodeMeasurements:
    """Measurements between the driver and one node."""

    round_trip: float
    """Seconds, median."""
    slow_trip: float
    """Seconds, the slowest in a hundred."""
    sending: float
    """Bytes/s to it."""
    receiving: float
    """Bytes/s from it."""
    ahead: float
    """Seconds by which its clock is ahead of this machine's."""
    lost_cores: float
    """Cores that other processes used at the same time."""
    cores: float
    """Cores that the node may use."""


def check(hosts: Hosts, mine: Facts, facts: str, done: Callable[[], object]) -> list[ClusterFinding]:
    """Connect to all nodes, compare and measure; ``done`` is called after each node.

    ``mine`` are the facts about this machine; ``facts`` is the function that returns a node's, as "module:function".

    Raises:
        HarnessError: the cluster cannot be reached.
    """
    cluster = RayCluster(hosts, lambda within, doing="": None)
    try:
        module, _, function = facts.partition(":")
        lines, found = [], dict[str, Facts]()
        for link in cluster.links:
            try:
                found[link.name] = link.call(60.0, "facts", module, function)
                lines += of_node(link.name, found[link.name], mine, measure(link))
            except HarnessError as error:
                lines.append(ClusterFinding(BAD, link.name, "node", str(error)))
            done()
        return [*lines, *between(found)]
    finally:
        cluster.close()


def measure(link: RayLink) -> NodeMeasurements:
    """Measure round trips, bandwidth, the clock difference and the load by others.

    Raises:
        HarnessError: the node is lost, or takes too long.
    """
    first: Reading | None = link.call(10.0, "usage")
    watched = time.monotonic() + _WATCH_SECONDS
    trips, ahead = [], []
    for _ in range(_ROUND_TRIPS):
        sent = time.time()
        theirs = link.call(10.0, "clock")
        back = time.time()
        trips.append(back - sent)
        ahead.append(theirs - (sent + back) / 2)
    payload = np.zeros(_PAYLOAD_BYTES, np.uint8)
    began = time.perf_counter()
    link.call(60.0, "receive", payload)
    middle = time.perf_counter()
    link.call(60.0, "produce", _PAYLOAD_BYTES)
    ended = time.perf_counter()
    time.sleep(max(0.0, watched - time.monotonic()))
    last: Reading | None = link.call(10.0, "usage")
    cpus, quota = link.call(10.0, "share")
    use = CoreUse.between(first, last, cpus, quota) if first and last else None
    return NodeMeasurements(
        median(trips),
        sorted(trips)[int(0.99 * len(trips))],
        _PAYLOAD_BYTES / max(1e-9, middle - began - median(trips)),
        _PAYLOAD_BYTES / max(1e-9, ended - middle - median(trips)),
        ahead[int(np.argmin(trips))],
        use.lost if use else 0.0,
        use.cores if use else 0.0,
    )


def of_node(name: str, theirs: Facts, mine: Facts, measured: NodeMeasurements) -> list[ClusterFinding]:
    """The findings about one node."""
    lines = [ClusterFinding(GOOD, name, "machine", f"{theirs.host}: {theirs.cpu}, {theirs.cores} cores")]
    if theirs.code == mine.code:
        lines.append(ClusterFinding(GOOD, name, "code", f"same as here ({mine.code[:12]})"))
    else:
        what = f"{theirs.code[:12]} instead of {mine.code[:12]}"
        lines.append(ClusterFinding(BAD, name, "code", what, "check out the same commit there"))
    other = [
        f"{package} {theirs.versions.get(package, 'missing')} instead of {version}"
        for package, version in mine.versions.items()
        if theirs.versions.get(package) != version
    ]
    if other:
        lines.append(
            ClusterFinding(BAD, name, "versions", ", ".join(other), "install the same: `make setup CLUSTER=1`")
        )
    else:
        lines.append(ClusterFinding(GOOD, name, "versions", "same as here"))
    differing = [model for model, digest in mine.models.items() if theirs.models.get(model, "") not in ("", digest)]
    if differing:
        what = f"other files for {', '.join(differing)}"
        lines.append(
            ClusterFinding(WARNING, name, "models", what, "copy the files, or each run sends them, which takes time")
        )
    lines += _of_network(name, measured)
    return [*lines, *_of_machine(name, measured)]


def _of_network(name: str, measured: NodeMeasurements) -> list[ClusterFinding]:
    slow = measured.round_trip > _MAX_ROUND_TRIP_SECONDS
    trip = f"{measured.round_trip * 1e3:.2f} ms, the slowest of a hundred {measured.slow_trip * 1e3:.2f} ms"
    cure = "use a faster network: Server's queries have less time left" if slow else ""
    carried = f"{measured.sending / 1e6:,.0f} MB/s to it, {measured.receiving / 1e6:,.0f} MB/s from it"
    return [
        ClusterFinding(WARNING if slow else GOOD, name, "round trip", trip, cure),
        ClusterFinding(GOOD, name, "bandwidth", carried),
    ]


def _of_machine(name: str, measured: NodeMeasurements) -> list[ClusterFinding]:
    lines = []
    if abs(measured.ahead) > _MAX_CLOCK_SECONDS:
        what = f"{abs(measured.ahead):.2f} s {'ahead of' if measured.ahead > 0 else 'behind'} this machine's"
        lines.append(ClusterFinding(WARNING, name, "clock", what, "synchronise it (NTP, PTP)"))
    else:
        lines.append(ClusterFinding(GOOD, name, "clock", f"{measured.ahead * 1e3:+.1f} ms from this machine's"))
    busy = measured.lost_cores > 0.05 * measured.cores
    what = f"other processes use {measured.lost_cores:.2f} of {measured.cores:g} cores"
    lines.append(ClusterFinding(WARNING if busy else GOOD, name, "other processes", what, "stop them" if busy else ""))
    return lines


def between(found: dict[str, Facts]) -> list[ClusterFinding]:
    """The findings about all nodes together."""
    if not found:
        return []
    cores = {facts.cores for facts in found.values()}
    cpus = {facts.cpu for facts in found.values()}
    total = sum(facts.cores for facts in found.values())
    lines = [ClusterFinding(GOOD, "", "nodes", f"{len(found)} with {total} cores")]
    if len(cores) > 1 or len(cpus) > 1:
        what = "the machines differ: each gets samples in proportion to its measured rate"
        lines.append(ClusterFinding(WARNING, "", "nodes", what, "describe each kind in the system description"))
    return lines


def summary(lines: Sequence[ClusterFinding]) -> str:
    """The last line of the output."""
    bad, warnings = (sum(line.level == level for line in lines) for level in (BAD, WARNING))
    words = f"{warnings} warning{'' if warnings == 1 else 's'}"
    return f"{bad} bad, {words}: fix the errors first." if bad else f"nothing blocks a run; {words}."
