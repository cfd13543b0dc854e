"""A node by itself: the places of samples, their growth, and its answers to parcels."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from small_nodes import COSTS, Carried, Numbers, TextSut, offline_of, server_of, text

from harness.cluster.messages import DATA, INDICES, Parcel
from harness.cluster.node import Node
from harness.errors import EngineError, RunFailed

LIBRARY = Numbers.full()


class Replies:
    """Collects answers, and waits for them."""

    def __init__(self):
        self.answers, self.failures = {}, []
        self._told = threading.Condition()

    def done(self, answers):
        with self._told:
            assert answers.number not in self.answers
            self.answers[answers.number] = answers
            self._told.notify_all()

    def failed(self, error):
        with self._told:
            self.failures.append(error)
            self._told.notify_all()

    def wait(self, count=1):
        with self._told:
            assert self._told.wait_for(lambda: self.failures or len(self.answers) == count, 20)
        return self.answers


def parcel(number, indices, payload=DATA) -> Parcel:
    indices = np.array(indices, dtype=np.int64)
    ids = (np.arange(len(indices)) + 1000 * number).astype(np.uint64)
    return Parcel(number, ids, indices, LIBRARY.pack(indices) if payload == DATA else None)


def texts(answers) -> dict[int, bytes]:
    data = answers.buffer.tobytes()
    spans = zip(answers.offsets[:-1].tolist(), answers.offsets[1:].tolist(), strict=True)
    return {query: data[start:end] for query, (start, end) in zip(answers.ids.tolist(), spans, strict=True)}


def expected(sent: Parcel) -> dict[int, bytes]:
    return {query: text(number) for query, number in zip(sent.ids.tolist(), sent.indices.tolist(), strict=True)}


@pytest.fixture(params=[offline_of, server_of])
def scenario_of(request):
    return request.param


@pytest.mark.parametrize("payload", [DATA, INDICES])
def test_each_parcel_is_answered_once_with_its_own_ids(scenario_of, payload):
    node, replies = Node(scenario_of(TextSut(2)), payload), Replies()
    node.open(replies.failed)
    rng = np.random.default_rng(3)
    # The largest holds more samples than there are places to begin with; one is empty.
    parcels = [parcel(n, rng.integers(0, 500, size), payload) for n, size in enumerate((5, 1, 700, 0, 64, 3))]
    for each in parcels:
        node.answer(each, replies.done)
    found = replies.wait(len(parcels))
    node.close()
    assert not replies.failures
    for each in parcels:
        assert texts(found[each.number]) == expected(each)
        assert found[each.number].done_cost == COSTS[each.indices].sum()
    assert sum(answers.padded for answers in found.values()) >= sum(COSTS[each.indices].sum() for each in parcels)
    assert sum(answers.batches for answers in found.values()) >= 1


def test_places_are_used_again():
    node, replies = Node(offline_of(TextSut()), DATA), Replies()
    node.open(replies.failed)
    for number in range(30):
        node.answer(parcel(number, [number] * 200), replies.done)
        assert texts(replies.wait(number + 1)[number]) == expected(parcel(number, [number] * 200))
    assert node._carrier.count == 256  # 6,000 samples went through the places of the beginning
    node.close()


def test_an_engine_that_fails_is_heard_of_once():
    node, replies = Node(offline_of(TextSut(2, fail_at=9)), DATA), Replies()
    node.open(replies.failed)
    node.answer(parcel(0, [9] * 50), replies.done)
    replies.wait()
    node.close()
    assert [type(error) for error in replies.failures] == [EngineError]
    assert not replies.answers


def test_a_parcel_without_its_samples_is_a_failure():
    node, replies = Node(offline_of(TextSut()), DATA), Replies()
    node.open(replies.failed)
    node.answer(parcel(0, [1], INDICES), replies.done)
    assert isinstance(replies.failures[0], RunFailed)
    node.close()


def test_where_indices_travel_the_node_holds_what_the_driver_says():
    sut, replies = TextSut(), Replies()
    node = Node(offline_of(sut), INDICES)
    node.load(np.array([3, 5]))
    assert sut.qsl.loaded == 2
    node.open(replies.failed)
    node.answer(parcel(0, [5, 3, 5], INDICES), replies.done)
    replies.wait()
    assert texts(replies.answers[0]) == expected(parcel(0, [5, 3, 5]))
    node.answer(parcel(1, [4], INDICES), replies.done)
    replies.wait(2)
    assert "sample 4 was issued but is not loaded" in str(replies.failures[0])
    node.close()


def test_nothing_is_sent_after_the_end():
    release = threading.Event()

    class Waiting(TextSut):
        def answer(self, indices, shape):
            release.wait(20)
            raise EngineError("too late")

    node, replies = Node(offline_of(Waiting()), DATA), Replies()
    node.open(replies.failed)
    node.answer(parcel(0, [1]), replies.done)
    closing = threading.Thread(target=node.close)
    closing.start()
    while not node_is_over(node):
        closing.join(0.01)
    release.set()
    closing.join(20)
    assert not closing.is_alive()
    assert not replies.failures
    assert not replies.answers


def node_is_over(node) -> bool:
    return node._test is None


def test_a_carrier_keeps_its_samples_while_it_grows_and_refuses_what_it_lacks():
    carrier = Carried(4)
    carrier.put(np.array([1, 3]), {"numbers": np.array([10, 30]), "costs": np.array([1, 3])})
    carrier.grow(9)
    carrier.put(np.array([8]), {"numbers": np.array([80]), "costs": np.array([8])})
    assert carrier.numbers(np.array([8, 1, 3])).tolist() == [80, 10, 30]
    assert carrier.count == 9
    with pytest.raises(RunFailed, match="sample 2 was issued but is not loaded"):
        carrier.numbers(np.array([1, 2]))
    for impossible in (lambda: carrier.load([1]), lambda: carrier.pack(np.array([1])), lambda: carrier.carrier(3)):
        with pytest.raises(RunFailed, match="bug in the harness"):
            impossible()
