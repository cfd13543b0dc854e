"""The training loop: prunes, quantises and distils a student step by step, following its recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from onnx import ModelProto

from harness.errors import RunFailed
from harness.host import memory
from harness.host.clock import RunningClock
from harness.task.shape import Array, Integers
from harness.task.training import TrainingBatch, TrainingData
from harness.terminal import console
from harness.terminal.progress import Progress
from harness.trainable.fake import FakeQuantisation
from harness.trainable.graph import GraphModule
from harness.training.history import History, ValidationScore
from harness.training.memory import Budget
from harness.training.objective import Objective, cost, samples, slices, tensors
from harness.training.oneshot import pruned
from harness.training.pruning import Pruner
from harness.training.recipe import Recipe
from harness.training.schedule import dense_at, prunes_at, rate_at
from harness.training.state import Checkpoints
from harness.training.stopping import stoppable
from harness.training.timetable import Timetable

_OBSERVED_BATCHES = 8
"""Batches from which the ranges of activations are taken when quantisation begins."""
_SCORED_BATCH_SIZE = 32
_FISHER_SEED = 1
"""Added to the recipe's seed: the Fisher matrix takes samples in a different order from the steps."""
_VARYING_SEED = 4
"""Part of the seed of `TrainingData.varied`; orders and held-back parts draw with 1 to 3."""


@dataclass
class Student:
    """The model in training, with its pruner and its fake quantisation, if it has them."""

    module: GraphModule
    pruner: Pruner | None = None
    quantisation: FakeQuantisation | None = None
    fixed: bool = False
    """Whether the masks were chosen before training and do not change."""

    @property
    def sparsity(self) -> float:
        """Share of zeros among the weights of the layers that are pruned."""
        return float(self.pruner.sparsity) if self.pruner else 0.0

    def following(self) -> AbstractContextManager[None]:
        """A block in which ranges follow the values: see `FakeQuantisation.following`."""
        return self.quantisation.following() if self.quantisation else nullcontext()


