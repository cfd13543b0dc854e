"""Who gets which samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nodes import ready

from harness.cluster import deal
from harness.cluster.deal import OfflineDealer, Power, ServerDealer, power

POWERS = st.builds(
    lambda rate, batch, streams: Power(rate, batch * streams, batch),
    st.sampled_from([0.0, 1.0, 50.0, 1e7]),
    st.integers(1, 64),
    st.integers(1, 8),
)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 384), max_size=600),
    st.lists(POWERS, min_size=1, max_size=5),
    st.integers(1, 300),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_every_sample_is_dealt_once_whatever_the_order_of_answers(costs, nodes, most, many, random):
    with pytest.MonkeyPatch.context() as patch:
        if many:  # nodes for so few messages
            patch.setattr(deal, "_MAX_CHUNKS_PER_SECOND", 1)
        check_dealing(costs, nodes, most, random)


def check_dealing(costs, nodes, most, random):
    costs = np.sort(np.array(costs, dtype=np.int64))[::-1]
    dealer = OfflineDealer(nodes)
    dealer.begin(costs, most)
    dealt, held = 0, {node: [] for node in range(len(nodes))}
    while True:
        for node in random.sample(sorted(held), len(held)):
            while part := dealer.next(node):
                assert part.start == dealt
                assert 1 <= part.stop - part.start <= max(most, nodes[node].batch)
                dealt = part.stop
                held[node].append(part)
        busy = [node for node in held if held[node]]
        if not busy:
            break
        node = random.choice(busy)
        part = held[node].pop(0)
        dealer.answered(node, part.stop - part.start, int(costs[part].sum()), random.choice([0.0, 0.1, 100.0]))
    assert dealt == len(costs)
    assert dealer.rest() is None


def test_a_node_that_answers_nothing_more_keeps_no_samples_from_others():
    dealer = OfflineDealer([Power(100.0, 4, 4), Power(1.0, 4, 4)])
    dealer.begin(np.full(1000, 10), 1000)
    assert dealer.next(1)
    while part := dealer.next(0):
        dealer.answered(0, part.stop - part.start, int(10 * (part.stop - part.start)), 0.1)
    assert dealer.rest() is None


def test_chunks_begin_small_become_smaller_and_hold_whole_batches():
    dealer = OfflineDealer([Power(1000.0, 32, 8)])
    dealer.begin(np.full(5000, 1), 10_000)
    sizes = []
    while part := dealer.next(0):
        sizes.append(part.stop - part.start)
        dealer.answered(0, sizes[-1], sizes[-1], sizes[-1] / 1000)
    assert sizes.pop(0) == 32
    assert 900 < max(sizes) <= 1000  # no more than the work of a second
    assert sizes == sorted(sizes, reverse=True)
    assert [size % 8 for size in sizes[:-1]] == [0] * (len(sizes) - 1)
    assert min(sizes[:-1]) == 32


def test_a_node_that_turns_out_slower_gets_less():
    dealer = OfflineDealer([Power(1000.0, 1, 1), Power(1000.0, 1, 1)])
    dealer.begin(np.full(10_000, 1), 10_000)
    dealer.next(1)
    first = dealer.next(1)
    dealer.answered(1, first.stop - first.start, first.stop - first.start, 10.0)
    again = dealer.next(1)
    assert again.stop - again.start < (first.stop - first.start) / 2


def test_a_short_query_is_divided_among_all_nodes():
    dealer = OfflineDealer([Power(1000.0, 128, 64), Power(1000.0, 128, 64)])
    dealer.begin(np.full(96, 1), 10_000)
    dealt = [0, 0]
    for node in (0, 1) * 20:
        if part := dealer.next(node):
            dealt[node] += part.stop - part.start
    assert min(dealt) >= 32  # what is left goes to the first that is done


def test_small_parcels_keep_all_streams_busy():
    dealer = OfflineDealer([Power(1000.0, 32, 4)])
    dealer.begin(np.full(10_000, 1), 5)  # no more than five samples may travel at once
    held = 0
    while part := dealer.next(0):
        assert part.stop - part.start == 4
        held += 4
    assert held == 64


@pytest.mark.parametrize(("most", "sizes"), [(27, {24}), (8, {8}), (7, {8})])
def test_parcels_of_limited_size_hold_whole_batches_and_at_least_one(most, sizes):
    dealer = OfflineDealer([Power(1000.0, 32, 8)])
    dealer.begin(np.full(10_000, 1), most)
    assert {part.stop - part.start for part in iter(lambda: dealer.next(0), None)} == sizes


def test_at_the_end_each_stream_gets_a_part_of_a_batch():
    dealer = OfflineDealer([Power(1000.0, 32, 8), Power(1000.0, 32, 8)])
    dealer.begin(np.full(40, 1), 10_000)
    parts = []
    while part := dealer.next(0):
        parts.append(part.stop - part.start)
    assert len(parts) >= 4
    assert max(parts) <= 8
    assert sum(parts) <= 24


def test_the_rest_is_taken_at_once():
    dealer = OfflineDealer([Power(10.0, 1, 1)])
    dealer.begin(np.full(100, 1), 100)
    part = dealer.next(0)
    assert dealer.rest() == slice(part.stop, 100)
    assert dealer.next(0) is None


def test_a_node_without_a_rate_counts_as_the_others():
    dealer = ServerDealer([Power(0.0, 1, 1), Power(4.0, 1, 1)])
    assert [dealer.choose([1], 0.0) for _ in range(6)] == [0, 1] * 3


def test_answers_make_room():
    dealer = ServerDealer([Power(1.0, 1, 1), Power(1.0, 1, 1)])
    assert [dealer.choose([5], 0.0), dealer.choose([1], 0.0), dealer.choose([1], 0.0)] == [0, 1, 1]
    dealer.answered(0, [5], 0.0)
    assert dealer.choose([1], 0.0) == 0


def test_what_a_node_has_computed_of_a_sample_counts_as_done():
    dealer = ServerDealer([Power(100.0, 1, 1), Power(100.0, 1, 1)])
    assert [dealer.choose([100], 0.0), dealer.choose([60], 0.3)] == [0, 1]
    assert dealer.choose([10], 0.7) == 1  # 30 and 20 of them are left
    assert dealer.choose([10], 0.95) == 0  # 5, and none of the 60 but all of the 10


def test_a_sample_that_takes_longer_than_expected_does_not_hide_those_behind_it():
    dealer = ServerDealer([Power(100.0, 1, 1), Power(100.0, 1, 1)])
    assert [dealer.choose([10], 0.0), dealer.choose([90], 0.0), dealer.choose([50], 0.01)] == [0, 1, 0]
    # The first node is still busy with 10 units: after 0.8 s, it has 50 left by what is known, and the other one 10.
    assert dealer.choose([5], 0.8) == 1


def test_a_node_goes_on_with_the_next_sample_when_it_answers():
    dealer = ServerDealer([Power(100.0, 1, 1), Power(100.0, 1, 1)])
    assert [dealer.choose([50], 0.0), dealer.choose([65], 0.0), dealer.choose([30], 0.0)] == [0, 1, 0]
    dealer.answered(0, [50], 0.5)
    # At 0.6 s: 20 left, and 5.
    assert dealer.choose([1], 0.6) == 1


def test_streams_work_on_one_sample_each():
    dealer = ServerDealer([Power(100.0, 4, 1), Power(100.0, 1, 1)])
    # Four streams need four times as long for one sample as one of the same rate: after 0.5 s, 40 are left, and 2.
    assert [dealer.choose([52], 0.0), dealer.choose([52], 0.0)] == [0, 1]
    assert dealer.choose([1], 0.5) == 1


@settings(deadline=None)
@given(st.lists(POWERS, min_size=1, max_size=4), st.lists(st.lists(st.integers(1, 384), min_size=1), max_size=50))
def test_nothing_is_outstanding_once_all_is_answered(nodes, groups):
    dealer, now, held = ServerDealer(nodes), 0.0, []
    for number, group in enumerate(groups):
        now += 0.01 * (number % 3)
        held.append((dealer.choose(group, now), group))
        if number % 2:
            dealer.answered(*held.pop(number % len(held)), now)
    for node, group in held:
        dealer.answered(node, group, now)
    assert not dealer._outstanding.any()
    assert not dealer._serving.any()
    assert not dealer._speeds.any()


@pytest.mark.parametrize(("streams", "largest"), [(1, 64), (8, 4)])
def test_the_power_of_a_node_is_what_it_said(streams, largest):
    assert power(ready(rate=7.0, streams=streams, largest=largest)) == Power(7.0, streams * largest, largest)
