"""What the progress shows: in particular how long a test still takes, from its first tenth on."""

from types import SimpleNamespace

import numpy as np
import pytest
from forecasts import ALLOWED, coverage, error, forecasts_at

from harness.running.load import Load
from harness.running.progress import ProgressText
from harness.running.recorder import LatencyCounts
from harness.scenarios.offline import Offline
from harness.scenarios.server import Server
from harness.scenarios.stream import MultiStream, SingleStream
from harness.scheduling.base import Counters
from harness.scheduling.batching import DynamicPlanner
from harness.scheduling.offline import expected_seconds
from harness.task.shape import Shape
from harness.terminal.progress import Progress

BEGAN = 100.0


def load(scenario, *, seconds=600.0, least=1, rate=None, per_second=None) -> Load:
    return Load(
        benchmark="bert",
        scenario=scenario,
        path=None,
        rate=rate,
        rate_line=None,
        seconds=seconds,
        default_seconds=600.0,
        duration_line=None,
        min_queries=least,
        min_queries_line=None,
        per_second=per_second or rate,
    )


def outlook(test, *, accuracy=False, samples=0, cost=0, bound=None, latency=None) -> ProgressText:
    return ProgressText(
        test, accuracy, samples, cost, "tokens", bound, SimpleNamespace(latency=lambda percentile: latency)
    )


def arrived(queries: int, per_query: int = 1) -> Counters:
    """So many queries arrived and are answered."""
    done = queries * per_query
    return Counters(began=100.0, issued=done, completed=done, batches=done, real=50 * done, done_cost=50 * done)


def test_server_shows_the_planned_time_and_the_percentile_against_the_bound():
    seen = outlook(load(Server, rate=37.0), bound=0.13, latency=0.0491).view(arrived(2220), 160.0)
    assert ", ".join(seen.facts) == (
        "1 min 00 s of 10 min 00 s (10 %), 2,220 queries, 37.0 queries/s, 99th percentile 49.1 ms of 130 ms allowed"
    )
    assert (seen.fraction, seen.left) == (pytest.approx(0.1), pytest.approx(540))


def shown(seen: ProgressText, at, lasted: float) -> tuple[float, float]:
    """The worst error of the time left, and the share of the time in which one is shown; ``at`` gives the counters."""
    moments = np.arange(0.25, lasted, max(lasted / 2000, 0.25))
    forecasts = forecasts_at(moments, lambda now: seen.view(at(now), BEGAN + now).left)
    return error(forecasts, lasted), coverage(forecasts, lasted)


@pytest.mark.parametrize(
    ("scenario", "seconds", "least", "took"),
    [
        (SingleStream, 20.0, 1, np.full(3000, 0.01)),
        (SingleStream, 600.0, 5000, np.full(5000, 0.25)),  # its own rate decides: said were 8 queries per second
        (SingleStream, 20.0, 1, np.concatenate([[3.0], np.full(3000, 0.01)])),  # the first query compiles
        (MultiStream, 20.0, 662, np.random.default_rng(3).gamma(4, 0.02, 662)),
        (MultiStream, 600.0, 662, np.random.default_rng(4).gamma(16, 0.125, 662)),
    ],
)
def test_a_stream_ends_when_its_progress_says(scenario, seconds, least, took):
    ends = np.cumsum(took)
    lasted = float(max(seconds, ends[least - 1]))
    test = load(scenario, seconds=seconds, least=least, per_second=8.0)

    def at(now: float) -> Counters:
        done = int(np.searchsorted(ends, now))
        counters = arrived(done, scenario.samples_per_query)
        counters.ended = BEGAN + ends[done - 1] if done else 0.0
        return counters

    wrong, known = shown(outlook(test), at, lasted)
    assert (wrong <= ALLOWED, known > 0.95) == (True, True)


