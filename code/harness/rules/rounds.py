"""The rounds of MLPerf Inference that accept results, with the requirements of each.

The LoadGen that ran determines the round: its mlperf.conf is built in and carries the round's three seeds. The values
are those of the official checker (mlcommons/inference, tools/submission/submission_checker/constants.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    """The first version of LoadGen with these seeds."""
    layout: str
    """"classic" or "v6" (harness.results.layout)."""
    datacenter: bool
    """Whether these benchmarks have scenarios for a system of type "datacenter" alone."""

    def required(self, benchmark: str, system_type: str) -> frozenset[str]:
        """The scenarios that the closed division requires for a benchmark; empty if it has none for such a system."""
        rules, kinds = RULES[benchmark], set(system_type.split(","))
        if kinds == {"datacenter"}:
            return rules.datacenter if self.datacenter else frozenset()
        return rules.edge | rules.datacenter if kinds == {"datacenter", "edge"} else rules.edge


ROUNDS = (
    Round("v5.0", (6023615788873153749, 15036839855038426416, 9933818062894767841), (5, 0, 9), "classic", True),
    Round("v5.1", (1780908523862526354, 14771362308971278857, 18209322760996052031), (5, 0, 22), "classic", False),
    Round("v6.0", (2465351861681999779, 14276810075590677512, 3936089224930324775), (6, 0, 5), "v6", False),
    Round("v6.1", (2085463073848966840, 2747215439041700203, 16159082839903944936), (6, 0, 16), "v6", False),
)
DEFAULT_ROUND = ROUNDS[-1]


@dataclass(frozen=True)
class Rules:
    """The requirements of every round for a benchmark."""

    model: str
    """LoadGen's name for it, also used in `registry.BENCHMARKS`."""
    samples: int
    """Number of samples in the data set: an accuracy run answers each."""
    performance_samples: int
    """The minimum performance_sample_count."""
    metric: str
    """The name of the metric in accuracy.txt: "F1" or "acc"."""
    target: float
    """The minimum accuracy of the closed division, in percent."""
    tests: tuple[str, ...]
    """The compliance tests of the closed division."""
    delta: float
    """Percent by which TEST01's accuracy may differ from its baseline if responses are not deterministic."""
    server_latency_ms: float | None
    """The maximum target_latency of Server; None if the checker has no bound."""
    offline_samples: int
    """Minimum samples of an Offline query; the older official checker also requires them in the open division."""
    answer_bytes: tuple[int, int]
    """The smallest and the largest size of an answer in an accuracy log that the official scripts can score."""
    edge: frozenset[str]
    """The scenarios that the closed division requires for an edge system."""
    datacenter: frozenset[str]
    """Those for a datacenter system, in rounds that have any; a system of both types needs all of them."""
    mapped: str
    """Its name in a submitter's model_mapping.json."""
    recognised: tuple[str, ...]
    """Parts of open-division names by which the official checkers recognise this benchmark."""


_BERT = Rules(
    model="bert",
    samples=10833,
    performance_samples=10833,
    metric="F1",
    target=89.96526,
    tests=("TEST01",),
    delta=1.0,
    server_latency_ms=None,
    offline_samples=10833,
    answer_bytes=(9, 1 << 20),  # two numbers for each of up to 384 tokens
    edge=frozenset({"SingleStream", "Offline"}),
    datacenter=frozenset(),
    mapped="bert-99",
    recognised=("bert-99",),
)
RULES = {
    "bert-99": _BERT,
    "bert-99.9": replace(_BERT, target=90.783126, delta=0.1, mapped="bert-99.9", recognised=("bert-99.9",)),
    "resnet50": Rules(
        model="resnet50",
        samples=50000,
        performance_samples=1024,
        metric="acc",
        target=75.6954,
        tests=("TEST01", "TEST04"),
        delta=1.0,
        server_latency_ms=15.0,
        offline_samples=24576,
        answer_bytes=(1, 8),  # the number of a class
        edge=frozenset({"SingleStream", "MultiStream", "Offline"}),
        datacenter=frozenset({"Server", "Offline"}),
        mapped="resnet",
        recognised=("resnet50", "efficientnet", "mobilenet"),
    ),
}
"""By the name that results are filed under."""


def recognise(name: str) -> str | None:
    """The benchmark that the official checkers recognise in an open-division name; None if they recognise none.

    >>> recognise("my-bert-99.9-int8"), recognise("efficientnet-lite0"), recognise("mynet")
    ('bert-99.9', 'resnet50', None)
    """
    # Last first: bert-99 is part of bert-99.9.
    known = reversed(RULES.items())
    return next((each for each, rules in known if any(part in name for part in rules.recognised)), None)


def find_round(name: str) -> Round:
    """The round with that name.

    Raises:
        ConfigError: the name is unknown.
    """
    found = next((r for r in ROUNDS if r.name == name), None)
    if found is None:
        raise ConfigError(f"unknown round '{name}': {did_you_mean(name, [r.name for r in ROUNDS])}")
    return found


def round_of_version(version: str | None) -> Round | None:
    """The round whose seeds a version of LoadGen carries; None if unknown.

    >>> round_of_version("5.1.2").name, round_of_version("4.0")
    ('v5.1', None)
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version or "")[:3])
    return next((r for r in reversed(ROUNDS) if numbers >= r.first), None)


def installed_round() -> Round:
    """The round of the installed LoadGen; the newest if unknown."""
    return round_of_version(package_version("mlcommons_loadgen")) or DEFAULT_ROUND


def round_of(values: Mapping[str, Any]) -> Round | None:
    """The round whose seeds a test ran with, from the values of its mlperf_log_detail.txt; None if no round matches."""
    seeds = tuple(values.get(f"effective_{name}") for name in SEEDS)
    return next((r for r in ROUNDS if r.seeds == seeds), None)
