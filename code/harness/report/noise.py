"""Whether one of two runs is faster beyond the noise."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.report.facts import latency_name, ratio_text
from harness.results.record import Record, RecordedResult
from harness.results.timeline import Timeline
from harness.scenarios.base import Scenario, find_scenario

Quantity: TypeAlias = Callable[[RecordedResult], float | None]
"""What is compared of two results."""
ASKED_RATE = "effective_target_qps"
"""Of a record's ``loadgen``: the queries a second that a paced test was asked for."""
_SEED = 20240607
_RESAMPLES = 10_000
_RESAMPLES_OF_QUERIES = 500  # each takes a quantile of all queries
_STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 8: 2.306, 10: 2.228, 15: 2.131, 30: 2.042}
"""97.5 % quantiles of Student's distribution by degrees of freedom."""
_FEWEST_BINS, _FEWEST_QUERIES = 16, 200  # of which the noise within a run is told
_BATCHES_OF_A_BIN = 4  # at least: of fewer, what lies between two batches' ends is a guess
_BENDS = 8  # the degree of the curve that is taken for the plan's: enough for a rate that trebles


@dataclass(frozen=True)
class Side:
    """A run, or repeats of one."""

    names: tuple[str, ...]
    records: tuple[Record, ...]
    timelines: tuple[Timeline | None, ...]

    @property
    def scenario(self) -> type[Scenario]:
        """LoadGen's scenario."""
        return find_scenario(self.records[0].scenario)

    @property
    def performance(self) -> bool:
        """Whether these are performance runs."""
        return self.records[0].performance

    def values(self, quantity: Quantity) -> list[float]:
        """A number of each record's result; empty unless all have it."""
        found = [quantity(record.result) for record in self.records]
        return [value for value in found if value is not None] if None not in found else []


@dataclass(frozen=True)
class SpeedVerdict:
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


def latency(key: str) -> Quantity:
    """A percentile of the latency."""
    return lambda result: (result.latency_ms or {}).get(key)


def speed_verdict(a: Side, b: Side) -> SpeedVerdict:
    """From repeats if there are any, and else from what varies within each run."""
    if not (a.performance and b.performance):
        return SpeedVerdict("No verdict on speed: accuracy runs are not timed.")
    one, other = a.records[0], b.records[0]
    for of in ((one.scenario, other.scenario), (one.model.benchmark, other.model.benchmark)):
        if of[0] != of[1]:
            return SpeedVerdict(f"No verdict: {of[0]} and {of[1]} are not one measure.")
    measure = _measure(a, b)
    if a.scenario.paced and not measure.lower and not all(record.valid for record in (*a.records, *b.records)):
        name = a.scenario.name
        return SpeedVerdict(f"No verdict: a {name} run that is INVALID did not hold the rate that it was asked for.")
    values = a.values(measure.value), b.values(measure.value)
    if not all(values) or min(map(min, values)) <= 0:
        return SpeedVerdict(f"No verdict: a run has no {measure.name}.", metric=measure.name)
    ratio = statistics.median(values[1]) / statistics.median(values[0])
    if max(map(len, values)) > 1:
        noise = f"from {len(values[0])} and {len(values[1])} runs"
        if min(map(len, values)) == 1:
            noise += ", the single one taken to vary as the others do"
        return _judge(measure, ratio, interval_of_repeats(*map(np.array, values)), noise, "is")
    interval = _interval_of_runs(measure, ratio, a.timelines[0], b.timelines[0])
    if interval is None:
        text = (
            f"B ÷ A is {ratio_text(ratio)} ({measure.name}), and one run tells nothing of the noise: repeat each, and "
            f"give the repeats with commas between.{measure.note}"
        )
        return SpeedVerdict(text, None, measure.name, ratio)
    noise = "from what varies within each run; only repeats tell what varies from run to run"
    return _judge(measure, ratio, interval, noise, "was")


@dataclass(frozen=True)
class _Measure:
    """What the verdict is about."""

    name: str
    value: Quantity
    percentile: int | None = None
    """Of the latency; None of a throughput."""
    note: str = ""

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.percentile is not None


def _measure(a: Side, b: Side) -> _Measure:
    scenario, note, by_latency = a.scenario, "", a.scenario.latency
    if scenario.paced:
        asked = [record.loadgen.get(ASKED_RATE) for side in (a, b) for record in side.records]
        rates = [rate for rate in asked if isinstance(rate, int | float)]
        by_latency = len(rates) == len(asked) and max(rates) <= 1.01 * min(rates)
        note = f" {scenario.name}'s throughput is the rate that it was asked for; VALID says that it held it."
        if by_latency:
            note = " Both were asked for the same rate, so that their latencies are compared."
    if not by_latency:
        return _Measure("throughput", lambda result: result.metric.value, None, note)
    key = f"{scenario.percentile}.00"
    return _Measure(latency_name(key), latency(key), scenario.percentile, note)


def _judge(measure: _Measure, ratio: float, interval: tuple[float, float], noise: str, verb: str) -> SpeedVerdict:
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
    return SpeedVerdict(text + measure.note, faster, measure.name, ratio, interval, noise)


def interval_of_repeats(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
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


def _interval_of_runs(
    measure: _Measure, ratio: float, a: Timeline | None, b: Timeline | None
) -> tuple[float, float] | None:
    """95 % of B ÷ A by what varies within each run; None where one is too short for that."""
    if a is None or b is None:
        return None
    rng = np.random.default_rng(_SEED)
    drawn = [
        _throughputs(timeline, rng)
        if measure.percentile is None
        else _latencies(timeline, measure.percentile / 100, rng)
        for timeline in (a, b)
    ]
    if drawn[0] is None or drawn[1] is None:
        return None
    low, high = np.quantile(ratio * np.exp(drawn[1] - drawn[0]), (0.025, 0.975))
    return float(low), float(high)


def _throughputs(timeline: Timeline, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """By how much (log) the rate of a run deviates when blocks of its time are drawn anew; None where it is too short.

    What changes slowly over the whole test is its plan, which puts long samples first, and not noise: it is taken out.
    """
    size = math.ceil(len(timeline.done) / max(1, min(len(timeline.done), timeline.batches // _BATCHES_OF_A_BIN)))
    count = len(timeline.done) // size
    if count < _FEWEST_BINS:
        return None
    done = timeline.done[: count * size].reshape(count, size).sum(axis=1)
    at = np.linspace(-1, 1, count)
    degree = min(_BENDS, count // 8)
    trend = np.polyval(np.polyfit(at, done, degree), at)
    # Weighted as they count in the whole: what is done, not the share of a bin.
    length = round(count ** (1 / 3))
    # The curve also takes some of the noise of blocks away: as many of them as it has coefficients.
    deviations = (done - trend) / done.mean() * math.sqrt(count / (count - (degree + 1) * length))
    means = _block_means(deviations - deviations.mean(), length, rng)
    logs: NDArray[np.float64] = np.log(np.maximum(1 + means, 1e-3))
    return logs


def _block_means(values: NDArray[np.float64], length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of series that are made of blocks of this one, of that length."""
    count = len(values)
    upto = np.concatenate(([0.0], np.cumsum(np.concatenate((values, values[:length])))))
    blocks = -(-count // length)
    starts = rng.integers(0, count, (_RESAMPLES, blocks))
    sums: NDArray[np.float64] = (upto[starts + length] - upto[starts]).sum(axis=1)
    return sums / (blocks * length)


def _latencies(timeline: Timeline, share: float, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """By how much (log) a quantile of a run's latencies deviates when blocks of its queries are drawn anew."""
    if len(timeline.latencies) < _FEWEST_QUERIES:
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
