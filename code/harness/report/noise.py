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
"""The number by which two results are compared."""
ASKED_RATE = "effective_target_qps"
"""The key in a record's ``loadgen`` of the target rate of a paced test, in queries per second."""
_SEED = 20240607
_RESAMPLES = 10_000
_RESAMPLES_OF_QUERIES = 500  # each takes a quantile of all queries
_STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 8: 2.306, 10: 2.228, 15: 2.131, 30: 2.042}
"""97.5 % quantiles of Student's distribution by degrees of freedom."""
_MIN_BINS, _MIN_QUERIES = 16, 200  # for an estimate of the noise within a run
_MIN_BATCHES_OF_BIN = 4  # with fewer, the progress between the ends of two batches is a guess
_CURVE_DEGREE = 8  # of the curve fitted to the progress: enough for a rate that triples


@dataclass(frozen=True)
class Side:
    """A run, or repeats of the same run."""

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
        """The quantity of each record's result; empty unless all have it."""
        found = [quantity(record.result) for record in self.records]
        return [value for value in found if value is not None] if None not in found else []


@dataclass(frozen=True)
class SpeedVerdict:
    """Whether B is faster, as far as the noise allows a verdict."""

    text: str
    faster: bool | None = None
    """None: no difference beyond the noise, or unknown."""
    metric: str | None = None
    ratio: float | None = None
    """B ÷ A of the metric; for latencies, lower is better."""
    interval: tuple[float, float] | None = None
    """The 95 % confidence interval of the ratio."""
    noise: str | None = None
    """How the noise was estimated."""


def latency(key: str) -> Quantity:
    """A percentile of the latency."""
    return lambda result: (result.latency_ms or {}).get(key)


def not_comparable(a: Side, b: Side) -> str:
    """Why neither side can be called better, such as "Offline and Server are not comparable"; "" if one can be."""
    kinds = (
        tuple(side.scenario.name for side in (a, b)),
        tuple(side.records[0].model.benchmark for side in (a, b)),
        tuple("performance" if side.performance else "accuracy" for side in (a, b)),
    )
    return next((f"{one} and {other} are not comparable" for one, other in kinds if one != other), "")


def speed_verdict(a: Side, b: Side) -> SpeedVerdict:
    """Whether B is faster than A: judged by repeats if there are any, otherwise by the variation within each run."""
    if not (a.performance and b.performance):
        return SpeedVerdict("No verdict on speed: accuracy runs are not timed.")
    if why := not_comparable(a, b):
        return SpeedVerdict(f"No verdict: {why}.")
    measure = _measure(a, b)
    if a.scenario.paced and not measure.lower and not all(record.valid for record in (*a.records, *b.records)):
        name = a.scenario.name
        return SpeedVerdict(f"No verdict: an INVALID {name} run did not sustain its target rate.")
    values = a.values(measure.value), b.values(measure.value)
    if not all(values) or min(map(min, values)) <= 0:
        return SpeedVerdict(f"No verdict: a run has no {measure.name}.", metric=measure.name)
    ratio = statistics.median(values[1]) / statistics.median(values[0])
    if max(map(len, values)) > 1:
        noise = f"from {len(values[0])} and {len(values[1])} runs"
        if min(map(len, values)) == 1:
            noise += ", assuming that the single one varies as the others do"
        return _judge(measure, ratio, interval_of_repeats(*map(np.array, values)), noise, "is")
    interval = _interval_of_runs(measure, ratio, a.timelines[0], b.timelines[0])
    if interval is None:
        text = (
            f"B ÷ A is {ratio_text(ratio)} ({measure.name}), but a single run gives no noise estimate: repeat each run "
            f"and list the repeats separated by commas.{measure.note}"
        )
        return SpeedVerdict(text, None, measure.name, ratio)
    noise = "from the variation within each run; only repeats show the variation between runs"
    return _judge(measure, ratio, interval, noise, "was")


@dataclass(frozen=True)
class _ComparedQuantity:
    """The quantity that the verdict is based on."""

    name: str
    value: Quantity
    percentile: int | None = None
    """The percentile of a latency; None for a throughput."""
    note: str = ""

    @property
    def lower(self) -> bool:
        """Whether lower is better."""
        return self.percentile is not None


def _measure(a: Side, b: Side) -> _ComparedQuantity:
    scenario, note, by_latency = a.scenario, "", a.scenario.latency
    if scenario.paced:
        asked = [record.loadgen.get(ASKED_RATE) for side in (a, b) for record in side.records]
        rates = [rate for rate in asked if isinstance(rate, int | float)]
        by_latency = len(rates) == len(asked) and max(rates) <= 1.01 * min(rates)
        note = f" {scenario.name}'s throughput is its target rate; VALID means that it was sustained."
        if by_latency:
            note = " Both had the same target rate, so their latencies are compared."
    if not by_latency:
        return _ComparedQuantity("throughput", lambda result: result.metric.value, None, note)
    key = f"{scenario.percentile}.00"
    return _ComparedQuantity(latency_name(key), latency(key), scenario.percentile, note)


