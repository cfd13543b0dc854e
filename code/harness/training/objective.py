"""The loss of a batch: student and teacher run on the same samples, on a processor or a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from harness.host.machine import computes_bf16
from harness.task.shape import Array
from harness.task.training import TrainingBatch
from harness.trainable.graph import GraphModule
from harness.training.distil import drawn_difference, hidden_pairs, loss, probabilities
from harness.training.fisher import drawn
from harness.training.recipe import Distillation


class Objective:
    """Computes the losses that compare the student with the teacher and the labels.

    On a GPU, and on a processor that multiplies bf16 in hardware, matrix products and convolutions are computed in bf16
    (autocast); losses, parameters and the rest in FP32. Other processors compute everything in FP32.
    """

    def __init__(
        self, student: GraphModule, teacher: GraphModule, distillation: Distillation | None, device: torch.device
    ) -> None:
        """The teacher is not changed.

        Raises:
            ConfigError: hidden states are to be compared, but the graphs do not show their layers.
        """
        self._student, self.teacher, self._distillation, self.device = student, teacher, distillation, device
        compared = distillation is not None and distillation.hidden > 0
        self._hidden = hidden_pairs(student.network, teacher.network) if compared else []
        self._normalised = probabilities(student.network)
        self.bf16 = device.type == "cuda" or computes_bf16()

    def loss(self, batch: TrainingBatch) -> torch.Tensor:
        """The mean loss of a batch, a float32 scalar."""
        feed = tensors(batch.feed, self.device)
        answers: Mapping[str, torch.Tensor] = {}
        with self._arithmetic():
            if self._distillation and (self._distillation.logits or self._distillation.hidden):
                with torch.no_grad():
                    answers = self.teacher(feed, [name for _, name in self._hidden])
            outputs = self._student(feed, [name for name, _ in self._hidden])
        return loss(outputs, answers, batch, self._distillation, self._hidden, self._normalised)[0]

    def own_loss(self, batch: TrainingBatch, first: int, seed: int) -> torch.Tensor:
        """A loss whose gradients, squared, make up the Fisher matrix: the Hessian of `loss` where it is 0.

        It is the cross-entropy of the student's answers with labels drawn from them, and for hidden states
        `distil.drawn_difference`: without it, the last layers, which change the answers little, would be pruned first.
        ``first`` is the number of the first sample, where the batch is a part of a larger one: see `fisher.drawn`.
        """
        names = [name for name, _ in self._hidden]
        with self._arithmetic():
            outputs = self._student(tensors(batch.feed, self.device), names)
        labels = drawn(outputs, batch.answers, batch.mask, self._normalised, seed, first)
        own = loss(outputs, {}, replace(batch, targets=labels), None, (), self._normalised)[0]
        if self._distillation and names:
            states = [outputs[name] for name in names]
            own = own + drawn_difference(states, batch.mask, self._distillation.hidden, seed, first)
        return own

    def _arithmetic(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def tensors(feed: Mapping[str, Array], device: torch.device) -> dict[str, torch.Tensor]:
    """A feed as PyTorch tensors on a device."""
    return {name: torch.from_numpy(np.ascontiguousarray(value)).to(device) for name, value in feed.items()}


def samples(batch: TrainingBatch) -> int:
    """Number of samples of a batch."""
    return len(next(iter(batch.feed.values())))


def cost(batch: TrainingBatch) -> int:
    """The cost of a sample of the batch: its tokens with padding, or 1 for an image."""
    return int(batch.mask.shape[1]) if batch.mask is not None else 1


def slices(batch: TrainingBatch, size: int) -> Iterator[TrainingBatch]:
    """The batch in nearly equal parts of at most ``size`` samples."""
    count = samples(batch)
    parts = -(-count // max(size, 1))
    bounds = [number * count // parts for number in range(parts + 1)]
    for start, stop in pairwise(bounds):
        part = slice(start, stop)
        yield TrainingBatch(
            {name: value[part] for name, value in batch.feed.items()},
            None if batch.targets is None else {name: value[part] for name, value in batch.targets.items()},
            batch.answers,
            None if batch.mask is None else batch.mask[part],
        )
