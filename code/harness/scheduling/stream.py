"""SingleStream and MultiStream: LoadGen issues a query once the previous one is answered, and its latency counts."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from harness.scheduling.base import Complete, LocalScheduler, Observer, Work
from harness.scheduling.cost import CostTable
from harness.task.shape import Integers
from harness.task.sut import SUT


class StreamScheduler(LocalScheduler):
    """Answers each query in the callback that issues it: there is no queue, and no thread other than LoadGen's.

    If the engine has several streams, other threads run the rest of a query's samples in parallel.
    """

    def __init__(self, sut: SUT, table: CostTable, complete: Complete, observer: Observer | None = None) -> None:
        super().__init__(sut, complete, observer)
        self.table = table
        others = sut.engine.streams - 1
        self._others = ThreadPoolExecutor(others, thread_name_prefix="stream") if others else None

    def close(self) -> None:
        """End the other threads."""
        if self._others:
            self._others.shutdown()

    def shares(self, costs: Integers) -> list[Integers]:
        """The positions of a query's samples for each stream, long samples first, with about equal work."""
        order, streams = np.argsort(-costs, kind="stable"), self.sut.engine.streams
        return [share for stream in range(streams) if len(share := order[stream::streams])]

    def _accept(self, ids: Sequence[int], indices: Integers) -> None:
        now = (time.perf_counter(),)
        costs = self.qsl.cost(indices)
        self._issued(costs)
        if len(ids) == 1:
            self._answer(Work(list(ids), indices, self.table.shape(1, int(costs[0])), now))
            return
        shares = self.shares(costs)
        query_ids = np.array(ids, dtype=np.uint64)

        def run(share: Integers) -> None:
            lengths = costs[share].tolist()
            for start, end in self.table.split(lengths):
                part = share[start:end]
                shape = self.table.shape(end - start, lengths[start])
                self._answer(Work(query_ids[part].tolist(), indices[part], shape, now))

        pending = [self._others.submit(run, share) for share in shares[1:]] if self._others else []
        run(shares[0])
        for other in pending:
            other.result()
