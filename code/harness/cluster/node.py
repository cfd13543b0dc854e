"""The node's side: the scheduler of a run on one machine, with the samples of parcels in place of a data set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.cluster.messages import DATA, Answers, NodeReady, NodeRequest, Parcel
from harness.errors import RunFailed
from harness.host.supervise import Beat
from harness.scenarios.base import Scenario
from harness.scheduling.base import Work
from harness.task.qsl import Carrier, extended
from harness.task.shape import Array, Integers, Shape
from harness.task.sut import Responses

_PLACES = 256  # at the start; doubled whenever they run out
_CPU_READING_SECONDS = 0.5  # between two readings of the process's CPU time


class Prepare(Protocol):
    """The function that `NodeRequest.prepare` names; the driver chooses the node's ``name``."""

    def __call__(self, request: NodeRequest, name: str, beat: Beat) -> tuple[Node, NodeReady]:
        """The warmed-up node, and its report to the driver; raises any error that must end the run."""


class Node:
    """Answers parcels with the SUT of a prepared scenario. Its methods may be called from any thread."""

    def __init__(self, scenario: Scenario, samples: str) -> None:
        """``samples`` is `DATA` or `INDICES`; with `INDICES`, the data set holds the samples of the last `load`."""
        self._scenario = scenario
        self._library = scenario.sut.qsl
        self._carrier: Carrier | None = None
        if samples == DATA:
            self._carrier = self._library.carrier(_PLACES)
            scenario.sut.qsl = self._carrier
        self._test: _NodeTest | None = None

    def open(self, failed: Callable[[BaseException], None]) -> None:
        """Begin a test with a new scheduler; ``failed`` gets the error that ends it, once, on any thread."""
        self.close()
        self._test = _NodeTest(self._scenario, self._carrier, failed)

    def answer(self, parcel: Parcel, done: Callable[[Answers], None]) -> None:
        """Call ``done``, on any thread, once the whole parcel is answered. Never raises: see ``failed`` of `open`."""
        assert self._test, "`open` comes first"
        self._test.answer(parcel, done)

    def give_up(self) -> None:
        """Answer the rest of the test without computing it: see `Scheduler.give_up`."""
        if self._test:
            self._test.scheduler.give_up()

    def load(self, indices: Integers) -> None:
        """Load exactly these samples of this node's data set.

        Raises:
            RunFailed: one of its files changed.
        """
        self._library.unload(np.arange(self._library.count))
        self._library.load(indices)

    def close(self) -> None:
        """End the test and its threads; the SUT stays ready."""
        test, self._test = self._test, None
        if test:
            test.close()


class _Pending:
    """A parcel and its responses so far."""

    def __init__(self, parcel: Parcel, cost: int, done: Callable[[Answers], None]) -> None:
        self.parcel, self.cost, self.done = parcel, cost, done
        self.left = len(parcel.ids)
        self.positions: list[Integers] = []
        self.sizes: list[Integers] = []
        self.pieces: list[NDArray[np.uint8]] = []
        self.batches = self.padded = 0

    def answers(self, cpu_seconds: float) -> Answers:
        """All responses, in the order in which they were computed."""
        return Answers(
            self.parcel.number,
            self.parcel.ids[np.concatenate([np.empty(0, np.int64), *self.positions])],
            np.concatenate([np.zeros(1, np.int64), *self.sizes]).cumsum(),
            np.concatenate([np.empty(0, np.uint8), *self.pieces]),
            self.batches,
            self.padded,
            self.cost,
            cpu_seconds,
        )


