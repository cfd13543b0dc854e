"""What a training says of its time left, on a fake clock, with the times that minilm-80 took on two cores."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from forecasts import ALLOWED, Forecast, coverage, error

from harness.training.history import History, ValidationScore
from harness.training.recipe import Pruning, Recipe, read_recipe
from harness.training.timetable import Timetable

STEPS, GRADIENTS, LAYERS = 1200, 256, 73
LAYER_WISE = read_recipe("minilm-80").with_steps(STEPS)
FISHER = {"samples": GRADIENTS, "batch": 2, "block": 16}
SECOND_ORDER = LAYER_WISE.model_copy(
    update={
        "pruning": Pruning.model_validate(
            LAYER_WISE.pruning.model_dump() | {"method": "second-order", "initial": 0.3, "fisher": FISHER}
        )
    }
)
IN_FP32 = SECOND_ORDER.model_copy(update={"quantisation": None})


@dataclass
class Training:
    """A training whose parts take these seconds."""

    recipe: Recipe
    step: float = 1.25
    rounded: float = 1.6
    choice: float = 40.0
    score: float = 14.0
    save: float = 1.0
    one_shot: bool = False
    history: History = field(default_factory=History)
    slower_from: int = 10**9
    """Step from which each takes a quarter longer."""

    def run(self) -> tuple[list[Forecast], float, list[int]]:
        """The forecasts, the seconds in all, and the steps that were scored."""
        self.now, self.ends, scored, forecasts = 0.0, [], [], []
        layers = self.recipe.pruning.method == "layer-wise"
        table = Timetable(
            self.recipe,
            lambda: self.now,
            scores=True,
            chooses=not self.one_shot,
            gradients=0 if layers or self.one_shot else GRADIENTS,
        )
        choices, resumed = set(table._choices), self.history.step
        if not resumed:
            self._take(table.scored, self.score)
        table.begin(self.history)
        for step in range(resumed, STEPS + 1):
            table.preparing(step)
            if step in choices:
                parts = LAYERS if layers else GRADIENTS
                for part in range(parts):
                    self.now += self.choice / parts
                    table.choosing((part + 1) / parts if layers else None)
                    forecasts.append((self.now, table.left))
            table.prepared(step)
            if step == STEPS:
                break
            took = self.rounded if self.recipe.quantisation and step >= self.recipe.quantisation.begin else self.step
            took *= 1.25 if step >= self.slower_from else 1.0
            self.now += took
            table.stepped(step + 1, took)
            self.ends.append(self.now)
            forecasts.append((self.now, table.left))
            if step + 1 < STEPS:
                if table.score_is_due:
                    self._take(table.scored, self.score)
                    scored.append(step + 1)
                if table.save_is_due:
                    self._take(table.saved, self.save)
        self.now += self.score + self.save
        return [Forecast(at, left) for at, left in forecasts if left is not None], self.now, scored

    def _take(self, end, seconds: float) -> None:
        self.now += seconds
        end(seconds)


def resumed(step: int, **facts) -> History:
    return History(step=step, scores=[ValidationScore(step, "F1", 70.0, 0.8)] * 3, scoring=42.0, **facts)


RUNS = {
    "pruned and rounded": Training(SECOND_ORDER),
    "layer by layer": Training(LAYER_WISE, choice=100.0),
    "rounding costs twice as much": Training(SECOND_ORDER, rounded=2.2),
    "choices of minutes": Training(SECOND_ORDER, choice=300.0),
    "one-shot start": Training(SECOND_ORDER, one_shot=True),
    "scores of minutes": Training(SECOND_ORDER, score=150.0),
    "steps of half a minute": Training(IN_FP32, step=30.0, choice=800.0, save=20.0),
    "cut before the last choices": Training(SECOND_ORDER, history=resumed(310, preparing=160.0)),
    "cut on a machine three times as fast": Training(SECOND_ORDER, history=resumed(310, preparing=50.0)),
    "cut after rounding began": Training(SECOND_ORDER, history=resumed(1000, preparing=280.0)),
    "slower by a quarter from the middle on": Training(SECOND_ORDER, slower_from=600),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_time_left_is_right_after_the_first_tenth(name):
    forecasts, lasted, _ = RUNS[name].run()
    assert error(forecasts, lasted) <= ALLOWED
    assert coverage(forecasts, lasted) >= 0.9


def test_steps_alone_would_not_show_it():
    """What was shown before: the mean time of the steps so far, with all that was done between them."""
    training = RUNS["choices of minutes"]
    _, lasted, _ = training.run()
    mean = [Forecast(at, at / step * (STEPS - step)) for step, at in enumerate(training.ends, start=1)]
    assert error(mean, lasted) > ALLOWED


def test_the_end_is_not_scored_twice():
    """A training scored step 1,198 after its five minutes, and step 1,200 again."""
    for seconds in (1.20, 1.25, 1.30, 1.35):
        _, _, scored = Training(SECOND_ORDER, step=seconds).run()
        assert scored
        assert all((STEPS - step) * 1.6 >= 13.0 for step in scored)
