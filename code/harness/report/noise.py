"""Whether one of two runs is faster beyond the noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.report.facts import percentile, ratio_text
from harness.results.timeline import Timeline

_SEED = 20240607
_RESAMPLES = 10_000
_RESAMPLES_OF_QUERIES = 500  # each takes a quantile of all queries
_STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 8: 2.306, 10: 2.228, 15: 2.131, 30: 2.042}
"""97.5 % quantiles of Student's distribution by degrees of freedom."""
_FEWEST_BINS, _FEWEST_QUERIES = 16, 200  # of which the noise within a run is told
_BATCHES_OF_A_BIN = 4  # at least: of fewer, what lies between two batches' ends is a guess
_BENDS = 8  # the degree of the curve that is taken for the plan's: enough for a rate that trebles
_DECISIVE = {"SingleStream": "90.00", "MultiStream": "99.00", "Server": "99.00"}
"""The percentile that a scenario is about."""


@dataclass(frozen=True)
class Side:
    """A run, or repeats of one."""

    names: tuple[str, ...]
    records: tuple[dict[str, Any], ...]
    timelines: tuple[Timeline | None, ...]

    @property
    def scenario(self) -> str:
        """LoadGen's name."""
        return str(self.records[0]["scenario"])

    @property
    def accuracy(self) -> bool:
        """Whether these are accuracy runs."""
        return self.records[0]["mode"] == "accuracy"

    def values(self, *path: str) -> list[float]:
        """A number below ``result`` of each record; empty unless all have it."""
        found = [_at(record["result"], path) for record in self.records]
        return [float(value) for value in found if value is not None] if None not in found else []


@dataclass(frozen=True)
class Verdict:
    """Whether B is faster, as far as the noise lets it be told."""

    text: str
    faster: bool | None = None
    """None: no difference beyond the noise, or not known."""
    metric: str | None = None
    ratio: float | None = None
    """B ÷ A of the metric; of latencies, less is better."""
    interval: tuple[float, float] | None = None
    """95 % of the ratio."""
    noise: str | None = None
    """Where it was taken from."""


def _at(values: Any, path: Sequence[str]) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _latency_name(key: str) -> str:
    return f"latency observed, {percentile(key)}"


@dataclass(frozen=True)
class _Measure:
    """What the verdict is about."""

    name: str
    path: tuple[str, ...]
    """Below ``result``."""
    lower: bool
    """Whether less is better."""
    note: str = ""


def _measure(a: Side, b: Side) -> _Measure:
    if a.scenario in ("SingleStream", "MultiStream"):
        key = _DECISIVE[a.scenario]
        return _Measure(_latency_name(key), ("latency_ms", key), True)
    note = ""
    if a.scenario == "Server":
        asked = [_at(record, ("loadgen", "effective_target_qps")) for side in (a, b) for record in side.records]
        if None not in asked and max(asked) <= 1.01 * min(asked):
            key = _DECISIVE["Server"]
            note = " Both were asked for the same rate, so that their latencies are compared."
            return _Measure(_latency_name(key), ("latency_ms", key), True, note)
        note = " Server's throughput is the rate that it was asked for; VALID says that it held it."
    return _Measure("throughput", ("metric", "value"), False, note)


def _verdict(a: Side, b: Side) -> Verdict:
    if a.accuracy or b.accuracy:
        return Verdict("No verdict on speed: accuracy runs are not timed.")
    for path in (("scenario",), ("model", "benchmark")):
        of = [_at(side.records[0], path) for side in (a, b)]
        if of[0] != of[1]:
            return Verdict(f"No verdict: {of[0]} and {of[1]} are not one measure.")
    measure = _measure(a, b)
    if a.scenario == "Server" and not measure.lower and not all(r["valid"] for r in (*a.records, *b.records)):
        return Verdict("No verdict: a Server run that is INVALID did not hold the rate that it was asked for.")
    values = a.values(*measure.path), b.values(*measure.path)
    if not all(values) or min(map(min, values)) <= 0:
        return Verdict(f"No verdict: a run has no {measure.name}.", metric=measure.name)
    ratio = statistics.median(values[1]) / statistics.median(values[0])
    rng = np.random.default_rng(_SEED)
    if max(map(len, values)) > 1:
        noise = f"from {len(values[0])} and {len(values[1])} runs"
        if min(map(len, values)) == 1:
            noise += ", the single one taken to vary as the others do"
        return _judge(measure, ratio, _repeats(*map(np.array, values)), noise, "is")
    noise = "from what varies within each run; only repeats tell what varies from run to run"
    statistic = _throughput if not measure.lower else _latency
    share = float(measure.path[-1]) / 100 if measure.lower else 0
    deviations = [statistic(side.timelines[0], share, rng) for side in (a, b)]
    if deviations[0] is None or deviations[1] is None:
        text = (
            f"B ÷ A is {ratio_text(ratio)} ({measure.name}), and one run tells nothing of the noise: repeat each, and "
            f"give the repeats with commas between.{measure.note}"
        )
        return Verdict(text, None, measure.name, ratio)
    drawn = ratio * np.exp(deviations[1] - deviations[0])
    low, high = (float(limit) for limit in np.quantile(drawn, (0.025, 0.975)))
    return _judge(measure, ratio, (low, high), noise, "was")