class _NodeTest:
    """The parcels of one test.

    Each sample in flight has a place, a number that serves as its id in this machine's scheduler and, if samples are
    sent, as its index in the carrier.
    """

    def __init__(self, scenario: Scenario, carrier: Carrier | None, failed: Callable[[BaseException], None]) -> None:
        self._carrier, self._failed, self._over = carrier, failed, False
        self._lock = threading.Lock()
        self._accepting = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._free = np.ones(carrier.count if carrier else _PLACES, bool)
        self._number = np.zeros(len(self._free), np.int64)
        self._position = np.zeros(len(self._free), np.int64)
        self._ran = threading.local()
        self._began = time.process_time()
        self._cpu, self._cpu_read_at = 0.0, time.perf_counter()
        self.scheduler = scenario.scheduler(self._complete, self)
        self.scheduler.on_failure = self._fail

    def close(self) -> None:
        """End the threads; nothing is reported afterwards."""
        self._over = True
        self.scheduler.stop()
        self.scheduler.close()

    def arrived(self, when: float) -> None:
        """Ignored."""

    def answered(self, start: float, end: float, work: Work, cost: int) -> None:
        """Keep the shape for `_complete`, which follows on the same thread."""
        self._ran.shape = work.shape

    def answer(self, parcel: Parcel, done: Callable[[Answers], None]) -> None:
        """See `Node.answer`."""
        try:
            with self._accepting:  # the carrier takes one parcel at a time
                places = self._take(len(parcel.ids))
                indices = parcel.indices
                if self._carrier:
                    if parcel.samples is None:
                        raise RunFailed(f"parcel {parcel.number} came without its samples; this is a bug.")
                    self._carrier.put(places, parcel.samples)
                    indices = places
            pending = _Pending(parcel, int(self.scheduler.qsl.cost(indices).sum()), done)
            with self._lock:
                self._pending[parcel.number] = pending
                self._number[places] = parcel.number
                self._position[places] = np.arange(len(places))
            if len(places):
                self.scheduler.issue(places.tolist(), indices.tolist())
            else:
                self._finish(pending)
        except BaseException as error:  # noqa: BLE001  the driver must learn of it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._over:
            self._failed(error)

    def _take(self, count: int) -> Integers:
        """Reserve the ``count`` lowest free places: batches of adjacent places need no copy."""
        with self._lock:
            free = np.flatnonzero(self._free)
            if len(free) < count:
                self._grow(count - len(free))
                free = np.flatnonzero(self._free)
            places = free[:count]
            self._free[places] = False
        return places

    def _grow(self, missing: int) -> None:
        count = len(self._free)
        places = max(2 * count, count + missing)
        if self._carrier:
            self._carrier.grow(places)
        self._number, self._position = extended(self._number, places), extended(self._position, places)
        self._free = extended(self._free, places)
        self._free[count:] = True

    def _complete(self, ids: list[int], responses: Responses) -> None:
        places = np.array(ids, dtype=np.int64)
        shape: Shape = getattr(self._ran, "shape", Shape(0, 0))  # a stopped scheduler has no observer
        finished = []
        with self._lock:
            numbers, positions = self._number[places], self._position[places]
            for count, number in enumerate(np.unique(numbers).tolist()):
                pending, part = self._pending[number], numbers == number
                sizes = responses.sizes[part]
                pending.positions.append(positions[part])
                pending.sizes.append(sizes)
                pending.pieces.append(_gathered(responses.buffer, responses.offsets[part], sizes))
                if not count:  # a batch of several parcels counts once
                    pending.batches += 1
                    pending.padded += shape.batch * shape.length
                pending.left -= len(sizes)
                if not pending.left:
                    finished.append(self._pending.pop(number))
            self._free[places] = True
        for pending in finished:
            self._finish(pending)

    def _finish(self, pending: _Pending) -> None:
        # Reading a process's time may take milliseconds in a container.
        if (now := time.perf_counter()) > self._cpu_read_at + _CPU_READING_SECONDS:
            self._cpu_read_at, self._cpu = now, time.process_time() - self._began
        if not self._over:
            pending.done(pending.answers(self._cpu))


def _gathered(buffer: Array, offsets: Integers, sizes: Integers) -> NDArray[np.uint8]:
    """A copy of the responses, one after the other."""
    data = buffer.reshape(-1).view(np.uint8)
    ends = offsets + sizes
    if (offsets[1:] == ends[:-1]).all():
        return data[offsets[0] : ends[-1]].copy()
    pieces = [data[start:end] for start, end in zip(offsets.tolist(), ends.tolist(), strict=True)]
    return np.concatenate(pieces)
