"""Engines with choices, for tuning; used as --engine choosy:Name."""

from __future__ import annotations

import time

from harness.engines.null import NullEngine


class Choosy(NullEngine):
    """Twice as fast with two streams; three do not work, and batches of two crash the process."""

    name = "choosy"
    seconds = 0.008

    @classmethod
    def search_space(cls, max_cost, one_stream):
        return [[{"streams": "1"}, {"streams": "2"}, {"streams": "3"}], [{"max_batch": "1"}, {"max_batch": "2"}]]

    def compile(self, signature):
        import os

        if self.streams == 3:
            raise RuntimeError("three is too many")
        if self.settings.max_batch == 2:
            os._exit(9)
        inner = super().compile(signature)

        def runner(batch):
            time.sleep(self.seconds)
            return inner(batch)

        return runner


class Slow(Choosy):
    """Much slower."""

    name = "slow"
    seconds = 0.04
