"""A SUT that answers at once, and a driver for any scheduler with it."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np

from harness.engines.null import NullEngine, NullSettings
from harness.errors import EngineError
from harness.task.sut import SUT, Responses

COSTS = np.random.default_rng(0).integers(1, 385, 500)


class Qsl:
    count = len(COSTS)

    def cost(self, indices):
        return COSTS[indices]

    def arrange(self, indices):
        return np.argsort(indices, kind="stable")


class EchoSut(SUT):
    """Answers each sample with its own index as the size of the response."""

    unit = "tokens"

    def __init__(self, streams=1, fail_at=None):
        super().__init__(NullEngine(None, NullSettings(streams=streams)), Qsl())
        self.fail_at = fail_at
        self.shapes = set()

    def signature(self, shape):
        raise AssertionError

    feed = encode = signature

    def answer(self, indices, shape):
        if self.fail_at is not None and self.fail_at in indices:
            raise EngineError("the engine broke")
        self.shapes.add(shape)
        assert len(indices) <= shape.batch
        return Responses(np.zeros(len(indices), np.int64), indices, np.zeros(1))


def serve(scheduler_of, queries):
    """Issue queries of sample indices to ``scheduler_of(complete)``, wait, and return what was completed.

    That is the scheduler, {id: index}, and how often each id was seen.
    """
    answers, seen, lock = {}, Counter(), threading.Lock()

    def complete(ids, responses):
        with lock:
            seen.update(ids)
            answers.update(zip(ids, responses.sizes.tolist(), strict=True))

    scheduler = scheduler_of(complete)
    start = 1 << 40  # LoadGen's ids are addresses
    for query in queries:
        scheduler.issue(list(range(start, start + len(query))), list(query))
        start += len(query)
    scheduler.flush()
    scheduler.close()
    return scheduler, answers, seen