@pytest.mark.parametrize(("seconds", "least", "rate"), [(60.0, 1, 20.0), (20.0, 1001, 10.0), (20.0, 459, 15.0)])
@pytest.mark.parametrize("seed", range(4))
def test_server_ends_when_its_progress_says(seconds, least, rate, seed):
    """Also where the number of queries decides, which come at random: 459 of them within some 5 %."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, int(4 * max(rate * seconds, least))))
    last = max(least, int(np.searchsorted(arrivals, seconds)))
    lasted = float(max(arrivals[last - 1], seconds)) + 0.1

    def at(now: float) -> Counters:
        counters = arrived(int(np.searchsorted(arrivals[:last] + 0.1, now)))
        counters.issued = int(np.searchsorted(arrivals[:last], now))
        return counters

    wrong, known = shown(outlook(load(Server, seconds=seconds, least=least, rate=rate)), at, lasted)
    assert (wrong <= ALLOWED, known > 0.95) == (True, True)


def test_queries_of_several_samples_are_counted_once():
    seen = outlook(load(MultiStream, per_second=8.0), latency=0.125).view(arrived(800, 8), 200.0)
    assert seen.facts[1:] == ("800 queries", "8.00 queries/s", "99th percentile 125 ms")


def test_queries_that_wait_at_the_end_take_their_time():
    counters = arrived(1200)
    counters.issued += 100
    assert outlook(load(Server, seconds=60.0, rate=20.0)).view(counters, 160.0).left == pytest.approx(100 / 20)


def test_nothing_is_left_of_a_test_whose_time_is_over():
    seen = outlook(load(Server, seconds=60.0, rate=20.0)).view(arrived(1200), 159.5, over=True)
    assert seen.left is None
    assert seen.facts[0] == "1 min 00 s of 1 min 00 s (100 %)"


def pace(shape: Shape) -> float:
    """A token of the longest sample takes twice the time of one of the shortest."""
    return shape.batch * shape.length * (1 + shape.length / 384) * 1e-3


def compiled(shape: Shape, seen: set[Shape]) -> float:
    """As OpenVINO does: a shape that is new takes twice as long."""
    new = shape not in seen
    seen.add(shape)
    return pace(shape) * (2 if new else 1)


@pytest.mark.parametrize("accuracy", [False, True])
@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("took", [lambda shape, seen: pace(shape), compiled], ids=["known", "compiling"])
@pytest.mark.parametrize("count", [400, 4000])
def test_a_query_whose_long_samples_run_first_ends_when_its_progress_says(accuracy, streams, took, count):
    """Of three batches at once, each is a third slower than alone in the warm-up."""
    lengths = np.random.default_rng(1).integers(20, 384, count)
    batches = DynamicPlanner(16, 3000).plan(lengths)
    warm = [batches[at].shape for at in np.linspace(0, len(batches) - 1, 4).astype(int)]
    expected = expected_seconds({shape: 0.7 * pace(shape) for shape in warm})
    ends, free, seen = [], [0.0] * streams, set()
    for batch in batches:
        stream = free.index(min(free))
        began = free[stream]
        free[stream] += took(batch.shape, seen)
        ends.append((began, free[stream], batch))
    total = int(lengths.sum())

    def at(now: float) -> Counters:
        done = [batch for _, end, batch in ends if end <= now]
        running = [(began, batch) for began, end, batch in ends if began <= now < end]
        counters = Counters(began=BEGAN, issued=count, real=total, batches=len(done))
        counters.completed = sum(len(batch.positions) for batch in done)
        counters.done_cost = int(sum(lengths[batch.positions].sum() for batch in done))
        counters.planned_seconds = sum(expected(batch.shape) for batch in batches)
        counters.done_seconds = sum(expected(batch.shape) for batch in done)
        counters.busy_seconds = sum(end - began for began, end, _ in ends if end <= now)
        counters.running = {n: (BEGAN + at, expected(batch.shape)) for n, (at, batch) in enumerate(running)}
        return counters

    whole = (count, total) if accuracy else (0, 0)
    test = outlook(load(Offline, rate=100.0), accuracy=accuracy, samples=whole[0], cost=whole[1])
    wrong, known = shown(test, at, max(free))
    assert wrong <= ALLOWED
    assert known > 0.85


def test_an_accuracy_run_pauses_between_the_sets_of_samples_that_it_loads():
    """Of ImageNet, a thousand images at a time: a tenth of the time goes into loading them."""
    samples, each, loading = 50_000, 1000, 2.0

    def at(now: float) -> Counters:
        sets, into = divmod(now, each * 0.02 + loading)
        done = int(sets * each + min(into / 0.02, each))
        issued = int(min((sets + 1) * each, samples))
        return Counters(BEGAN, issued=issued, completed=done, batches=done, real=issued, done_cost=done)

    lasted = 50 * (each * 0.02 + loading) - loading
    test = outlook(load(Offline, rate=50.0), accuracy=True, samples=samples, cost=samples)
    wrong, known = shown(test, at, lasted)
    assert (wrong <= ALLOWED, known > 0.95) == (True, True)


def test_counts_and_percentage_are_of_the_same_unit():
    counters = Counters(began=100.0, issued=400, completed=100, batches=10, real=40_000, done_cost=16_000)
    assert outlook(load(Offline, rate=10.0)).view(counters, 110.0).facts == (
        "16,000 of 40,000 tokens (40 %)",
        "100 of 400 samples",
        "1,600 tokens/s",
        "10.0 samples/s",
    )
    images = Counters(began=100.0, issued=400, completed=100, batches=10, real=400, done_cost=100)
    assert outlook(load(Offline, rate=10.0)).view(images, 110.0).facts == (
        "100 of 400 samples (25 %)",
        "10.0 samples/s",
    )


def test_no_time_left_is_shown_before_the_first_batch_is_done():
    assert outlook(load(Offline, rate=10.0)).view(Counters(began=100.0, issued=400, real=400), 110.0).left is None


def test_the_line_holds_the_facts_of_the_test(capsys):
    now = [0.0]
    with Progress("LoadGen", unit="samples", clock=lambda: now[0]) as bar:
        for now[0], left in ((1.0, 9.0), (3.0, 7.4)):
            bar.show(["30 of 100 tokens (30 %)", "10.0 tokens/s"], done=3, fraction=0.3, left=left)
    assert capsys.readouterr().err.splitlines() == [
        "LoadGen: 30 of 100 tokens (30 %), 10.0 tokens/s, 7 s left",
        "LoadGen: 3 samples in 3.0 s",
    ]


def test_latencies_so_far_are_known_within_two_percent():
    counts, latencies = LatencyCounts(), np.random.default_rng(2).lognormal(-4, 0.5, 5000)
    assert counts.quantile(0.99) is None
    for number, latency in enumerate(latencies):
        counts.add([10.0 * number], 10.0 * number + latency)
    for share in (0.5, 0.9, 0.99):
        assert counts.quantile(share) == pytest.approx(np.quantile(latencies, share), rel=0.02)


def test_the_latency_of_a_query_in_several_batches_is_that_of_the_last():
    counts = LatencyCounts()
    for query in range(3):
        counts.add([query], query + 0.1)
        counts.add([query], query + 0.4)
    assert counts.quantile(0.5) == pytest.approx(0.4, rel=0.02)