class Trainer:
    """Runs the steps of a recipe from the newest checkpoint, or from the start."""

    def __init__(
        self,
        recipe: Recipe,
        student: Student,
        objective: Objective,
        data: TrainingData,
        checkpoints: Checkpoints,
        budget: Budget,
        save_every: float | None = None,
    ) -> None:
        """``save_every`` is in seconds: see `Timetable`."""
        self._recipe, self._student, self._objective = recipe, student, objective
        self._data, self._checkpoints, self._budget = data, checkpoints, budget
        self._optimizer = _optimizer(student.module, recipe)
        self._parameters = [value for group in self._optimizer.param_groups for value in group["params"]]
        self._history = History()
        self._clock = RunningClock()
        self._bar = Progress("training", total=recipe.steps, unit="steps", clock=self._clock)
        self._unit = "samples"
        self._loss: float | None = None
        """A running mean of the loss."""
        self._done = False
        choosing = student.pruner if student.pruner and not student.fixed else None
        self._timetable = Timetable(
            recipe,
            self._clock,
            scores=self._scored_at_all,
            chooses=choosing is not None and recipe.pruning is not None and recipe.pruning.slow,
            gradients=choosing.gradients_needed if choosing else 0,
            save_every=save_every,
        )

    def run(self) -> History:
        """Train to the recipe's last step; afterwards the student's parameters are the result.

        Raises:
            RunFailed: the loss became infinite or not a number.
            ConfigError: the checkpoint belongs to another training, or cannot be written.
        """
        self._restore()
        steps, history = self._recipe.steps, self._history
        if self._done:
            return history
        with self._clock, self._bar, stoppable() as stopping:
            self._score_before()
            self._bar.start_from(history.step)
            self._timetable.begin(history)
            while history.step < steps:
                began = self._clock()
                self._prepare(history.step)
                prepared = self._clock()
                self._step(history.step)
                history.step += 1
                history.preparing += prepared - began
                history.seconds += (took := self._clock() - prepared)
                self._timetable.stepped(history.step, took)
                self._bar.update(done=history.step, note=self._note(), left=self._timetable.left)
                self._report_memory()
                if stopping.is_set():
                    self._save()
                    raise KeyboardInterrupt
                if history.step < steps:
                    self._keep()
            self._prepare(steps)
            self._score()
            self._done = True
            self._save()
            if stopping.is_set():  # set during the last score
                raise KeyboardInterrupt
        return history

    def _score_before(self) -> None:
        """The teacher's score, and the student's where it already differs."""
        if self._history.dense is not None or not self._scored_at_all:
            return
        found = self._measure(self._objective.teacher)
        self._history.dense = found
        console.note(f"dense: {found.metric} {found.percent:.2f} of {len(self._data.held_back):,} samples held back")
        if self._student.fixed or self._recipe.layers is not None:
            self._score()

    def _batch_of(self, step: int) -> TrainingBatch:
        """The samples of a step."""
        indices = self._data.order(self._recipe.batch, step, self._recipe.seed)
        if self._recipe.augment:
            return self._data.varied(indices, (self._recipe.seed, _VARYING_SEED, step))
        return self._data.batch(indices)

    def _step(self, step: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(self._recipe, step)
        batch = self._batch_of(step)
        with self._student.following():
            loss = self._backward(batch, lambda part, first: self._objective.loss(part))
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise RunFailed(self._diverged(step))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._student.pruner:
            self._student.pruner.apply()
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        self._unit = "images" if batch.mask is None else "tokens"
        self._history.units += samples(batch) if batch.mask is None else int(batch.mask.sum())

    def _backward(self, batch: TrainingBatch, loss_of: Callable[[TrainingBatch, int], torch.Tensor]) -> float:
        """Compute the gradients of the batch's mean loss, as many samples at once as fit in memory; returns the loss.

        ``loss_of`` gets a part of the batch, and the number of its first sample in the batch.
        """
        count, length = samples(batch), cost(batch)
        total, first = 0.0, 0
        for part in slices(batch, self._budget.samples(length)):
            loss = loss_of(part, first) * (samples(part) / count)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            first += samples(part)
        return total

    def _prepare(self, step: int) -> None:
        """Make the changes that are due before a step: new masks, the start of quantisation, fixed ranges."""
        student, pruning = self._student, self._recipe.pruning
        quantisation = self._recipe.quantisation
        self._timetable.preparing(step)
        if student.pruner and pruning and not student.fixed:
            if pruning.method == "acdc" and step and dense_at(pruning, step) and not dense_at(pruning, step - 1):
                self._reset_momentum()
            evidence = (self._gradients, self._pruned) if prunes_at(pruning, step) else (None, None)
            if student.pruner.step(step, *evidence):
                student.pruner.apply()
            self._optimizer.zero_grad(set_to_none=True)
        if student.quantisation and quantisation:
            if step == quantisation.begin:
                self._observe(student.quantisation)
            if step == quantisation.freeze:
                student.quantisation.freeze()
        self._timetable.prepared(step)

    def _observe(self, quantisation: FakeQuantisation) -> None:
        quantisation.observe(self._feed(self._batch(number).feed) for number in range(_OBSERVED_BATCHES))
        quantisation.enable()

    def _reset_momentum(self) -> None:
        """Reset the momentum, as AC/DC does at the start of a decompressed phase (arXiv:2106.12379, section 3).

        AdamW's state of the pruned layers is removed. While the mask held, the removed weights had no gradients, so
        their mean square has decayed to almost 0: divided by it, their first gradients would move them by several
        times the learning rate.
        """
        for state in self._optimizer.state.values():
            state["exp_avg"].zero_()
        pruner = self._student.pruner
        for layer in pruner.layers if pruner else ():
            self._optimizer.state.pop(self._student.module.weight(layer), None)

    def _gradients(self, count: int) -> Iterator[Mapping[str, torch.Tensor]]:
        """``count`` gradients of the layers' matrices (outputs, inputs), by output name, each a mean over samples."""
        pruner, pruning = self._student.pruner, self._recipe.pruning
        assert pruner is not None
        assert pruning is not None
        size, seed = pruning.fisher.batch, self._recipe.seed + _FISHER_SEED
        for number in range(count):
            self._optimizer.zero_grad(set_to_none=True)
            # Other samples at each step that prunes, and the same ones in each pass over them.
            place = self._history.step * count + number
            batch = self._data.batch(self._data.order(size, place, seed))
            self._backward(batch, partial(self._objective.own_loss, seed=place))
            yield pruner.gradients()
            self._timetable.choosing()
            self._bar.update(note=f"gradient {number + 1:,} of {count:,}", left=self._timetable.left)
        self._optimizer.zero_grad(set_to_none=True)

    def _pruned(self, model: ModelProto, sparsity: float) -> ModelProto:
        """The model pruned layer by layer, fitted to other samples at each step that prunes."""
        recipe = self._recipe
        assert recipe.pruning is not None
        return pruned(model, recipe.pruning, sparsity, self._data, recipe.seed, self._show, self._history.step)

    def _show(self, done: int, total: int, share: float) -> None:
        """Show the progress of layer-wise pruning."""
        self._timetable.choosing(share)
        self._bar.update(note=f"layer {done:,} of {total:,}", left=self._timetable.left)

    def _batch(self, number: int) -> TrainingBatch:
        return self._data.batch(self._data.order(self._recipe.batch, number, self._recipe.seed))

    def _feed(self, feed: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        return tensors(feed, self._objective.device)

    def _report_memory(self) -> None:
        """Print the peak memory of the process whenever it has grown by a tenth."""
        peak = memory.peak()
        if peak > 1.1 * self._history.peak_bytes:
            self._history.peak_bytes = peak
            console.note(f"memory: at most {peak / 2**30:.1f} GiB so far, in total")

    def _note(self) -> str:
        facts = [f"loss {self._loss:.3f}" if self._loss is not None else ""]
        if self._student.pruner:
            facts.append(f"{self._student.sparsity:.1%} zeros".replace("%", " %"))
        if self._history.scores:
            last = self._history.scores[-1]
            facts.append(f"{last.metric} {last.percent:.2f} at step {last.step:,}")
        facts.append(f"{self._history.per_second:,.0f} {self._unit}/s")
        return ", ".join(filter(None, facts))

    def _keep(self) -> None:
        """Score and save when due; neither changes the training."""
        if self._timetable.score_is_due:
            self._score()
        if self._timetable.save_is_due:
            self._save()

    @property
    def _scored_at_all(self) -> bool:
        return bool(len(self._data.held_back)) and self._data.labelled

    def _score(self) -> None:
        if not self._scored_at_all:
            return
        found = self._measure(self._student.module)
        self._history.scores.append(found)
        loss = "" if self._loss is None else f", loss {self._loss:.3f}"
        console.note(
            f"step {found.step:,}: {found.metric} {found.percent:.2f}, sparsity {100 * found.sparsity:.1f} %{loss}"
        )

    def _measure(self, module: GraphModule) -> ValidationScore:
        began = self._clock()
        metric, percent = self._data.score(_answers(module, self._data, self._objective.device))
        took = self._clock() - began
        self._history.scoring += took
        self._timetable.scored(took)
        sparsity = self._student.sparsity if module is self._student.module else 0.0
        return ValidationScore(self._history.step, metric, percent, sparsity, self._loss)

    def _diverged(self, step: int) -> str:
        folder = self._checkpoints.folder
        kept = f"the checkpoint in {folder} is from before" if self._checkpoints.path.exists() else "nothing was kept"
        return (
            f"the loss of step {step:,} is infinite or not a number, so training ended; {kept}: lower the recipe's "
            f"learning_rate, and choose another --output or remove {folder}."
        )

    def _save(self) -> None:
        """Write a checkpoint; the last one without the optimizer's state, which is no longer needed."""
        student = self._student
        state: dict[str, Any] = {
            "history": asdict(self._history),
            "loss": self._loss,
            "module": student.module.state_dict(),
            "done": self._done,
            "optimizer": None if self._done else self._optimizer.state_dict(),
            "pruner": student.pruner.state_dict() if student.pruner else None,
            "quantisation": student.quantisation.state_dict() if student.quantisation else None,
            "random": torch.get_rng_state(),
            "budget": self._budget.state(),
        }
        self._checkpoints.save(state)
        self._timetable.saved(self._checkpoints.took)

    def _restore(self) -> None:
        state = self._checkpoints.load()
        if state is None:
            return
        self._history = History.restored(state["history"])
        self._loss, self._done = state["loss"], state["done"]
        student, recipe = self._student, self._recipe
        student.module.load_state_dict(state["module"])
        if state["optimizer"] is not None:
            self._optimizer.load_state_dict(state["optimizer"])
        if student.pruner:
            student.pruner.load_state_dict(state["pruner"])
        if student.quantisation and recipe.quantisation:
            student.quantisation.load_state_dict(state["quantisation"])
        torch.set_rng_state(state["random"])
        # The same number of samples at once as before: another order of sums would change the result.
        self._budget = Budget.restored(state["budget"])
        console.note(f"continuing at step {self._history.step:,} of {recipe.steps:,}, from {self._checkpoints.path}")


def _answers(module: GraphModule, data: TrainingData, device: torch.device) -> Iterator[Mapping[str, Array]]:
    held: Integers = data.held_back
    names = [value.name for value in module.network.model.graph.output]
    for start in range(0, len(held), _SCORED_BATCH_SIZE):
        batch = data.batch(held[start : start + _SCORED_BATCH_SIZE])
        with torch.no_grad():
            outputs = module(tensors(batch.feed, device))
        yield {name: outputs[name].float().cpu().numpy() for name in names}


def _optimizer(module: GraphModule, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101); vectors, such as biases and scales, do not decay."""
    trained = module.trained(recipe.frozen)
    module.requires_grad_(False)
    for value in trained:
        value.requires_grad_(True)
    matrices = [value for value in trained if value.ndim > 1]
    vectors = [value for value in trained if value.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.learning_rate.peak)
