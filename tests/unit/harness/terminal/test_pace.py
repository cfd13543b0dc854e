"""Time left of counted work: wrong by at most a quarter after the first tenth, whatever is slow at first or pauses."""

from __future__ import annotations

import random

import numpy as np
import pytest
from forecasts import ALLOWED, Forecast, coverage, error

from harness.terminal.pace import Pace
from harness.terminal.progress import Progress

Steps = list[tuple[float, float]]
"""(seconds, what is done after them), one step after the other."""


def steps(seconds, amounts=None) -> Steps:
    amounts = np.ones(len(seconds)) if amounts is None else amounts
    return list(zip(np.cumsum(seconds).tolist(), np.cumsum(amounts).tolist(), strict=True))


def drive(work: Steps, every: float | None = None) -> tuple[list[Forecast], float]:
    """What a pace says between and after the steps of ``work``, and how long it took."""
    lasted, total = work[-1]
    pace, done, forecasts = Pace(0.0), 0, []
    for now in np.arange(0, lasted, every or lasted / 400):
        while work[done][0] <= now:
            pace.note(work[done][0], work[done][1])
            done += 1
        if (left := pace.left(float(now), total)) is not None:
            forecasts.append(Forecast(float(now), left))
    return forecasts, lasted


NOISE = random.Random(7)
RUNS = {
    "equal steps": steps([0.5] * 200),
    "steps of minutes": steps([90.0] * 12),
    "noise": steps([0.2 * NOISE.lognormvariate(0, 0.4) for _ in range(600)]),
    "a first step that compiles": steps([20.0] + [1.0] * 100),
    "a first step of a cached file": steps([0.01] + [1.0] * 100),
    "two streams that end together": steps([4.0, 0.05] * 30),
    "slow by a quarter from the middle on": steps([1.0] * 100 + [1.25] * 80),
    "a short pause now and then": steps(([1.0] * 9 + [3.0]) * 40),
    "amounts that differ": steps([2.0 * amount for amount in (1, 3, 2, 1, 3, 2) * 12], (1, 3, 2, 1, 3, 2) * 12),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_time_left_is_right_after_the_first_tenth(name):
    forecasts, lasted = drive(RUNS[name])
    assert error(forecasts, lasted) <= ALLOWED
    assert coverage(forecasts, lasted) >= 0.85


def test_a_change_that_nobody_could_foresee_is_soon_known():
    """Half as fast from 100 s on, of 300 s: the time left was a half of what it became."""
    forecasts, lasted = drive(steps([1.0] * 100 + [2.0] * 100))
    assert error([each for each in forecasts if each.at < 100], lasted) == pytest.approx(0.5, abs=0.01)
    assert error([each for each in forecasts if each.at > 160], lasted) <= ALLOWED


def test_the_mean_of_the_whole_time_would_not_be():
    """The estimate that this one replaced, on the run that shows why."""
    work = RUNS["a first step that compiles"]
    lasted, total = work[-1]
    mean = [Forecast(at, at * (total - done) / done) for at, done in work]
    assert error(mean, lasted) > 1.0


def test_no_time_is_given_before_two_steps_and_without_an_advance():
    pace = Pace(10.0, done=5)
    assert pace.left(11.0, 9) is None
    pace.note(12.0, 6)
    pace.note(13.0, 6)
    assert pace.left(13.0, 9) is None
    pace.note(14.0, 7)
    assert pace.left(14.0, 9) == pytest.approx(4.0)
    assert pace.left(14.5, 9) == pytest.approx(3.5)
    assert pace.left(15.0, 9) == pytest.approx(3.0)  # the step that runs is counted down
    assert pace.left(17.0, 9) == pytest.approx(3.0)  # a second late, so it may take another one


def test_many_steps_take_little_memory_and_keep_the_pace():
    pace = Pace(0.0)
    for step in range(1, 20_001):
        pace.note(step * 0.01, step)
    assert len(pace._moments) <= 256
    assert pace.left(200.0, 40_000) == pytest.approx(200.0, rel=0.02)


def test_what_is_done_of_the_work_may_differ_from_what_is_done_of_the_units(capsys):
    """Ten layers, of which the last has half of the work; and a caller that knows the time."""
    now = [0.0]
    with Progress("compressing", unit="layers", total=10, clock=lambda: now[0]) as bar:
        for layer in range(1, 10):
            now[0] += 2.0
            bar.update(done=layer, share=layer / 18)
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == "compressing: 7 of 10 layers (39 %), 0.50 layers/s, 22 s left"
        now[0] += 10.0
        bar.update(left=8.0)
        assert capsys.readouterr().err.splitlines()[-1].endswith(", 8 s left")
