"""The contract between the driver and one node, independent of how messages are sent."""

from collections.abc import Callable
from typing import Protocol

from harness.cluster.messages import Answers, NodeReady, Parcel
from harness.task.shape import Integers


class Link(Protocol):
    """The driver's side of one node that is ready. All tests of a process use the same links, one after the other."""

    name: str
    ready: NodeReady

    def open(self, answered: Callable[[Answers], None], failed: Callable[[BaseException], None]) -> None:
        """Begin a test; the node makes a new scheduler (`Node.open`).

        Both functions may be called from any thread, and never raise. ``failed`` is for whatever ends the test: an
        error of the node, or its loss, with a message that names the node.
        """

    def send(self, parcel: Parcel) -> None:
        """Hand a parcel to the node (`Node.answer`) and return at once; from any thread, in the order of the calls.

        Its arrays must not change any more: they may be sent later.
        """

    def give_up(self) -> None:
        """Let the node answer what it holds without computing it (`Node.give_up`); returns at once."""

    def load(self, indices: Integers) -> None:
        """Let the node's own data set hold exactly these samples (`Node.load`), where only indices travel.

        Returns once it does; from any thread.

        Raises:
            RunFailed: the node cannot, or is lost.
        """

    def close(self) -> None:
        """End the node; nothing of it is left behind. May be called twice, and after a loss."""
