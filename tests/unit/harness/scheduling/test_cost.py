from __future__ import annotations

import heapq
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from echo import COSTS, EchoSut, Qsl
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.deepsparse import DeepSparseSettings
from harness.scheduling.cost import (
    CostTable,
    fitting,
    full_batch,
    measure_shapes,
    probes,
    shapes_to_measure,
    stream_seconds,
)
from harness.task.shape import Shape

LENGTHS = (1, 40, 384)
ANY = {Shape(n, length): 0.001 + 1e-5 * n * length**1.2 for n in (1, 2, 8) for length in LENGTHS}


def test_between_measured_shapes_time_is_interpolated_and_the_shape_is_exact():
    table = CostTable(ANY, fixed=False)
    assert table.shape(3, 50) == Shape(3, 50)
    for shape, seconds in ANY.items():
        assert table.seconds(*shape) == pytest.approx(seconds)
    assert table.seconds(5, 40) == pytest.approx((ANY[2, 40] + ANY[8, 40]) / 2)
    assert table.seconds(1, 212) == pytest.approx((ANY[1, 40] + ANY[1, 384]) / 2)


def test_fixed_shapes_are_chosen_by_their_time_among_those_that_fit():
    # A batch of 4 was measured to be faster than one of 2, so two samples also run in it.
    measured = {Shape(1, 10): 1.0, Shape(2, 10): 3.0, Shape(4, 10): 2.5, Shape(4, 20): 6.0, Shape(1, 20): 1.5}
    table = CostTable(measured, fixed=True)
    assert [table.shape(n, 7) for n in (1, 2, 4)] == [Shape(1, 10), Shape(4, 10), Shape(4, 10)]
    assert table.shape(1, 11) == Shape(1, 20)
    assert table.seconds(3, 20) == 6.0
    assert table.seconds(5, 10) == table.seconds(1, 21) == float("inf")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 384), min_size=1, max_size=7), st.booleans())
def test_no_other_cut_of_a_query_takes_less_time(lengths, fixed):
    lengths = sorted(lengths, reverse=True)
    table = CostTable(ANY, fixed=fixed)

    def total(cuts):
        return sum(table.seconds(end - start, lengths[start]) for start, end in cuts)

    found = table.split(lengths)
    assert [place for part in found for place in range(*part)] == list(range(len(lengths)))
    inner = range(1, len(lengths))
    every = (cuts for count in range(len(lengths)) for cuts in combinations(inner, count))
    best = min(total(zip((0, *cuts), (*cuts, len(lengths)), strict=True)) for cuts in every)
    assert total(found) == pytest.approx(best)


@pytest.mark.parametrize("budget", [1, 2, 8, 20])
@pytest.mark.parametrize("most", [1, 8, 64])
def test_the_shapes_of_an_engine_that_compiles_cover_the_data_within_the_budget(budget, most):
    sut = EchoSut()
    sut.engine.fixed_shapes = True
    sut.engine.settings = DeepSparseSettings(shapes=budget, max_tokens=2048)
    shapes = shapes_to_measure(sut, COSTS, budget, most)
    assert len(shapes) == len(set(shapes)) <= budget
    assert max(shape.length for shape in shapes) == COSTS.max()
    assert all(shape.batch <= most for shape in shapes)
    assert all(shape.batch * shape.length <= 2048 for shape in shapes)


def test_sizes_that_the_graph_fixes_are_the_only_ones():
    sut = EchoSut()
    sut.static = Shape(4, 384)
    assert shapes_to_measure(sut, COSTS, 8, 64) == [Shape(4, 384)]


@pytest.mark.parametrize("streams", [1, 3])
def test_every_shape_is_run_on_every_stream_and_timed(streams):
    class Timed(EchoSut):
        def answer(self, indices, shape):
            ran.append((shape, len(indices), int(COSTS[indices].max())))
            clock.wait(0.002 * shape.batch)
            return super().answer(indices, shape)

    from threading import Event

    ran, clock = [], Event()
    shapes = [Shape(1, 384), Shape(8, 384), Shape(2, 30)]
    measured = measure_shapes(Timed(streams), shapes, np.arange(Qsl.count))
    assert list(measured) == shapes
    assert np.median(measured[8, 384]) > 3 * np.median(measured[1, 384])
    for shape in shapes:
        runs = [run for run in ran if run[0] == shape]
        assert len(runs) >= 2 * streams
        assert all(count == shape.batch and longest <= shape.length for _, count, longest in runs)


