"""The nodes as one system: an engine that represents all of theirs, and checks that the nodes are alike."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from harness.cluster.link import Link
from harness.cluster.messages import DATA, Answers, NodeReady, Parcel
from harness.engines.base import Engine, EngineSettings, Runner, Signature
from harness.errors import ConfigError
from harness.task.qsl import Carrier, SampleLibrary
from harness.task.shape import Array, Integers, Shape

_ROUND_TRIPS = 9
_FACTS: Mapping[str, Callable[[NodeReady], object]] = {
    "model": lambda ready: ready.model_sha256,
    "version of the engine": lambda ready: ready.engine.version,
    "data set": lambda ready: ready.data,
    "Python": lambda ready: ready.versions.get("python"),
}
"""Facts that must be the same on all nodes, by their names in messages."""


class NodesEngine(Engine):
    """Describes the nodes' engines to the driver; runs nothing, since only nodes compute.

    `engine_of` makes a subclass with the facts of the engine that the nodes run.
    """

    def __init__(self, model: Path, settings: EngineSettings, links: Sequence[Link]) -> None:
        super().__init__(model, settings)
        self.links = links
        first = links[0].ready
        self.inputs, self.outputs = tuple(first.inputs), tuple(first.outputs)
        self.streams = sum(link.ready.streams for link in links)

    @property
    def parallel(self) -> int:
        """Streams that compute at once, on all nodes together."""
        return sum(link.ready.parallel for link in self.links)

    def compile(self, signature: Signature) -> Runner:
        """Never called."""
        raise AssertionError("only nodes compute")

    def describe(self) -> dict[str, JsonValue]:
        """The first node's facts, with the streams of all nodes."""
        return {**self.links[0].ready.engine.values(), "streams": self.streams}

    def close(self) -> None:
        """End the nodes."""
        for link in self.links:
            link.close()


def round_trip(link: Link, qsl: SampleLibrary, payload: str) -> float:
    """Median round-trip time of an empty parcel, in seconds.

    Raises:
        HarnessError: the node failed, or is lost.
    """
    back: queue.SimpleQueue[Answers | BaseException] = queue.SimpleQueue()
    link.open(back.put, back.put)
    none = np.empty(0, np.int64)
    packed = qsl.pack(none) if payload == DATA else None
    took = []
    for number in range(_ROUND_TRIPS):
        start = time.perf_counter()
        link.send(Parcel(number, none.astype(np.uint64), none, packed))
        found = back.get()
        if isinstance(found, BaseException):
            raise found
        took.append(time.perf_counter() - start)
    return float(np.median(took))


class HeldByNodes(SampleLibrary):
    """A data set held by the nodes: each loads all that LoadGen loads, and the driver needs only the costs."""

    def __init__(self, own: SampleLibrary, links: Sequence[Link]) -> None:
        super().__init__(own.count, own.performance_count)
        self.files = own.files
        self._own, self._links = own, links

    def arrange(self, indices: Integers) -> Integers:
        """The order in which the driver's own data set puts them."""
        return self._own.arrange(indices)

    def cost(self, indices: Integers) -> Integers:
        """The costs in the driver's own data set."""
        return self._own.cost(indices)

    def collate(self, indices: Integers, shape: Shape) -> Mapping[str, Array]:
        """Never called."""
        raise AssertionError("only nodes compute")

    def pack(self, indices: Integers) -> Mapping[str, Array]:
        """Never called."""
        raise AssertionError("samples are not sent")

    def carrier(self, places: int) -> Carrier:
        """Never called."""
        raise AssertionError("samples are not sent")

    def hold(self, indices: Integers) -> None:
        """Make all nodes load these samples at the same time; raises the first error."""
        with ThreadPoolExecutor(len(self._links), thread_name_prefix="load") as pool:
            for _ in pool.map(lambda link: link.load(indices), self._links):
                pass


def engine_of(kind: type[Engine]) -> type[NodesEngine]:
    """The `NodesEngine` for nodes that run engines of ``kind``."""
    facts = {name: getattr(kind, name) for name in ("name", "Settings", "computes", "alternative", "reshapes")}
    return type(f"{kind.__name__}OfNodes", (NodesEngine,), facts)


def check_alike(nodes: Sequence[NodeReady], code: str) -> None:
    """Check that all nodes run the same software, model and data; ``code`` is the digest of the driver's code.

    Raises:
        ConfigError: one differs; the message names the node and the difference.
    """
    for node in nodes:
        if node.code != code:
            raise ConfigError(
                f"node {node.name} on {node.host} runs different code of the harness than this machine: update its "
                "checkout."
            )
        for words, of in _FACTS.items():
            if of(node) != of(nodes[0]):
                raise ConfigError(
                    f"node {node.name} on {node.host} has a different {words} ({_short(of(node))}) than node "
                    f"{nodes[0].name} on {nodes[0].host} ({_short(of(nodes[0]))}): make them the same."
                )
        _check_packages(node, nodes[0])


def _check_packages(node: NodeReady, first: NodeReady) -> None:
    for name in sorted({*node.versions, *first.versions}):
        mine, other = node.versions.get(name), first.versions.get(name)
        if mine != other:
            raise ConfigError(
                f"node {node.name} on {node.host} has {name} {mine or 'not installed'}, and node {first.name} on "
                f"{first.host} {other or 'not installed'}: install the same (`make setup`)."
            )


def _short(value: object) -> str:
    """A fact for a message; a digest is shortened."""
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
