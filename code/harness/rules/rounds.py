"""The rounds of MLPerf Inference that results can be submitted to, each with what it demands.

A round is fixed by the LoadGen that ran: its mlperf.conf is built in and carries the round's three seeds. The values
are those of the official checker (mlcommons/inference, tools/submission/submission_checker/constants.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import ConfigError, did_you_mean
from harness.host.machine import package_version

DIVISIONS = ("closed", "open")
SYSTEM_TYPES = ("datacenter", "edge", "datacenter,edge", "edge,datacenter")
SEEDS = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")


@dataclass(frozen=True)
class Round:
    """One round."""

    name: str
    """Such as "v6.1"."""
    seeds: tuple[int, int, int]
    """In the order of `SEEDS`."""
    first: tuple[int, int, int]
    """The first version of LoadGen that carries them."""
    layout: str
    """"classic" or "v6" (harness.results.layout)."""
    datacenter: bool
    """Whether a system of type "datacenter" alone has scenarios of these benchmarks."""

    def required(self, benchmark: str, system_type: str) -> frozenset[str]:
        """The scenarios that the closed division demands of a benchmark; empty where it has none for such a system."""
        kinds = set(system_type.split(","))
        if kinds == {"datacenter"}:
            served = self.datacenter and benchmark == "resnet50"
            return frozenset({"Server", "Offline"}) if served else frozenset()
        edge = {"SingleStream", "Offline"} | ({"MultiStream"} if benchmark == "resnet50" else set())
        both = kinds == {"datacenter", "edge"} and benchmark == "resnet50"
        return frozenset(edge | {"Server"} if both else edge)


ROUNDS = (
    Round("v5.0", (6023615788873153749, 15036839855038426416, 9933818062894767841), (5, 0, 9), "classic", True),
    Round("v5.1", (1780908523862526354, 14771362308971278857, 18209322760996052031), (5, 0, 22), "classic", False),
    Round("v6.0", (2465351861681999779, 14276810075590677512, 3936089224930324775), (6, 0, 5), "v6", False),
    Round("v6.1", (2085463073848966840, 2747215439041700203, 16159082839903944936), (6, 0, 16), "v6", False),
)
DEFAULT_ROUND = ROUNDS[-1]


@dataclass(frozen=True)
class Rules:
    """What the rounds demand of a benchmark, the same in all of them."""

    samples: int
    """Of the data set: an accuracy run answers each."""
    performance_samples: int
    """The least performance_sample_count."""
    metric: str
    """How the metric is called in accuracy.txt: "F1" or "acc"."""
    target: float
    """The least accuracy of the closed division, in percent."""
    tests: tuple[str, ...]
    """The compliance tests of the closed division."""
    delta: float
    """Percent by which the accuracy of TEST01 may differ from its baseline where responses are not deterministic."""
    server_latency_ms: float | None
    """The largest target_latency of Server; None where the checker has no bound."""
    offline_samples: int
    """The least samples of an Offline query; the older official checker wants them in the open division, too."""


RULES = {
    "bert-99": Rules(10833, 10833, "F1", 89.96526, ("TEST01",), 1.0, None, 10833),
    "bert-99.9": Rules(10833, 10833, "F1", 90.783126, ("TEST01",), 0.1, None, 10833),
    "resnet50": Rules(50000, 1024, "acc", 75.6954, ("TEST01", "TEST04"), 1.0, 15.0, 24576),
}
"""By the name that results are filed under."""


def find_round(name: str) -> Round:
    """The round of that name.

    Raises:
        ConfigError: there is none.
    """
    found = next((r for r in ROUNDS if r.name == name), None)
    if found is None:
        raise ConfigError(f"unknown round '{name}': {did_you_mean(name, [r.name for r in ROUNDS])}")
    return found


def round_of_version(version: str | None) -> Round | None:
    """The round whose seeds a version of LoadGen carries; None where that is not known.

    >>> round_of_version("5.1.2").name, round_of_version("4.0")
    ('v5.1', None)
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version or "")[:3])
    return next((r for r in reversed(ROUNDS) if numbers >= r.first), None)


def installed_round() -> Round:
    """The round of the LoadGen that is installed; the newest where that is not known."""
    return round_of_version(package_version("mlcommons_loadgen")) or DEFAULT_ROUND


def round_of(values: Mapping[str, Any]) -> Round | None:
    """The round whose seeds a test ran with, from the values of its mlperf_log_detail.txt; None if it is none."""
    seeds = tuple(values.get(f"effective_{name}") for name in SEEDS)
    return next((r for r in ROUNDS if r.seeds == seeds), None)
