"""Nodes in this process: messages travel as bytes, as between machines, but without a network."""

import importlib
import pickle
import queue
import threading
from collections.abc import Callable, Sequence

from harness.cluster.link import Link
from harness.cluster.messages import Answers, NodeReady, NodeRequest, Parcel
from harness.cluster.node import Node, Prepare
from harness.host.supervise import Beat
from harness.task.shape import Integers


def find_prepare(name: str) -> Prepare:
    """The function that `NodeRequest.prepare` names."""
    module, function = name.split(":")
    found: Prepare = getattr(importlib.import_module(module), function)
    return found


def connect_threads(number: int, request: NodeRequest, beat: Beat) -> Sequence[Link]:
    """Links to ``number`` nodes in this process, which share its cores.

    Raises:
        HarnessError: as raised by the function `NodeRequest.prepare`; no node is left behind.
    """
    prepare, links = find_prepare(request.prepare), list[LocalLink]()
    try:
        for place in range(number):
            links.append(LocalLink(*prepare(request, f"threads-{place}", beat)))
    except BaseException:
        for link in links:
            link.close()
        raise
    return links


class LocalLink(Link):
    """A node in this process; one thread hands it the parcels."""

    def __init__(self, node: Node, ready: NodeReady) -> None:
        self.name, self.ready = ready.name, ready
        self._node = node
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answered: Callable[[Answers], None] = lambda answers: None
        self._thread = threading.Thread(target=self._carry, name=self.name, daemon=True)
        self._thread.start()

    def open(self, answered: Callable[[Answers], None], failed: Callable[[BaseException], None]) -> None:
        """Begin a test."""
        self._answered = answered
        self._node.open(failed)

    def send(self, parcel: Parcel) -> None:
        """Send a copy of a parcel, as if to another machine."""
        self._messages.put(pickle.dumps(parcel))

    def give_up(self) -> None:
        """Tell the node directly, without waiting for queued parcels."""
        self._node.give_up()

    def load(self, indices: Integers) -> None:
        """Load these samples, on the caller's thread."""
        self._node.load(indices)

    def close(self) -> None:
        """End the threads of the link and the node."""
        self._messages.put(None)
        self._thread.join()
        self._node.close()

    def _carry(self) -> None:
        while (message := self._messages.get()) is not None:
            self._node.answer(pickle.loads(message), self._back)

    def _back(self, answers: Answers) -> None:
        self._answered(pickle.loads(pickle.dumps(answers)))