def test_a_data_set_smaller_than_a_batch_still_fills_it():
    few = EchoSut()
    few.qsl = SimpleNamespace(cost=lambda indices: np.ones(len(indices), dtype=np.int64))
    assert measure_shapes(few, [Shape(16, 1)], np.arange(3))[16, 1].min() > 0


def test_several_samples_never_exceed_the_tokens_of_a_batch():
    table = CostTable(ANY, fixed=False, max_tokens=400)
    assert table.seconds(1, 384) == pytest.approx(ANY[1, 384])
    assert table.seconds(2, 200) < float("inf") == table.seconds(2, 201)
    assert all((end - start) * 150 <= 400 for start, end in table.split([150] * 7))


@pytest.mark.parametrize("fixed", [True, False])
def test_only_batches_that_fit_the_limit_are_measured(fixed):
    sut = EchoSut()
    sut.engine.fixed_shapes = fixed
    sut.engine.settings = DeepSparseSettings(shapes=8, max_tokens=1024)
    few = probes(sut, COSTS, 64)
    assert few == [Shape(1, 383), Shape(2, 383)]
    slow = fitting({shape: 0.1 * shape.batch for shape in few}, 0.05)
    shapes = shapes_to_measure(sut, COSTS, 8, 64, slow)
    assert {shape.batch for shape in shapes if shape.length > 100} == {1}
    everything = shapes_to_measure(sut, COSTS, 8, 64, fitting({shape: 1e-4 * shape.batch for shape in few}, 0.05))
    assert max(shape.batch for shape in everything) > 2


def test_where_no_batch_fits_the_budget_goes_to_lengths():
    sut = EchoSut()
    sut.engine.fixed_shapes = True
    sut.engine.settings = DeepSparseSettings(shapes=8)
    shapes = shapes_to_measure(sut, COSTS, 8, 64, lambda shape: False)
    assert len(shapes) == 8
    assert {shape.batch for shape in shapes} == {1}


def test_times_between_the_probes_are_assumed_to_grow_with_the_cost():
    fits = fitting({Shape(1, 100): 0.010, Shape(4, 100): 0.025}, 0.020)
    assert fits(Shape(3, 100))
    assert not fits(Shape(4, 80))
    alone = fitting({Shape(1, 100): 0.010}, 0.020)
    assert alone(Shape(2, 100))
    assert not alone(Shape(2, 101))


def test_batches_that_gain_little_are_not_compiled():
    probed = {Shape(1, 100): 0.010, Shape(4, 100): 0.037}
    assert fitting(probed, 1.0)(Shape(4, 100))
    assert not fitting(probed, 1.0, pays=0.75)(Shape(2, 10))
    assert fitting(probed, 0.001, pays=0.75)(Shape(1, 100))


@given(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=40), st.integers(1, 4), st.integers(0, 3))
def test_batches_that_wait_in_the_engine_do_not_add_to_what_streams_computed(works, streams, waiting):
    """An engine that computes batches in the order in which they come; each thread gives it one at a time."""
    free, threads, began, ended = [0.0] * streams, [0.0] * (streams + waiting), [], []
    for work in works:
        comes, starts = heapq.heappop(threads), heapq.heappop(free)
        began.append(comes)
        ended.append(max(comes, starts) + work)
        heapq.heappush(free, ended[-1])
        heapq.heappush(threads, ended[-1])
    seconds = stream_seconds(np.array(began), np.array(ended), streams)
    assert seconds.sum() == pytest.approx(sum(works))
    if not waiting:
        np.testing.assert_allclose(seconds, works)


def test_a_batch_is_filled_with_the_longest_samples_that_fit():
    costs = {5: 30, 6: 10, 7: 20, 8: 40}
    sut = SimpleNamespace(qsl=SimpleNamespace(cost=lambda indices: np.array([costs[n] for n in indices.tolist()])))
    indices = np.array([5, 6, 7, 8])
    assert full_batch(sut, Shape(2, 30), indices).tolist() == [7, 5]
    assert full_batch(sut, Shape(5, 20), indices).tolist() == [6, 7, 6, 7, 6]
    assert full_batch(sut, Shape(1, 384), indices).tolist() == [8]
    assert full_batch(sut, Shape(2, 5), indices).tolist() == [6, 6]
