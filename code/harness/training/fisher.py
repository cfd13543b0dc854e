"""The Fisher information of a layer's weights, which predicts the cost of removing some of them.

From the Optimal BERT Surgeon (Kurtic et al., arXiv:2203.07259): the matrix stands for the Hessian of the loss, and is
cut to blocks on its diagonal. The paper's matrix is the empirical one, of the loss's gradients. Here the gradients are
those of labels drawn from the model's own answers, one for each sample: a Monte-Carlo estimate of the model's Fisher
matrix. See `drawn` for the reason.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.errors import RunFailed

_CHUNK_FLOATS = 2**22
"""Count of float64 numbers that are factorised at once: 32 MiB."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small matrices are factorised one after the other: more threads only wait for each other.

    On a busy machine with two cores, inverting blocks of 48 took seven times as long with two threads as with one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class FisherInverse:
    """The damped Fisher matrix of a weight (outputs, inputs), and its inverse, in diagonal blocks.

    F = lambda I + 1/m sum_i g_i g_i' (equation 2), of which only blocks of neighbouring inputs of one output are kept.
    The paper updates the inverse itself with each gradient (Sherman-Morrison), which loses digits in float32 and passes
    over all blocks once per gradient. Here several gradients at once are added to a sum, and each block is factorised
    at the end, in float64: the same inverse, up to rounding.

    Memory is outputs x inputs x (block + block / 4) x 4 bytes: the blocks, and a few gradients that are added together.
    """

    def __init__(self, shape: tuple[int, int], *, group: int = 1, block: int = 50, dampening: float = 1e-7) -> None:
        """Start without gradients.

        Args:
            shape: of the weight: (outputs, inputs).
            group: weights that are pruned together, neighbouring inputs of an output; no block cuts one.
            block: largest width of a block; the inputs are divided evenly.
            dampening: lambda.
        """
        self.shape, self.group, self.dampening = shape, group, dampening
        self.width = block_width(shape[1], group, block)
        self.samples = 0
        """Number of gradients so far, m in the formula."""
        self._sum = torch.empty(0)
        """Sum of the gradients' outer products, float32 (outputs x blocks, width, width)."""
        self._waiting: list[Tensor] = []

    @property
    def _blocks(self) -> int:
        return ceil(self.shape[1] / self.width)

    def update(self, gradient: Tensor) -> None:
        """Add a gradient of the loss, float32 (outputs, inputs)."""
        if not self._sum.numel():
            size = self.shape[0] * self._blocks
            self._sum = torch.zeros(size, self.width, self.width, device=gradient.device)
        self.samples += 1
        self._waiting.append(self._by_block(gradient.detach().float()))
        if len(self._waiting) >= _added_at_once(self.width):
            self._add()

    def _add(self) -> None:
        if self._waiting:
            gradients = torch.stack(self._waiting, dim=1)
            self._sum.baddbmm_(gradients.transpose(1, 2), gradients)
            self._waiting = []

    @_one_thread()
    def scores(self, weight: Tensor) -> Tensor:
        """The cost of removing a group Q of weights: 1/2 w_Q' ((F^-1)_QQ)^-1 w_Q, float32 (outputs, inputs // group).

        It is the increase of the loss if the block's other weights adapt. For single weights it is w^2 / (2 (F^-1)_ii).
        """
        weights = self._by_block(weight)
        found = []
        for place, blocks in self._chunks():
            inverse = torch.cholesky_inverse(_factor(blocks))
            count = self.width // self.group
            # (blocks, groups, group, groups, group): the diagonal over groups comes last.
            parts = inverse.view(-1, count, self.group, count, self.group).diagonal(dim1=1, dim2=3).movedim(-1, 1)
            own = weights[place].double().view(-1, count, self.group, 1)
            found.append((own * torch.linalg.solve(parts, own)).sum((2, 3)) / 2)
        scores = torch.cat(found).float().view(self.shape[0], -1)
        return scores[:, : self.shape[1] // self.group]

    @_one_thread()
    def adapted(self, weight: Tensor, keep: Tensor) -> Tensor:
        """The weights with those outside ``keep`` removed, and the others changed so that the loss grows least.

        That is the solution of the paper's problem for all removed weights Q of a block together,
        w - F^-1 E_Q' (E_Q F^-1 E_Q')^-1 E_Q w. The remaining weights R change by (F_RR)^-1 F_RQ w_Q, which is the same
        and needs no inverse.

        Args:
            weight: float32 (outputs, inputs).
            keep: bool (outputs, inputs), False for the weights to remove.
        """
        weights, kept = self._by_block(weight), self._by_block(keep)
        found = []
        for place, blocks in self._chunks():
            own, stays = weights[place].double(), kept[place].double()
            removed = own * (1 - stays)
            pull = (blocks @ removed.unsqueeze(2)).squeeze(2) * stays
            both = stays.unsqueeze(2) * stays.unsqueeze(1)
            rest = blocks * both + torch.diag_embed(1 - stays)
            change = torch.cholesky_solve(pull.unsqueeze(2), _factor(rest)).squeeze(2)
            found.append((own + change) * stays)
        return torch.cat(found).float().view(self.shape[0], -1)[:, : self.shape[1]].contiguous()

    def _by_block(self, value: Tensor) -> Tensor:
        """A value (outputs, inputs) as (outputs x blocks, width), with zeros after the last input."""
        value = torch.nn.functional.pad(value, (0, self._blocks * self.width - self.shape[1]))
        return value.reshape(-1, self.width)

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Damped blocks of F, float64, some at a time; RunFailed if a gradient was not finite."""
        self._add()
        step = max(1, _CHUNK_FLOATS // self.width**2)
        for start in range(0, len(self._sum), step):
            place = slice(start, start + step)
            blocks = self._sum[place].double() / max(self.samples, 1)
            if not bool(blocks.isfinite().all()):
                raise RunFailed("gradients of second-order pruning are not finite: lower the recipe's learning rate.")
            diagonal = blocks.diagonal(dim1=1, dim2=2)
            # A sum that float32 cannot distinguish from zero must not look like a direction that costs nothing.
            noise = torch.finfo(torch.float32).eps * self.width * diagonal.amax(1, keepdim=True)
            diagonal.add_(noise.clamp(min=self.dampening))
            yield place, blocks


def _factor(blocks: Tensor) -> Tensor:
    factor: Tensor = torch.linalg.cholesky(blocks)
    return factor


@torch.no_grad()
def drawn(
    outputs: Mapping[str, Tensor],
    answers: Collection[str],
    mask: NDArray[np.generic] | None,
    normalised: Collection[str],
    seed: int,
    first: int = 0,
) -> dict[str, NDArray[np.int64]]:
    """Labels drawn from a model's own answers, by output, int64 (samples,).

    The gradients of the cross-entropy with them make up the Fisher matrix, which is the Hessian of the divergence from
    the dense model. The gradients of that divergence itself are 0 before the first pruning, where both models agree.

    Args:
        outputs: logits (samples, classes), or probabilities where ``normalised`` has the name.
        answers: the outputs that labels are drawn for.
        mask: bool (samples, classes), the valid tokens, for answers that are tokens; others are not drawn.
        normalised: the outputs that are probabilities.
        seed: the same seed draws the same labels.
        first: number of the first sample in its batch, so that a batch in parts gets the same labels as a whole.
    """
    count = len(outputs[next(iter(answers))])
    uniform = np.random.default_rng(seed).random((first + count, len(answers)))[first:]
    found = {}
    for number, name in enumerate(answers):
        values = outputs[name].detach().float().cpu().flatten(1)
        logits = values.clamp_min(torch.finfo(torch.float32).tiny).log() if name in normalised else values
        if mask is not None:
            logits = logits.masked_fill(~torch.from_numpy(np.asarray(mask, dtype=bool)), -torch.inf)
        sums = logits.double().softmax(1).cumsum(1)
        places = torch.from_numpy(uniform[:, number, None].copy()) * sums[:, -1:]
        found[name] = torch.searchsorted(sums, places, right=True)[:, 0].clamp_max(sums.shape[1] - 1).numpy()
    return found


def block_width(inputs: int, group: int, block: int) -> int:
    """The width of diagonal blocks: at most ``block``, a multiple of ``group``, with little left over at the end."""
    groups = ceil(inputs / group)
    count = ceil(groups / max(block // group, 1))
    return ceil(groups / count) * group


def memory(shape: tuple[int, int], group: int, block: int) -> int:
    """Bytes that a `FisherInverse` of a weight (outputs, inputs) takes."""
    width = block_width(shape[1], group, block)
    return shape[0] * ceil(shape[1] / width) * width * (width + _added_at_once(width)) * 4


def _added_at_once(width: int) -> int:
    """Number of gradients that are added in one pass over the blocks."""
    return max(1, width // 4)
