"""Nodes in threads behind the cluster's schedulers: ids, answers, failures and counters."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nodes import COSTS, FIRST, Collected, Numbers, TextSut, issue, make_link, offline_of, ready, server_of, text

from harness.cluster.messages import DATA, INDICES, Answers
from harness.cluster.scheduler import ClusterScheduler, ServerCluster
from harness.errors import EngineError, RunFailed


def offline(links, complete, payload=DATA, observer=None):
    return ClusterScheduler.offline(Numbers.full(), links, complete, observer, payload)


def server(links, complete, payload=DATA, observer=None, bound=10.0):
    return ClusterScheduler.server(Numbers.full(), links, complete, bound, observer, payload)


KINDS = {"Offline": (offline, offline_of), "Server": (server, server_of)}


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 499), max_size=60), max_size=6),
    st.lists(st.sampled_from([0.0, 100.0, 5000.0]), min_size=1, max_size=3),
    st.sampled_from([DATA, INDICES]),
    st.sampled_from(sorted(KINDS)),
)
def test_any_samples_get_exactly_their_response(queries, rates, payload, kind):
    scheduler_of, scenario_of = KINDS[kind]
    links = [make_link(f"n{n}", scenario_of, payload, rate=rate, streams=1 + n % 2) for n, rate in enumerate(rates)]
    collected = Collected()
    scheduler = scheduler_of(links, collected, payload)
    flat = issue(scheduler, queries)
    scheduler.close()
    for link in links:
        link.close()
    assert scheduler.failure is None
    assert set(collected.times.values()) <= {1}
    assert [collected.answers[FIRST + n] for n in range(len(flat))] == [text(number) for number in flat]
    counters = scheduler.counters
    assert counters.completed == counters.issued == sum(node.samples for node in scheduler.nodes) == len(flat)
    assert counters.real == counters.done_cost == COSTS[flat].sum() if flat else counters.real == 0
    assert counters.batches == sum(node.batches for node in scheduler.nodes)
    assert counters.padded == sum(node.padded for node in scheduler.nodes) >= counters.real


@pytest.mark.parametrize(("samples", "largest"), [(11, 8), (1, 4)])
def test_parcels_that_hold_samples_are_limited_in_bytes_but_hold_a_batch(monkeypatch, samples, largest):
    monkeypatch.setattr("harness.cluster.scheduler.PARCEL_BYTES", samples * 16)
    for payload in (DATA, INDICES):
        link, sizes, collected = make_link(payload=payload, rate=1e6), [], Collected()
        send = link.send
        link.send = lambda parcel, send=send, sizes=sizes: (sizes.append(len(parcel.ids)), send(parcel))
        scheduler = offline([link], collected, payload)
        issue(scheduler, [range(200)])
        scheduler.close()
        link.close()
        assert (max(sizes) == largest) if payload == DATA else (max(sizes) > 20)
        assert len(collected.answers) == 200


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_same_links_serve_one_test_after_the_other(kind):
    scheduler_of, scenario_of = KINDS[kind]
    link = make_link(scenario_of=scenario_of)
    for _ in range(3):
        collected = Collected()
        scheduler = scheduler_of([link], collected)
        issue(scheduler, [range(100)])
        scheduler.close()
        assert scheduler.failure is None
        assert len(collected.answers) == scheduler.counters.completed == 100
    link.close()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_engine_that_fails_on_one_node_ends_the_test(kind):
    scheduler_of, scenario_of = KINDS[kind]
    links = [make_link("good", scenario_of), make_link("bad", scenario_of, sut=TextSut(fail_at=77))]
    scheduler = scheduler_of(links, Collected())
    issue(scheduler, [[77] * 40])  # some of them on each node
    assert scheduler.failed.wait(10)
    scheduler.close()
    assert isinstance(scheduler.failure, EngineError)
    assert scheduler.counters.completed < scheduler.counters.issued
    for link in links:
        link.close()


class Recorded:
    """A link that keeps what it gets; the test answers in its place."""

    def __init__(self, name="one", **about):
        self.name, self.ready, self.parcels, self.given_up = name, ready(name, **about), [], False

    def open(self, answered, failed):
        self.answered, self.failed = answered, failed

    def send(self, parcel):
        self.parcels.append(parcel)

    def give_up(self):
        self.given_up = True


def answers_to(parcel, **changes) -> Answers:
    count = len(parcel.ids)
    right = Answers(
        parcel.number,
        parcel.ids[::-1],
        np.arange(count + 1),
        np.zeros(count, np.uint8),
        batches=1,
        padded=2 * count,
        done_cost=count,
    )
    return replace(right, **changes)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda ids: {"ids": np.append(ids[:-1], np.uint64(5))},
            "node one answered samples that are not of parcel 0: 1",
        ),
        (lambda ids: {"ids": np.append(ids[:-1], ids[0])}, "node one answered samples of parcel 0 twice: 1"),
        (lambda ids: {"ids": ids[:-1]}, "node one left out samples of parcel 0: 1"),
        (lambda ids: {"ids": np.append(ids, ids[:1])}, "node one answered samples of parcel 0 twice: 1"),
        (lambda ids: {"number": 99}, "node one answered parcel 99 twice, or one that it never got."),
        (lambda ids: {"offsets": np.arange(len(ids) + 1) * 2}, "node one answered with broken responses"),
        (lambda ids: {"offsets": np.arange(len(ids))}, "node one answered with broken responses"),
        (lambda ids: {"offsets": np.arange(len(ids) + 1)[::-1]}, "node one answered with broken responses"),
    ],
)
def test_answers_that_are_not_those_of_the_parcel_end_the_test_before_loadgen_hears(damage, said):
    link, collected = Recorded(), Collected()
    scheduler = offline([link], collected)
    issue(scheduler, [range(8)])
    parcel = link.parcels[0]
    link.answered(answers_to(parcel, **damage(parcel.ids)))
    assert isinstance(scheduler.failure, RunFailed)
    assert str(scheduler.failure).startswith(said)
    assert not collected.answers
    scheduler.close()  # does not wait for what never comes


def test_a_parcel_that_is_answered_twice_ends_the_test():
    link, collected = Recorded(), Collected()
    scheduler = offline([link], collected)
    issue(scheduler, [range(8)])
    for _ in range(2):
        link.answered(answers_to(link.parcels[0]))
    assert "node one answered parcel 0 twice" in str(scheduler.failure)
    assert set(collected.times.values()) == {1}


def test_answers_to_another_nodes_parcel_end_the_test():
    links = [Recorded("one"), Recorded("two")]
    scheduler = offline(links, Collected())
    issue(scheduler, [range(100)])
    links[1].answered(answers_to(links[0].parcels[0]))
    assert "node two answered parcel 0" in str(scheduler.failure)


def test_a_node_that_is_lost_ends_the_test_once_and_nothing_more_is_sent():
    links = [Recorded("one"), Recorded("two")]
    scheduler = offline(links, Collected())
    issue(scheduler, [range(500)])
    first, second = RunFailed("node one is lost."), RunFailed("node two is lost.")
    links[0].failed(first)
    links[1].failed(second)
    sent = [len(link.parcels) for link in links]
    links[1].answered(answers_to(links[1].parcels[0]))
    assert scheduler.failure is first
    assert scheduler.failed.is_set()
    assert [len(link.parcels) for link in links] == sent
    scheduler.close()


def test_answers_after_the_end_of_a_test_are_not_passed_on():
    link, collected = Recorded(), Collected()
    scheduler = offline([link], collected)
    issue(scheduler, [range(4)])
    scheduler.stop()
    assert link.given_up
    for parcel in list(link.parcels):
        link.answered(answers_to(parcel))
    scheduler.close()
    assert not collected.answers
    assert scheduler.failure is None


def test_closing_waits_until_loadgen_has_the_answers():
    link, told, go_on = Recorded(), [], threading.Event()

    def complete(ids, responses):
        go_on.wait(20)
        told.extend(ids)

    scheduler = offline([link], complete)
    issue(scheduler, [range(4)])
    threading.Thread(target=link.answered, args=(answers_to(link.parcels[0]),)).start()
    while scheduler.counters.completed < 4:
        time.sleep(0.001)
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go_on.set()
    closing.join(20)
    assert not closing.is_alive()
    assert len(told) == 4


def test_samples_go_longest_first_and_every_node_has_work_before_any_has_more():
    links = [Recorded(f"n{n}", rate=1e6) for n in range(3)]
    scheduler = offline(links, Collected())
    issue(scheduler, [range(500)])
    numbers = [parcel.number for link in links for parcel in link.parcels[:1]]
    assert numbers == [0, 1, 2]
    parcels = sorted((parcel for link in links for parcel in link.parcels), key=lambda parcel: parcel.number)
    costs = COSTS[np.concatenate([parcel.indices for parcel in parcels])]
    assert (np.diff(costs) <= 0).all()
    assert {len(link.parcels) for link in links} == {2}


def test_idle_time_of_a_node_is_that_without_a_parcel():
    now = [10.0]
    link = Recorded()
    scheduler = ServerCluster(Numbers.full(), [link], Collected(), clock=lambda: now[0])
    scheduler.issue([1], [3])
    now[0] = 10.5
    scheduler.deal()
    now[0] = 12.0
    link.answered(answers_to(link.parcels[0], cpu_seconds=1.25))
    now[0] = 15.0
    scheduler.issue([2], [4])
    scheduler.deal()
    now[0] = 16.0
    link.answered(answers_to(link.parcels[1]))
    (node,) = scheduler.nodes
    assert (node.began, node.ended, node.parcels, node.samples) == (10.5, 16.0, 2, 2)
    assert node.idle == 0.5 + 3.0
    assert node.idle_until(20.0) == 0.5 + 3.0 + 4.0
    assert node.cpu_seconds == 1.25


def test_queries_that_wait_together_travel_together_and_equal_nodes_take_turns():
    links = [Recorded(f"n{n}") for n in range(2)]
    scheduler = ServerCluster(Numbers.full(), links, Collected())
    for query in range(6):
        scheduler.issue([query], [7])
    scheduler.deal()
    assert [[parcel.ids.tolist() for parcel in link.parcels] for link in links] == [[[0, 2, 4]], [[1, 3, 5]]]


def test_where_more_nodes_than_messages_at_once_have_work_several_queries_go_to_one():
    links = [Recorded(f"n{n}") for n in range(30)]
    scheduler = ServerCluster(Numbers.full(), links, Collected())
    scheduler.issue(list(range(5)), [7] * 5)
    scheduler.deal()
    assert sum(len(link.parcels) for link in links) == 5
    scheduler.issue(list(range(5, 25)), [7] * 20)
    scheduler.deal()
    sizes = sorted(len(link.parcels[0].ids) for link in links if link.parcels)
    assert sizes == [1] * 5 + [2] + [3] * 6


def test_queries_go_to_the_node_with_the_least_waiting_work_for_its_speed():
    links = [Recorded("slow", rate=1.0), Recorded("fast", rate=3.0)]
    scheduler = ServerCluster(Numbers.full(), links, Collected())
    for query in range(40):
        scheduler.issue([query], [7])
        scheduler.deal()
    assert [len(link.parcels) for link in links] == [10, 30]
    for parcel in links[0].parcels:
        links[0].answered(answers_to(parcel))
    scheduler.issue([40], [7])
    scheduler.deal()
    assert len(links[0].parcels) == 11


def test_late_queries_count_by_their_own_arrival():
    now, link = [0.0], Recorded()
    scheduler = ServerCluster(Numbers.full(), [link], Collected(), clock=lambda: now[0])
    scheduler.late_after = 1.0
    for query in range(4):
        now[0] = query * 0.5
        scheduler.issue([query], [7])
    scheduler.deal()
    now[0] = 1.75
    link.answered(answers_to(link.parcels[0]))
    assert scheduler.counters.late == 2  # 1.75 and 1.25 s


def test_a_test_that_is_given_up_answers_the_rest_without_computing_it():
    sut = TextSut(delay=0.01)
    link, collected = make_link(scenario_of=server_of, sut=sut), Collected()
    scheduler = server([link], collected)
    issue(scheduler, [range(400)])
    time.sleep(0.05)
    scheduler.give_up()
    scheduler.issue([1, 2], [3, 4])
    scheduler.close()
    link.close()
    assert scheduler.failure is None
    assert set(collected.times.values()) == {1}
    assert len(collected.answers) == scheduler.counters.completed == 402
    assert len(sut.seen) < 400
    assert collected.answers[1] == collected.answers[2] == b""


def test_an_observer_sees_parcels_with_their_arrivals():
    class Observer:
        seen, when = [], None

        def arrived(self, when):
            self.when = when

        def answered(self, start, end, work, cost):
            self.seen.append((start, end, len(work.ids), tuple(work.shape), cost))

    link, observer = Recorded(), Observer()
    scheduler = offline([link], Collected(), observer=observer)
    issue(scheduler, [[7, 7, 7, 7]])
    link.answered(answers_to(link.parcels[0]))
    assert observer.when is not None
    [(start, end, count, shape, cost)] = observer.seen
    assert start <= end
    assert (count, shape, cost) == (4, (4, 2), 4 * COSTS[7])


def test_a_data_set_error_in_issue_is_a_failure():
    link = Recorded()
    library = Numbers()  # with nothing loaded
    scheduler = ClusterScheduler.offline(library, [link], Collected())
    issue(scheduler, [range(3)])
    assert "is not loaded" in str(scheduler.failure)
