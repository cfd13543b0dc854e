"""When a training scores and saves, and the time left. Does not import PyTorch."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

from harness.terminal.pace import Pace
from harness.training.history import History
from harness.training.recipe import Recipe
from harness.training.schedule import prunes_at, sparsity_at

SAVE_EVERY_S = 180.0
"""Seconds between checkpoints."""
SCORE_EVERY_S = 300.0
"""Seconds between scores."""
_MIN_INTERVAL_FACTOR = 20
"""Checkpoints and scores are spaced so that each kind takes at most about 1/20 of the time."""
_ROUNDED_STEP_FACTOR = 1.3
"""Time of a step in 8 bits ÷ one in FP32, in a training of minilm-80: assumed until it is measured."""
_GRADIENT_TIME_FACTOR = 1.7
"""A sample's time while weights are chosen ÷ its time in a step, in the same training: assumed until measured."""


class Timetable:
    """Plans scores and checkpoints, and estimates the time left.

    A training's pace is not even: steps in 8 bits take longer, choosing weights by second-order information takes as
    long as dozens of steps, scores and checkpoints pause it, and after the last step it is scored and saved once more.
    """

    def __init__(
        self,
        recipe: Recipe,
        clock: Callable[[], float],
        *,
        scores: bool,
        chooses: bool = False,
        gradients: int = 0,
        save_every: float | None = None,
    ) -> None:
        """``clock`` gives seconds, without those in which the process was stopped.

        ``chooses`` says whether choosing the weights to remove takes long, and ``gradients`` how many gradients that
        computes, if any. ``save_every`` is in seconds; None for `SAVE_EVERY_S`, or more if a checkpoint takes long to
        write.
        """
        self._recipe, self._clock, self._scores, self._gradients = recipe, clock, scores, gradients
        self._save_every = save_every
        pruning = recipe.pruning
        steps = range(recipe.steps + 1) if pruning and chooses else ()
        self._choices = [step for step in steps if pruning and prunes_at(pruning, step) and sparsity_at(pruning, step)]
        self._score_took = self._save_took = self._each_choice = 0.0
        self._chosen = self._next = 0
        self._choosing: tuple[float, int] | None = None
        self._saved = self._scored = clock()
        self._stepped = 0.0
        self._pace = Pace(0.0)

    def begin(self, history: History) -> None:
        """Continue from a history; times of earlier attempts count until this one has measured its own."""
        self._next = history.step
        self._pace = Pace(0.0, self._work(history.step))
        if before := bisect_left(self._choices, history.step):
            self._each_choice = history.preparing / before
        if count := len(history.scores) + (history.dense is not None):
            self._score_took = self._score_took or history.scoring / count

    def choosing(self, share: float | None = None) -> None:
        """Report progress in choosing weights: one more gradient, or the ``share`` done (0 to 1) for other methods."""
        if self._choosing is None:
            return
        began, done = self._choosing
        self._choosing = began, done + 1
        share = (done + 1) / max(self._gradients, 1) if share is None else share
        if share and not self._chosen:  # a part of this choice is a better measure than earlier attempts
            self._each_choice = (self._clock() - began) / share

    def preparing(self, step: int) -> None:
        """The changes that are due before ``step`` begin now."""
        at = bisect_left(self._choices, step)
        if at < len(self._choices) and self._choices[at] == step:
            self._choosing = self._clock(), 0

    def prepared(self, step: int) -> None:
        """The changes before ``step`` are done."""
        if self._choosing:
            took = self._clock() - self._choosing[0]
            self._each_choice = (self._each_choice * self._chosen + took) / (self._chosen + 1)
            self._chosen, self._choosing, self._next = self._chosen + 1, None, step + 1

    def stepped(self, step: int, seconds: float) -> None:
        """Note that ``step`` steps are done, the last one in ``seconds``."""
        self._stepped += seconds
        self._next = max(self._next, step)
        self._pace.note(self._stepped, self._work(step))

    def scored(self, took: float) -> None:
        """Note that a score, which took ``took`` seconds, has just ended."""
        self._scored, self._score_took = self._clock(), took

    def saved(self, took: float) -> None:
        """Note that a checkpoint, which took ``took`` seconds, has just been written."""
        self._saved, self._save_took = self._clock(), took

    @property
    def score_is_due(self) -> bool:
        """Whether to score between steps: not if the last score begins before this one would end."""
        steps = self._steps_left
        last = steps is not None and steps < self._score_took
        return self._scores and not last and self._clock() - self._scored >= self._score_interval

    @property
    def save_is_due(self) -> bool:
        """Whether to write a checkpoint between steps."""
        return self._clock() - self._saved >= self._save_interval

    @property
    def left(self) -> float | None:
        """Seconds until the last checkpoint is written; None if unknown."""
        steps = self._steps_left
        if steps is None:
            return None
        now, stretch = self._clock(), steps + self._choices_left
        pauses = self._save_took * _times(now - self._saved + stretch, self._save_interval, self._recipe.steps)
        if self._scores:
            pauses += self._score_took * _times(now - self._scored + stretch, self._score_interval, self._recipe.steps)
        return stretch + pauses + self._save_took + (self._score_took if self._scores else 0.0)

    @property
    def _steps_left(self) -> float | None:
        return self._pace.left(self._stepped, self._work(self._recipe.steps))

    @property
    def _choices_left(self) -> float:
        """Seconds of choosing weights that are left."""
        first = self._next if self._choosing is None else self._next + 1
        each = self._each_choice or self._expected_choice
        running = 0.0
        if self._choosing:
            running = max(each - (self._clock() - self._choosing[0]), 0.0)
        return running + each * (len(self._choices) - bisect_left(self._choices, first))

    @property
    def _expected_choice(self) -> float:
        """Expected seconds of the first choice, from the time of a step."""
        pruning, rate = self._recipe.pruning, self._pace.per_second(self._stepped)
        if pruning is None or not rate:
            return 0.0
        return self._gradients * pruning.fisher.batch / self._recipe.batch * _GRADIENT_TIME_FACTOR / rate

    def _work(self, step: int) -> float:
        """The work of the first ``step`` steps, in units of an FP32 step."""
        rounded = max(step - self._recipe.quantisation.begin, 0) if self._recipe.quantisation else 0
        return step + (_ROUNDED_STEP_FACTOR - 1) * rounded

    @property
    def _score_interval(self) -> float:
        return max(SCORE_EVERY_S, _MIN_INTERVAL_FACTOR * self._score_took)

    @property
    def _save_interval(self) -> float:
        if self._save_every is not None:
            return self._save_every
        return max(SAVE_EVERY_S, _MIN_INTERVAL_FACTOR * self._save_took)


def _times(seconds: float, interval: float, maximum: int) -> int:
    """The number of times that an interval ends within ``seconds``, at most ``maximum``."""
    return min(math.floor(seconds / interval), maximum) if interval > 0 else maximum
