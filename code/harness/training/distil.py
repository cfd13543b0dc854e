"""The loss that training minimises: the distance to a teacher's answers and hidden states, and to the labels."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harness.compress.network import Network
from harness.errors import ConfigError
from harness.task.shape import Array
from harness.task.training import TrainingBatch
from harness.training.layers import hidden_names
from harness.training.recipe import Distillation

_MASKED_LOGIT = -1e4
"""Logit of padding: its probability is 0 in float32, and differences of such logits remain finite."""
_SMALLEST = 1e-30
_PASSING = ("Identity", "Reshape", "Squeeze", "Flatten")

LOGITS, HIDDEN, LABELS = "logits", "hidden", "labels"
"""The parts of the loss, named like their weights in a recipe."""


def hidden_pairs(student: Network, teacher: Network) -> list[tuple[str, str]]:
    """(student's tensor, teacher's tensor) at the end of each encoder layer; layers are matched by number.

    A student from `drop_layers` keeps the numbers of its layers.

    Raises:
        ConfigError: the graphs do not show their layers, or the teacher lacks one of the student's.
    """
    own, others = hidden_names(student), hidden_names(teacher)
    if not own or not set(own) <= set(others):
        raise ConfigError(
            "the names of the graph's nodes show no encoder layers that the teacher has as well, such as "
            "bert.encoder.layer.0/...: set the recipe's distillation.hidden to 0."
        )
    return [(name, others[number]) for number, name in own.items()]


def probabilities(network: Network) -> set[str]:
    """The graph's outputs that are probabilities, not logits: those of a Softmax."""
    makers = {name: node for node in network.nodes for name in node.output}
    found = set()
    for value in network.model.graph.output:
        node = makers.get(value.name)
        while node is not None and node.op_type in _PASSING:
            node = makers.get(node.input[0])
        if node is not None and node.op_type == "Softmax":
            found.add(value.name)
    return found


def loss(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    batch: TrainingBatch,
    distillation: Distillation | None,
    hidden: Sequence[tuple[str, str]] = (),
    normalised: Collection[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, the mean over its samples, and its parts before they are weighted, float32 scalars.

    ``student`` and ``teacher`` are tensors by name: `TrainingBatch.answers` and ``hidden``, see `hidden_pairs`; the
    teacher's are not read without distillation. ``normalised`` are the outputs in `probabilities`. Without distillation
    the loss is the cross-entropy with the labels. Since each part is a mean over samples, the mean of the losses of
    equal parts of a batch is the loss of the batch.

    - logits: the divergence KL(teacher || student) of the answers' softmax at temperature T, times T squared (Hinton
      et al., arXiv:1503.02531, section 2), the mean over the answers;
    - hidden: the mean squared difference of hidden states over tokens and channels, divided by the teacher's mean
      square, the mean over layers. The squared difference is that of Jiao et al., arXiv:1909.10351, equation 8; the
      division makes one weight fit models that normalise their hidden states and those that do not;
    - labels: the cross-entropy, the mean over the answers, as in run_squad.py (google-research/bert).

    Raises:
        ConfigError: there are neither labels nor anything else to minimise.
    """
    weights = distillation or Distillation(logits=0.0, labels=1.0)
    scores = {name: _scores(student[name], batch.mask, name in normalised) for name in batch.answers}
    parts: dict[str, Tensor] = {}
    if weights.logits:
        pairs = [(scores[name], _scores(teacher[name], batch.mask, name in normalised)) for name in batch.answers]
        parts[LOGITS] = _mean([_divergence(*pair, weights.temperature) for pair in pairs])
    if weights.hidden and hidden:
        parts[HIDDEN] = _mean([_difference(student[own], teacher[other], batch.mask) for own, other in hidden])
    if weights.labels and batch.targets is not None:
        parts[LABELS] = _mean([_cross_entropy(scores[name], target) for name, target in batch.targets.items()])
    if not parts:
        raise ConfigError(
            "there is nothing to train towards: the data has no labels and the recipe no distillation of logits; add "
            "answers to the data, or distillation to the recipe."
        )
    factors = {LOGITS: weights.logits, HIDDEN: weights.hidden, LABELS: weights.labels}
    total = torch.stack([factors[name] * part for name, part in parts.items()]).sum()
    return total, {name: part.detach() for name, part in parts.items()}


def drawn_difference(student: Sequence[Tensor], mask: Array | None, weight: float, seed: int, first: int = 0) -> Tensor:
    """A random float32 scalar; its gradients give the Hessian of the hidden-state loss at the point where that is 0.

    Each state is drawn from a normal distribution around itself, as labels are drawn from the answers (`fisher.drawn`):
    g = sum_l sqrt(2 weight / (layers x squares)) J_l' e with normal e, so the mean of g g' is that Hessian, the sum of
    2 weight / (layers x squares) J_l' J_l, of a sample; of several samples the mean of their g.

    Args:
        student: hidden states (samples, tokens, channels) of the layers.
        mask: bool (samples, tokens), False for padding.
        weight: that of the hidden states in the loss.
        seed: the same seed draws the same noise.
        first: number of the first sample in its batch, so that a batch in parts gets the same noise as a whole.
    """
    parts = []
    for layer, state in enumerate(student):
        own = state.float()
        if mask is not None:
            own = own * torch.as_tensor(mask, device=own.device)[:, :, None]
        squares = own.detach().square().flatten(1).sum(1).clamp_min(_SMALLEST)
        noise = torch.stack([_normal(own[at].shape, (seed, first + at, layer)) for at in range(len(own))])
        products = (own * noise.to(own.device)).flatten(1).sum(1)
        parts.append((products * (2 * weight / (len(student) * squares)).sqrt()).mean())
    return torch.stack(parts).sum()


def _normal(shape: torch.Size, seed: tuple[int, int, int]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape), np.float32))


def _scores(values: Tensor, mask: Array | None, normalised: bool) -> Tensor:
    """Logits, float32 (samples, classes); padding cannot be an answer."""
    logits = values.float().flatten(1)
    if normalised:
        logits = logits.clamp_min(_SMALLEST).log()
    if mask is not None:
        logits = logits.masked_fill(~torch.as_tensor(mask, device=logits.device), _MASKED_LOGIT)
    return logits


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    own = functional.log_softmax(student / temperature, dim=-1)
    other = functional.log_softmax(teacher.detach() / temperature, dim=-1)
    return functional.kl_div(own, other, reduction="batchmean", log_target=True) * temperature**2


def _difference(student: Tensor, teacher: Tensor, mask: Array | None) -> Tensor:
    """The squared difference of hidden states (samples, tokens, channels) over the teacher's squares."""
    own, other = student.float(), teacher.detach().float()
    if mask is None:
        places = torch.ones(own.shape[:2], device=own.device)
    else:
        places = torch.as_tensor(mask, device=own.device).float()
    squares = ((own - other).square().flatten(2).sum(-1) * places).sum(1)
    scale = (other.square().flatten(2).sum(-1) * places).sum(1)
    return (squares / scale.clamp_min(_SMALLEST)).mean()


def _cross_entropy(logits: Tensor, target: Array) -> Tensor:
    return functional.cross_entropy(logits, torch.as_tensor(target, device=logits.device))


def _mean(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).mean()