def _judge(
    measure: _ComparedQuantity, ratio: float, interval: tuple[float, float], noise: str, verb: str
) -> SpeedVerdict:
    """The verdict; ``verb`` is "was" if it applies to these two runs only."""
    # Convert a ratio of the metric to a ratio of speeds, where higher is better.
    better: Callable[[float], float] = (lambda value: 1 / value) if measure.lower else (lambda value: value)
    speed, (lower, upper) = better(ratio), sorted(map(better, interval))
    about = f"{measure.name}, {noise}"
    if lower <= 1 <= upper:
        limits = f"95 %: {ratio_text(interval[0])} to {ratio_text(interval[1])}"
        text, faster = f"No difference beyond the noise (B ÷ A {ratio_text(ratio)}, {limits}; {about}).", None
    elif 0.5 < speed < 2:
        faster = lower > 1
        gain, low, high = (speed - 1, lower - 1, upper - 1) if faster else (1 - speed, 1 - upper, 1 - lower)
        words = "faster" if faster else "slower"
        text = f"B {verb} {words} by {gain * 100:.1f} % (95 %: {low * 100:.1f} to {high * 100:.1f} %; {about})."
    else:
        faster = lower > 1
        times, low, high = (speed, lower, upper) if faster else (1 / speed, 1 / upper, 1 / lower)
        one, other = "BA" if faster else "AB"
        text = f"{one} {verb} {times:,.2f} times as fast as {other} (95 %: {low:,.2f} to {high:,.2f}; {about})."
    return SpeedVerdict(text + measure.note, faster, measure.name, ratio, interval, noise)


def interval_of_repeats(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Student's 95 % interval of B ÷ A around the ratio of the medians, on logarithms with one spread for both sides.

    At least one side has two or more runs. With so few, resampled medians would call two runs per side different in one
    case out of three where nothing differs.
    """
    logs = np.log(a), np.log(b)
    freedom = len(a) + len(b) - 2
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in logs)
    error = math.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))
    reach = math.exp(_STUDENT[max(known for known in _STUDENT if known <= freedom)] * error)
    ratio = float(np.median(b) / np.median(a))
    return ratio / reach, ratio * reach


def _interval_of_runs(
    measure: _ComparedQuantity, ratio: float, a: Timeline | None, b: Timeline | None
) -> tuple[float, float] | None:
    """The 95 % interval of B ÷ A from the variation within each run; None if a run is too short for that."""
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


def spread(scenario: type[Scenario], timeline: Timeline | None) -> tuple[float, float] | None:
    """The 95 % interval of a run's result, relative to that result, from the variation within the run; None if unknown.

    Server's throughput is the target rate, which does not vary.
    """
    if timeline is None or scenario.paced:
        return None
    rng = np.random.default_rng(_SEED)
    percentile = scenario.percentile if scenario.latency else None
    drawn = _throughputs(timeline, rng) if percentile is None else _latencies(timeline, percentile / 100, rng)
    if drawn is None:
        return None
    low, high = np.quantile(np.exp(drawn), (0.025, 0.975))
    return float(low), float(high)


def _throughputs(timeline: Timeline, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """Deviations (log) of a run's rate when blocks of its time are resampled; None if the run is too short.

    Slow changes over the whole test come from the order of its samples, long ones first, not from noise, and are
    removed.
    """
    size = math.ceil(len(timeline.done) / max(1, min(len(timeline.done), timeline.batches // _MIN_BATCHES_OF_BIN)))
    count = len(timeline.done) // size
    if count < _MIN_BINS:
        return None
    done = timeline.done[: count * size].reshape(count, size).sum(axis=1)
    at = np.linspace(-1, 1, count)
    degree = min(_CURVE_DEGREE, count // 8)
    trend = np.polyval(np.polyfit(at, done, degree), at)
    length = round(count ** (1 / 3))
    # Relative to the mean of all bins, so that each bin counts by its samples. The curve also removes the noise of as
    # many blocks as it has coefficients, which the factor restores.
    deviations = (done - trend) / done.mean() * math.sqrt(count / (count - (degree + 1) * length))
    means = _block_means(deviations - deviations.mean(), length, rng)
    logs: NDArray[np.float64] = np.log(np.maximum(1 + means, 1e-3))
    return logs


def _block_means(values: NDArray[np.float64], length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of series composed of random blocks of ``values``, each ``length`` long."""
    count = len(values)
    upto = np.concatenate(([0.0], np.cumsum(np.concatenate((values, values[:length])))))
    blocks = -(-count // length)
    starts = rng.integers(0, count, (_RESAMPLES, blocks))
    sums: NDArray[np.float64] = (upto[starts + length] - upto[starts]).sum(axis=1)
    return sums / (blocks * length)


def _latencies(timeline: Timeline, share: float, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """Deviations (log) of a latency quantile when blocks of a run's queries are resampled; None if too few queries."""
    if len(timeline.latencies) < _MIN_QUERIES:
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
    # Both sides get the same number of draws.
    return rng.choice(np.log(found / here), _RESAMPLES)
