"""Nodes that answer with nothing in them but bytes, and a driver for `test_cluster_faults` and `benchmarks.cluster`.

`python cluster_nodes.py CLUSTER PHASE` connects, prints one line of JSON for each event, and ends when its standard
input does. Each line has the moment, in seconds of the monotonic clock, which all processes of a machine share.

The phase is what the nodes do when it says "ready": `idle` (a test is open, without samples), `answering`,
`some finish` (answering, but the last two get their last sample soon) or `errors` (each of three has failed in its own
way, and the second is answering); or `warm-up`, in which they never get ready.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from dataclasses import replace

import numpy as np

from harness.cluster.messages import Answers, NodeReady, NodeRequest, Parcel
from harness.errors import EngineError
from harness.machines import hosts, ray_link
from harness.machines.silence import SILENT_SECONDS
from harness.results.parts import RecordedEngine, RecordedMachine
from harness.scenarios.base import Estimate

READY = NodeReady(
    name="",
    host="",
    streams=1,
    parallel=1,
    rate=1.0,
    estimate=Estimate(1.0, 1.0, "assumed"),
    peak=0.0,
    slowest=0.0,
    largest=1,
    inputs=(),
    outputs=(),
    model_sha256="",
    code="",
    versions={},
    machine=RecordedMachine.here(),
    engine=RecordedEngine(name="none"),
)


class Instant:
    """Answers each parcel at once, or fails where one has no samples."""

    def open(self, failed):
        self._failed = failed

    def answer(self, parcel, done):
        if not len(parcel.ids):
            self._failed(EngineError("the engine broke"))
            return
        count = len(parcel.ids)
        done(Answers(parcel.number, parcel.ids, np.arange(count + 1), np.zeros(count, np.uint8), 1, 0, 0))

    def give_up(self):
        pass

    def load(self, indices):
        pass

    def close(self):
        pass


def instant(request, name, beat):
    return Instant(), replace(READY, name=name)


def slow(request, name, beat):
    """Takes half a minute to warm up, and at first lets no other thread of its process run."""
    beat(60)
    ctypes.PyDLL(None).sleep(int(SILENT_SECONDS) + 2)
    beat(60, "it held the lock for longer than a heartbeat may take")
    time.sleep(30)
    return instant(request, name, beat)


def late(request, name, beat):
    """Promises progress in a second, and makes none."""
    beat(1, "the engine of a test warms up")
    time.sleep(60)


def broken(request, name, beat):
    raise EngineError("the model has no such operator")


def parcel(number: int, count: int, samples=None) -> Parcel:
    ids = np.arange(number * count, (number + 1) * count, dtype=np.uint64)
    return Parcel(number, ids, np.zeros(count, np.int64), samples)


def say(event: str, **facts: object) -> None:
    line = json.dumps({"event": event, "when": time.monotonic(), **facts}) + "\n"
    os.write(1, line.encode())  # whole, whichever threads write at once


def _said(links) -> None:
    say("met", pids={link.name: [link.about.pid, link.about.parent] for link in links})


class _Test:
    """Keeps one parcel in flight on each node: whoever answers gets the next; some get no more after twenty."""

    def __init__(self, links, finishing=()) -> None:
        self.finishing = finishing
        self.count = dict.fromkeys((link.name for link in links), 0)
        for link in links:
            link.open(lambda answers, link=link: self.answered(link), lambda error, link=link: self.failed(link, error))

    def start(self, link) -> None:
        link.send(parcel(0, 8))

    def answered(self, link) -> None:
        self.count[link.name] += 1
        if self.count[link.name] == 20:
            say("answers", node=link.name)
            if link in self.finishing:
                return
        time.sleep(0.005)
        link.send(parcel(self.count[link.name], 8))

    def failed(self, link, error) -> None:
        say("lost", node=link.name, message=str(error))


class _Beats:
    """Prints each new word of what the nodes do."""

    def __init__(self):
        self.seen = set()

    def __call__(self, within, doing=""):
        if doing not in self.seen:
            self.seen.add(doing)
            say("beat", doing=doing)


def main(cluster: str, phase: str) -> None:
    made = ray_link.RayCluster(hosts.read(cluster), _Beats())
    _said(made.links)
    try:
        if phase == "errors":
            failing, *links = _each_with_its_error(made)
        else:
            prepare = "slow" if phase == "warm-up" else "instant"
            links = made.links_to(NodeRequest(b"", f"cluster_nodes:{prepare}"), _Beats())
        if phase == "errors":
            _Test([failing])
            failing.send(parcel(0, 0))
        test = _Test(links, links[-2:] if phase == "some finish" else ())
        if phase != "idle":
            for link in links:
                test.start(link)
        say("ready")
        sys.stdin.read()
    except Exception as error:  # noqa: BLE001
        say("failed", kind=type(error).__name__, message=str(error))
    finally:
        made.close()
        say("closed")


def _each_with_its_error(made):
    """The first two nodes fail while they prepare, each in its own way; returns links of the third and the second."""
    everyone = made.links
    for place, prepare in enumerate(("late", "broken")):
        made.links = [everyone[place]]
        try:
            made.links_to(NodeRequest(b"", f"cluster_nodes:{prepare}"), lambda *given: None)
        except Exception as error:  # noqa: BLE001
            say("failed", kind=type(error).__name__, message=str(error))
    made.links = [everyone[2], everyone[1]]
    return made.links_to(NodeRequest(b"", "cluster_nodes:instant"), lambda *given: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
