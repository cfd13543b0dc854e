"""What the progress shows: in particular how long a test still takes, from its first tenth on."""

from types import SimpleNamespace

import numpy as np
import pytest

from harness.host import console
from harness.running.load import Load
from harness.running.progress import Outlook
from harness.running.recorder import LatencyCounts
from harness.scenarios.offline import Offline
from harness.scenarios.server import Server
from harness.scenarios.stream import MultiStream, SingleStream
from harness.scheduling.base import Counters
from harness.scheduling.batching import DynamicPlanner
from harness.scheduling.offline import expected_seconds
from harness.task.shape import Shape

LATER = (0.1, 0.2, 0.35, 0.5, 0.75, 0.9)


def load(scenario, *, seconds=600.0, least=1, rate=None, per_second=None) -> Load:
    return Load("bert", scenario, None, rate, None, seconds, 600.0, None, least, None, per_second or rate)


def outlook(test, *, accuracy=False, samples=0, cost=0, streams=2, bound=None, latency=None) -> Outlook:
    return Outlook(
        test, accuracy, samples, cost, "tokens", streams, bound, SimpleNamespace(latency=lambda percentile: latency)
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


@pytest.mark.parametrize("share", LATER)
def test_a_stream_lasts_as_long_as_its_own_rate_makes_it(share):
    """The estimate was wrong by a half: 5,000 queries at 4 instead of 8 per second."""
    seen = outlook(load(SingleStream, least=5000, per_second=8.0)).view(arrived(int(5000 * share)), 100 + 1250 * share)
    assert seen.left == pytest.approx(1250 * (1 - share), rel=0.05)
    assert "of 20 min 50 s" in seen.facts[0]


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


@pytest.mark.parametrize("accuracy", [False, True])
@pytest.mark.parametrize("share", LATER)
def test_a_query_whose_long_samples_cost_more_per_token_ends_when_it_is_said_to(share, accuracy):
    """A token of the longest sample takes twice the time of one of the shortest, and three batches run at once."""

    def seconds(shape: Shape) -> float:
        return shape.batch * shape.length * (1 + shape.length / 384) * 1e-3

    lengths = np.random.default_rng(1).integers(20, 384, 4000)
    batches = DynamicPlanner(16, 3000).plan(lengths)
    warm = [batches[at].shape for at in np.linspace(0, len(batches) - 1, 4).astype(int)]
    expected = expected_seconds({shape: 0.7 * seconds(shape) for shape in warm})  # one stream alone is faster
    ends, streams = [], [0.0] * 3
    for batch in batches:
        stream = streams.index(min(streams))
        streams[stream] += seconds(batch.shape)
        ends.append((streams[stream], batch))
    now, total = share * max(streams), int(lengths.sum())
    done = [batch for end, batch in ends if end <= now]
    counters = Counters(began=100.0, issued=4000, real=total, batches=len(done))
    counters.completed = sum(len(batch.positions) for batch in done)
    counters.done_cost = int(sum(lengths[batch.positions].sum() for batch in done))
    counters.planned_seconds = sum(expected(batch.shape) for batch in batches)
    counters.done_seconds = sum(expected(batch.shape) for batch in done)
    whole = (4000, total) if accuracy else (0, 0)
    seen = outlook(load(Offline, rate=100.0), accuracy=accuracy, samples=whole[0], cost=whole[1], streams=3)
    assert seen.view(counters, 100 + now).left == pytest.approx(max(streams) - now, rel=0.2)


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


def test_nothing_is_said_of_the_time_left_before_the_first_batch_is_done():
    assert outlook(load(Offline, rate=10.0)).view(Counters(began=100.0, issued=400, real=400), 110.0).left is None


def test_the_line_holds_the_facts_of_the_test(capsys):
    now = [0.0]
    with console.Progress("LoadGen", unit="samples", clock=lambda: now[0]) as bar:
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
