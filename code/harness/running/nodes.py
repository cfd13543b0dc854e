"""Each node's part in a test, for the record and the progress."""

from collections.abc import Sequence

from harness.cluster.link import Link
from harness.cluster.messages import NodeReady
from harness.cluster.scheduler import ClusterScheduler, NodeCounters
from harness.results.parts import RecordedLimits, RecordedNode, RecordedStreams, recorded_seconds, recorded_shapes
from harness.scheduling.base import Scheduler

_MAX_SHOWN_NODES = 6  # nodes in the progress line


def node_records(links: Sequence[Link], scheduler: Scheduler) -> tuple[RecordedNode, ...]:
    """The nodes and their parts in the test; empty if the scheduler has none."""
    if not isinstance(scheduler, ClusterScheduler):
        return ()
    began, ended = scheduler.counters.began, scheduler.counters.ended
    return tuple(
        _node(link.ready, counters, began, ended) for link, counters in zip(links, scheduler.nodes, strict=True)
    )


def _node(ready: NodeReady, counters: NodeCounters, began: float, ended: float) -> RecordedNode:
    """A node's part in the test, which lasted from ``began`` to ``ended`` (seconds of time.perf_counter())."""
    batches, last = ready.batches, max(0.0, counters.ended - began)
    node = RecordedNode(
        name=ready.name,
        host=ready.host,
        machine=ready.machine,
        model_sha256=ready.model_sha256,
        code=ready.code,
        streams=ready.streams,
        rate=ready.rate,
        engine=ready.engine,
        shapes=recorded_shapes(batches.shapes),
        chosen_streams=RecordedStreams.of(batches.streams) if batches.streams else None,
        round_trip_ms=round(1000 * ready.round_trip, 4) if ready.round_trip else None,
        samples=counters.samples,
        batches=counters.batches,
        idle_s=round(counters.idle_until(ended), 4),
        ended_s=round(last, 4),
        cores_busy=round(counters.cpu_seconds / last, 3) if last and counters.cpu_seconds else None,
    )
    # A key that says nothing is left out of run.json.
    if ready.converted:
        node.converted = ready.converted
    if batches.seconds is not None:
        node.measured_seconds = recorded_seconds(batches.seconds)
    if batches.limits:
        node.limits = RecordedLimits.of(batches.limits)
    return node


def progress_of(scheduler: Scheduler) -> str:
    """The number of samples that each node has answered, as text; "" if the scheduler has no nodes."""
    if not isinstance(scheduler, ClusterScheduler):
        return ""
    nodes = scheduler.nodes
    words = [f"{node.name} {node.samples:,}" for node in nodes[:_MAX_SHOWN_NODES]]
    if len(nodes) > _MAX_SHOWN_NODES:
        words.append(f"{len(nodes) - _MAX_SHOWN_NODES} more {sum(node.samples for node in nodes[_MAX_SHOWN_NODES:]):,}")
    return ", ".join(words)
