"""Which call takes answers along, and which leaves with nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.cluster.outbox import Outbox


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as made:
        yield made


def waiting(outbox, number):
    """Once so many calls wait."""
    while len(outbox._waiting) < number:
        threading.Event().wait(0.001)


def test_answers_that_are_there_leave_at_once(pool):
    outbox = Outbox(3)
    outbox.put(1)
    outbox.put(2)
    assert outbox.take() == [1, 2]


def test_the_oldest_call_leaves_with_an_answer_and_the_others_wait(pool):
    outbox = Outbox(3)
    calls = []
    for number in range(2):
        calls.append(pool.submit(outbox.take))
        waiting(outbox, number + 1)
    outbox.put("a")
    assert calls[0].result(20) == ["a"]
    assert not calls[1].done()
    outbox.put("b")
    assert calls[1].result(20) == ["b"]


def test_of_too_many_calls_the_oldest_leaves_with_nothing(pool):
    outbox = Outbox(2)
    first = pool.submit(outbox.take)
    waiting(outbox, 1)
    second = pool.submit(outbox.take)
    assert first.result(20) == []
    outbox.put("a")
    assert second.result(20) == ["a"]


def test_a_call_that_is_woken_takes_along_what_comes_until_it_runs():
    outbox = Outbox(4)
    woken = threading.Lock()
    woken.acquire()
    outbox._waiting.extend([woken, threading.Lock()])
    for each in range(5):
        outbox.put(each)
    assert not woken.locked()
    assert len(outbox._waiting) == 1
    assert outbox._found == [0, 1, 2, 3, 4]


def test_nothing_is_lost_or_stuck_whoever_calls(pool):
    outbox, found, ended = Outbox(3), [], threading.Event()

    def carry():
        while not ended.is_set():
            found.extend(outbox.take())

    carriers = [pool.submit(carry) for _ in range(3)]
    putters = [
        threading.Thread(target=lambda n=n: [outbox.put(1000 * n + each) for each in range(500)]) for n in range(3)
    ]
    for putter in putters:
        putter.start()
    for putter in putters:
        putter.join()
    while len(found) < 1500:
        threading.Event().wait(0.001)
    ended.set()
    while not all(call.done() for call in carriers):
        outbox.put(-1)
    assert sorted(each for each in found if each >= 0) == sorted(
        1000 * n + each for n in range(3) for each in range(500)
    )
