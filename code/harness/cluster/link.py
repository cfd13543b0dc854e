"""The contract between the driver and one node, independent of how messages are sent."""

from collections.abc import Callable
from typing import Protocol

from harness.cluster.messages import Answers, NodeReady, Parcel
from harness.task.shape import Integers


class Link(Protocol):
    """The driver's side of one ready node. All tests of a process use the same links, one after the other."""

    name: str
    ready: NodeReady

    def open(self, answered: Callable[[Answers], None], failed: Callable[[BaseException], None]) -> None:
        """Begin a test; the node makes a new scheduler (`Node.open`).

        Both functions may be called from any thread, and never raise. ``failed`` receives the error that ends the test:
        one of the node, or its loss, with a message that names the node.
        """

    def send(self, parcel: Parcel) -> None:
        """Hand a parcel to the node (`Node.answer`) and return at once; from any thread, in the order of the calls.

        Its arrays must not change afterwards: they may be sent later.
        """

    def give_up(self) -> None:
        """Make the node answer its pending samples without computing them (`Node.give_up`); returns at once."""

    def load(self, indices: Integers) -> None:
        """Make the node load exactly these samples of its own data set (`Node.load`), if only indices are sent.

        Returns when they are loaded; may be called from any thread.

        Raises:
            RunFailed: the node cannot load them, or is lost.
        """

    def close(self) -> None:
        """End the node and leave nothing of it behind. May be called twice, and after a loss."""
