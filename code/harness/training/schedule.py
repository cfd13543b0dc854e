"""A recipe's learning rate and sparsity at each step, and when masks change. Does not import PyTorch."""

import math

from harness.training.recipe import Pruning, Recipe


def rate_at(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, from 0 to ``recipe.steps`` - 1."""
    rate = recipe.learning_rate
    warm = min((step + 1) / (rate.warmup + 1), 1.0)
    if not rate.phases:
        part = max(step - rate.warmup, 0) / max(recipe.steps - rate.warmup, 1)
        return warm * _falling(rate.peak, rate.final, part, rate.shape)
    begin = 0
    for phase in rate.phases:
        if step < phase.until:
            break
        begin = phase.until
    length = phase.cycle or phase.until - begin
    part = (step - begin) % length / length if step < phase.until else 1.0
    return warm * _falling(phase.start, phase.final, part, phase.shape)


def _falling(start: float, final: float, part: float, shape: str) -> float:
    if shape == "cosine":
        part = (1 - math.cos(math.pi * min(part, 1.0))) / 2
    return start + (final - start) * min(part, 1.0)


def prunes_at(pruning: Pruning, step: int) -> bool:
    """Whether masks are chosen before a step: every ``every`` steps from ``begin``, and at ``end``.

    With AC/DC at the start of each compressed phase.
    """
    if step == pruning.end:
        return True
    if not pruning.begin <= step < pruning.end or (step - pruning.begin) % pruning.every:
        return False
    return not dense_at(pruning, step)


def dense_at(pruning: Pruning, step: int) -> bool:
    """Whether a step has no mask: before ``begin``, and in AC/DC's decompressed phases.

    AC/DC alternates compressed and decompressed phases, and ends with a compressed one (Peste et al., arXiv:2106.12379,
    algorithm 1). At the start of a decompressed phase the paper also resets the optimizer's momentum.
    """
    if step < pruning.begin:
        return True
    if pruning.method != "acdc" or step >= pruning.end:
        return False
    return (step - pruning.begin) // pruning.every % 2 == 1


def sparsity_at(pruning: Pruning, step: int) -> float:
    """The sparsity that holds at a step; it changes only where `prunes_at` says so.

    It follows s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 (Zhu and Gupta, arXiv:1710.01878, equation 1), where t
    is the last step that pruned. 0 where there is no mask: see `dense_at`.
    """
    if dense_at(pruning, step):
        return 0.0
    if step >= pruning.end or pruning.method == "acdc":
        return pruning.sparsity
    last = step - (step - pruning.begin) % pruning.every
    left = 1 - (last - pruning.begin) / (pruning.end - pruning.begin)
    return pruning.sparsity + (pruning.initial - pruning.sparsity) * left**3
