"""Masks that hold weights at zero while a model is trained, and grow on a recipe's schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from onnx import ModelProto
from torch import Tensor

from harness.compress.network import Layer
from harness.errors import ConfigError
from harness.trainable.graph import GraphModule, as_matrix, restored
from harness.training import fisher
from harness.training.fisher import FisherInverse
from harness.training.recipe import Pruning
from harness.training.schedule import dense_at, prunes_at, sparsity_at

Gradients = Mapping[str, Tensor]
"""A gradient of each layer's matrix, float32 (outputs, inputs), by the layer's output."""


@dataclass(frozen=True)
class FisherMemory:
    """The memory and passes that second-order pruning needs."""

    bytes: int
    """Peak size: the blocks, a copy of the weights, and the scores twice."""
    passes: int
    """The number of times that all gradients are computed for one pruning step."""


@dataclass(frozen=True)
class _Rows:
    """The outputs ``start`` to ``stop`` of a layer."""

    layer: Layer
    start: int
    stop: int


class Pruner:
    """The masks of a model's layers, bool (outputs, inputs), True for the weights that stay.

    Groups of ``block`` neighbouring inputs of one output are removed together; inputs after the last whole group stay.
    Groups are ranked over all layers, or within each as the recipe's ``scope`` says. Removed weights never return,
    except with AC/DC.
    """

    def __init__(self, module: GraphModule, layers: Sequence[Layer], pruning: Pruning) -> None:
        """Register masks of ones in ``module.weights`` for the layers whose names the recipe does not exclude.

        Raises:
            ConfigError: no layers are left, or they have fewer whole groups than the sparsity requires.
        """
        self._module, self._pruning = module, pruning
        self.layers = [layer for layer in layers if not pruning.keeps(layer.name, layer.weight)]
        if not self.layers:
            raise ConfigError("the recipe's pruning.keep leaves no layer to prune: remove patterns from it.")
        with torch.no_grad():
            self._masks = {
                layer.output: torch.ones_like(module.matrix(layer), dtype=torch.bool) for layer in self.layers
            }
        self._total = sum(mask.numel() for mask in self._masks.values())
        self._check_reach()
        for layer in self.layers:
            module.weights[layer.output] = self._hook(layer.output)

    def _check_reach(self) -> None:
        block = self._pruning.block
        masks = list(self._masks.values())
        parts = [masks] if self._pruning.scope == "global" else [[mask] for mask in masks]
        for part in parts:
            whole = sum(len(mask) * (mask.shape[1] // block * block) for mask in part)
            if whole < self._pruning.sparsity * sum(mask.numel() for mask in part):
                share = whole / sum(mask.numel() for mask in part)
                raise ConfigError(
                    f"only {share:.0%} of the weights are in whole blocks of {block} inputs: lower the recipe's "
                    "pruning.sparsity or block, or add patterns to pruning.keep."
                )

    def _hook(self, output: str) -> Callable[[Tensor], Tensor]:
        def masked(matrix: Tensor) -> Tensor:
            return matrix * self._masks[output].to(matrix.device)

        return masked

    @property
    def sparsity(self) -> float:
        """Share of zeros in the masks, over all the layers that are pruned."""
        return 1 - sum(int(mask.sum()) for mask in self._masks.values()) / self._total

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks by the layers' outputs."""
        return dict(self._masks)

    @property
    def fisher_memory(self) -> FisherMemory:
        """The needs of second-order pruning; zeros for other methods."""
        if self._pruning.method != "second-order":
            return FisherMemory(0, 0)
        parts = self._parts()
        largest = max(sum(self._bytes(rows) for rows in part) for part in parts)
        beside = self._total * 4 + 2 * self._total // self._pruning.block * 4
        return FisherMemory(largest + beside, 1 if len(parts) == 1 else 2 * len(parts))

    @property
    def gradients_needed(self) -> int:
        """The number of gradients that one pruning step computes."""
        return self._pruning.fisher.samples * self.fisher_memory.passes

    def gradients(self) -> dict[str, Tensor]:
        """The current gradients of the layers' matrices, float32 (outputs, inputs); zeros where there are none."""
        found = {}
        for layer in self.layers:
            weight = self._module.weight(layer)
            found[layer.output] = as_matrix(layer, torch.zeros_like(weight) if weight.grad is None else weight.grad)
        return found

    @torch.no_grad()
    def adopt(self) -> None:
        """Set the masks to the zeros that the weights already have, for a model that was pruned before training."""
        for layer in self.layers:
            present = self._groups(self._module.matrix(layer)).ne(0).any(2)
            self._masks[layer.output] = self._whole(present, layer)

    def step(
        self,
        step: int,
        gradients: Callable[[int], Iterator[Gradients]] | None = None,
        pruned: Callable[[ModelProto, float], ModelProto] | None = None,
    ) -> bool:
        """Change the masks as the schedule says for this step, and set the weights that they remove to 0.

        Args:
            step: the next training step.
            gradients: for second-order pruning: yields the given number of gradients of the loss at the current
                weights, the same at each call; called again only if the Fisher matrix exceeds its memory limit.
            pruned: for layer-wise pruning: a copy of a model with this share of zeros in the layers, fitted to it.

        Returns:
            Whether masks changed; with second-order and layer-wise pruning the weights that stay have changed too.

        Raises:
            RunFailed: the gradients are not finite.
        """
        pruning = self._pruning
        if pruning.method == "acdc" and dense_at(pruning, step):
            return self._change({output: torch.ones_like(mask) for output, mask in self._masks.items()})
        if not prunes_at(pruning, step):
            return False
        target = sparsity_at(pruning, step)
        if pruning.method == "second-order":
            if gradients is None:
                raise ValueError("second-order pruning needs gradients")
            return self._surgery(target, gradients) if target else False  # without a target, no gradients are needed
        if pruning.method == "layer-wise":
            if pruned is None:
                raise ValueError("layer-wise pruning needs a pruned model")
            return self._layer_wise(pruned(self._module.store(), target)) if target else False
        with torch.no_grad():
            scores = {layer.output: self._groups(self._module.matrix(layer)).square().sum(2) for layer in self.layers}
        changed = self._change(self._chosen(scores, target))
        self.apply()
        return changed

    @torch.no_grad()
    def apply(self) -> None:
        """Set the weights that the masks remove to 0, also after an optimizer step, whose momentum moves them."""
        for layer in self.layers:
            weight = self._module.weight(layer)
            weight.mul_(restored(layer, self._masks[layer.output].to(weight.device), weight.shape))

    def state_dict(self) -> dict[str, Tensor]:
        """The masks by the layers' outputs, bool."""
        return {output: mask.clone() for output, mask in self._masks.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the masks of `state_dict`.

        Raises:
            ConfigError: they belong to another model.
        """
        shapes = {output: mask.shape for output, mask in self._masks.items()}
        if shapes != {output: mask.shape for output, mask in state.items()}:
            raise ConfigError("the masks of the checkpoint belong to another model: remove its folder to start again.")
        for output, mask in self._masks.items():
            self._masks[output] = state[output].to(mask.device, torch.bool).clone()

    def _change(self, masks: dict[str, Tensor]) -> bool:
        changed = any(not torch.equal(mask, masks[output]) for output, mask in self._masks.items())
        self._masks = masks
        return changed

    def _layer_wise(self, model: ModelProto) -> bool:
        """Take the weights of a pruned model, and add its zeros to the masks."""
        before = self.masks
        self._module.load(model)
        self.adopt()
        found, self._masks = self._masks, before
        changed = self._change({output: mask & found[output] for output, mask in before.items()})
        self.apply()
        return changed

    def _surgery(self, target: float, gradients: Callable[[int], Iterator[Gradients]]) -> bool:
        """Second-order pruning: rank by the increase of the loss, and adapt the weights that stay.

        Where the matrix exceeds the memory limit, it is measured part by part: once to rank all groups together, and
        once more to adapt the weights, which change only at the end, so that all parts see the same model.
        """
        parts = self._parts()
        scores = {output: torch.zeros_like(self._groups(mask)[:, :, 0].float()) for output, mask in self._masks.items()}
        measured: list[FisherInverse] = []
        for part in parts:
            measured.clear()  # before the next is made
            measured = self._measured(part, gradients)
            self._score(part, measured, scores)
        masks = self._chosen(scores, target)
        with torch.no_grad():
            adapted = {layer.output: self._module.matrix(layer).clone() for layer in self.layers}
        for part in parts:
            if len(parts) > 1:
                measured.clear()
                measured = self._measured(part, gradients)
            self._adapt(part, measured, masks, adapted)
        with torch.no_grad():
            for layer in self.layers:
                weight = self._module.weight(layer)
                weight.copy_(restored(layer, adapted[layer.output], weight.shape))
        return self._change(masks)

    @torch.no_grad()
    def _score(self, part: Sequence[_Rows], measured: Sequence[FisherInverse], scores: Mapping[str, Tensor]) -> None:
        for rows, information in zip(part, measured, strict=True):
            weight = self._module.matrix(rows.layer)[rows.start : rows.stop]
            scores[rows.layer.output][rows.start : rows.stop] = information.scores(weight)

    @torch.no_grad()
    def _adapt(
        self,
        part: Sequence[_Rows],
        measured: Sequence[FisherInverse],
        masks: Mapping[str, Tensor],
        adapted: Mapping[str, Tensor],
    ) -> None:
        for rows, information in zip(part, measured, strict=True):
            place = slice(rows.start, rows.stop)
            matrix, mask = adapted[rows.layer.output], masks[rows.layer.output]
            matrix[place] = information.adapted(matrix[place], mask[place])

    def _measured(self, part: Sequence[_Rows], gradients: Callable[[int], Iterator[Gradients]]) -> list[FisherInverse]:
        settings, group = self._pruning.fisher, self._pruning.block
        found = [
            FisherInverse(
                (rows.stop - rows.start, self._masks[rows.layer.output].shape[1]),
                group=group,
                block=settings.block,
                dampening=settings.dampening,
            )
            for rows in part
        ]
        for gradient in gradients(settings.samples):
            for rows, information in zip(part, found, strict=True):
                place = slice(rows.start, rows.stop)
                # Removed weights do not move: without a gradient they do not affect the inverse of the others.
                with torch.no_grad():
                    own = gradient[rows.layer.output][place] * self._masks[rows.layer.output][place]
                    information.update(own)
        return found

    def _bytes(self, rows: _Rows) -> int:
        shape = rows.stop - rows.start, self._masks[rows.layer.output].shape[1]
        return fisher.memory(shape, self._pruning.block, self._pruning.fisher.block)

    def _parts(self) -> list[list[_Rows]]:
        """The layers' outputs, divided so that each part fits the memory limit; at least one output in each."""
        limit = int(self._pruning.fisher.memory * 2**30)
        parts: list[list[_Rows]] = [[]]
        room = limit
        for layer in self.layers:
            outputs = len(self._masks[layer.output])
            each, start = self._bytes(_Rows(layer, 0, 1)), 0
            while start < outputs:
                if room < each and parts[-1]:
                    parts.append([])
                    room = limit
                stop = min(outputs, start + max(room // each, 1))
                parts[-1].append(_Rows(layer, start, stop))
                room -= (stop - start) * each
                start = stop
        return parts

    def _chosen(self, scores: Mapping[str, Tensor], target: float) -> dict[str, Tensor]:
        """Masks that also remove the groups with the lowest scores, float32 (outputs, groups), up to ``target``."""
        ranked = {}
        for layer in self.layers:
            score = scores[layer.output]
            if self._pruning.method != "acdc":
                alive = self._groups(self._masks[layer.output]).any(2)
                score = score.masked_fill(~alive, -torch.inf)
            ranked[layer.output] = score
        if self._pruning.scope == "layer":
            keep = {
                output: _keep(score.flatten(), self._count(target, self._masks[output].numel()))
                for output, score in ranked.items()
            }
        else:
            device = next(iter(ranked.values())).device
            everything = torch.cat([score.flatten().to(device) for score in ranked.values()])
            sizes = [score.numel() for score in ranked.values()]
            pieces = torch.split(_keep(everything, self._count(target, self._total)), sizes)
            keep = dict(zip(ranked, pieces, strict=True))
        return {
            layer.output: self._whole(keep[layer.output].view(ranked[layer.output].shape), layer)
            for layer in self.layers
        }

    def _count(self, target: float, weights: int) -> int:
        return round(target * weights / self._pruning.block)

    def _groups(self, matrix: Tensor) -> Tensor:
        """A matrix (outputs, inputs) as (outputs, groups, block), without the inputs after the last whole group."""
        block = self._pruning.block
        return matrix[:, : matrix.shape[1] // block * block].reshape(len(matrix), -1, block)

    def _whole(self, keep: Tensor, layer: Layer) -> Tensor:
        """The mask (outputs, inputs) of the groups to keep, bool (outputs, groups)."""
        mask = torch.ones_like(self._masks[layer.output])
        width = keep.shape[1] * self._pruning.block
        mask[:, :width] = keep.repeat_interleave(self._pruning.block, dim=1)
        return mask


def _keep(scores: Tensor, count: int) -> Tensor:
    """bool (n,): False for the ``count`` lowest scores and all of -inf; of equal scores the first are removed."""
    keep = scores != -torch.inf
    count = min(count, len(scores))
    if count <= int((~keep).sum()):
        return keep
    limit = scores.kthvalue(count).values
    keep = scores > limit
    equal = (scores == limit).nonzero().flatten()
    keep[equal[count - int((scores < limit).sum()) :]] = True
    return keep
