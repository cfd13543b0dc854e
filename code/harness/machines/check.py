"""The checks of `harness cluster check`: whether the machines of a cluster can work together, before a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from harness.errors import HarnessError
from harness.host.usage import CoreUse, Reading
from harness.machines.actor_link import RayLink
from harness.machines.hosts import Hosts
from harness.machines.ray_link import RayCluster
from harness.terminal.findings import BAD, GOOD, WARNING, Finding

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


def check(hosts: Hosts, mine: Facts, facts: str, done: Callable[[], object]) -> list[Finding]:
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
                lines.append(Finding(BAD, "node", str(error), node=link.name))
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


def of_node(name: str, theirs: Facts, mine: Facts, measured: NodeMeasurements) -> list[Finding]:
    """The findings about one node."""
    lines = [*_of_software(theirs, mine), *_of_network(measured), *_of_machine(measured)]
    return [line._replace(node=name) for line in lines]


def _of_software(theirs: Facts, mine: Facts) -> list[Finding]:
    lines = [Finding(GOOD, "machine", f"{theirs.host}: {theirs.cpu}, {theirs.cores} cores")]
    if theirs.code == mine.code:
        lines.append(Finding(GOOD, "code", f"same as here ({mine.code[:12]})"))
    else:
        what = f"{theirs.code[:12]} instead of {mine.code[:12]}"
        lines.append(Finding(BAD, "code", what, "check out the same commit there"))
    other = [
        f"{package} {theirs.versions.get(package, 'missing')} instead of {version}"
        for package, version in mine.versions.items()
        if theirs.versions.get(package) != version
    ]
    if other:
        lines.append(Finding(BAD, "versions", ", ".join(other), "install the same: `make setup CLUSTER=1`"))
    else:
        lines.append(Finding(GOOD, "versions", "same as here"))
    differing = [model for model, digest in mine.models.items() if theirs.models.get(model, "") not in ("", digest)]
    if differing:
        what = f"other files for {', '.join(differing)}"
        lines.append(Finding(WARNING, "models", what, "copy the files, or each run sends them, which takes time"))
    return lines


def _of_network(measured: NodeMeasurements) -> list[Finding]:
    slow = measured.round_trip > _MAX_ROUND_TRIP_SECONDS
    trip = f"{measured.round_trip * 1e3:.2f} ms, the slowest of a hundred {measured.slow_trip * 1e3:.2f} ms"
    cure = "use a faster network: Server's queries have less time left" if slow else ""
    carried = f"{measured.sending / 1e6:,.0f} MB/s to it, {measured.receiving / 1e6:,.0f} MB/s from it"
    return [
        Finding(WARNING if slow else GOOD, "round trip", trip, cure),
        Finding(GOOD, "bandwidth", carried),
    ]


def _of_machine(measured: NodeMeasurements) -> list[Finding]:
    lines = []
    if abs(measured.ahead) > _MAX_CLOCK_SECONDS:
        what = f"{abs(measured.ahead):.2f} s {'ahead of' if measured.ahead > 0 else 'behind'} this machine's"
        lines.append(Finding(WARNING, "clock", what, "synchronise it (NTP, PTP)"))
    else:
        lines.append(Finding(GOOD, "clock", f"{measured.ahead * 1e3:+.1f} ms from this machine's"))
    busy = measured.lost_cores > 0.05 * measured.cores
    what = f"other processes use {measured.lost_cores:.2f} of {measured.cores:g} cores"
    lines.append(Finding(WARNING if busy else GOOD, "other processes", what, "stop them" if busy else ""))
    return lines


def between(found: dict[str, Facts]) -> list[Finding]:
    """The findings about all nodes together."""
    if not found:
        return []
    cores = {facts.cores for facts in found.values()}
    cpus = {facts.cpu for facts in found.values()}
    total = sum(facts.cores for facts in found.values())
    lines = [Finding(GOOD, "nodes", f"{len(found)} with {total} cores", node="")]
    if len(cores) > 1 or len(cpus) > 1:
        what = "the machines differ: each gets samples in proportion to its measured rate"
        lines.append(Finding(WARNING, "nodes", what, "describe each kind in the system description", ""))
    return lines