def _judge(measure: _Measure, ratio: float, interval: tuple[float, float], noise: str, verb: str) -> Verdict:
    """The verdict; ``verb`` is "was" where it holds for these two runs only."""
    # Times as fast, whichever way the metric goes.
    better: Callable[[float], float] = (lambda value: 1 / value) if measure.lower else (lambda value: value)
    speed, (least, most) = better(ratio), sorted(map(better, interval))
    about = f"{measure.name}, {noise}"
    if least <= 1 <= most:
        limits = f"95 %: {ratio_text(interval[0])} to {ratio_text(interval[1])}"
        text, faster = f"No difference beyond the noise (B ÷ A {ratio_text(ratio)}, {limits}; {about}).", None
    elif 0.5 < speed < 2:
        faster = least > 1
        gain, low, high = (speed - 1, least - 1, most - 1) if faster else (1 - speed, 1 - most, 1 - least)
        words = "faster" if faster else "slower"
        text = f"B {verb} {words} by {gain * 100:.1f} % (95 %: {low * 100:.1f} to {high * 100:.1f} %; {about})."
    else:
        faster = least > 1
        times, low, high = (speed, least, most) if faster else (1 / speed, 1 / most, 1 / least)
        one, other = "BA" if faster else "AB"
        text = f"{one} {verb} {times:,.2f} times as fast as {other} (95 %: {low:,.2f} to {high:,.2f}; {about})."
    return Verdict(text + measure.note, faster, measure.name, ratio, interval, noise)


def _repeats(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of B ÷ A around the ratio of the medians, of logarithms whose spread both sides share.

    At least one side has two runs or more. Medians of so few that are drawn anew would call two runs a side different
    one time in three where nothing is.
    """
    logs = np.log(a), np.log(b)
    freedom = len(a) + len(b) - 2
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in logs)
    error = math.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))
    reach = math.exp(_STUDENT[max(known for known in _STUDENT if known <= freedom)] * error)
    ratio = float(np.median(b) / np.median(a))
    return ratio / reach, ratio * reach


def _throughput(timeline: Timeline | None, _: float, rng: np.random.Generator) -> np.ndarray | None:
    """By how much (log) the rate of a run deviates when blocks of its time are drawn anew; None where it is too short.

    What changes slowly over the whole test is its plan, which puts long samples first, and not noise: it is taken out.
    """
    if timeline is None:
        return None
    size = math.ceil(len(timeline.done) / max(1, min(len(timeline.done), timeline.batches // _BATCHES_OF_A_BIN)))
    count = len(timeline.done) // size
    if count < _FEWEST_BINS:
        return None
    done = timeline.done[: count * size].reshape(count, size).sum(axis=1)
    at = np.linspace(-1, 1, count)
    degree = min(_BENDS, count // 8)
    trend = np.polynomial.Polynomial.fit(at, done, degree)(at)
    # Weighted as they count in the whole: what is done, not the share of a bin.
    length = round(count ** (1 / 3))
    # The curve also takes some of the noise of blocks away: as many of them as it has coefficients.
    deviations = (done - trend) / done.mean() * math.sqrt(count / (count - (degree + 1) * length))
    means = _block_means(deviations - deviations.mean(), length, rng)
    return np.log(np.maximum(1 + means, 1e-3))


def _block_means(values: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Means of series that are made of blocks of this one, of that length."""
    count = len(values)
    upto = np.concatenate(([0.0], np.cumsum(np.concatenate((values, values[:length])))))
    blocks = -(-count // length)
    starts = rng.integers(0, count, (_RESAMPLES, blocks))
    return (upto[starts + length] - upto[starts]).sum(axis=1) / (blocks * length)


def _latency(timeline: Timeline | None, share: float, rng: np.random.Generator) -> np.ndarray | None:
    """By how much (log) a quantile of a run's latencies deviates when blocks of its queries are drawn anew."""
    if timeline is None or len(timeline.latencies) < _FEWEST_QUERIES:
        return None
    latencies = np.maximum(timeline.latencies.astype(np.float64), 1e-9)
    count = len(latencies)
    length = max(2, round(math.sqrt(count)))
    within = np.arange(length)
    here = np.quantile(latencies, share)
    found = np.empty(_RESAMPLES_OF_QUERIES)
    for number in range(len(found)):
        starts = rng.integers(0, count, (-(-count // length), 1))
        found[number] = np.quantile(latencies[(starts + within) % count], share)
    # Both sides are drawn as often, whatever each is drawn from.
    return rng.choice(np.log(found / here), _RESAMPLES)
