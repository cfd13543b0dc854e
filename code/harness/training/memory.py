"""The number of samples that fit in memory at once, from the measured memory that a forward pass keeps for backward."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from harness.host import memory

_MAX_SHARE_OF_MEMORY = 0.7
"""Part of the free memory that activations and gradients may take; the rest is for memory that no hook sees."""
_GRADIENT_FACTOR = 1.6
"""Factor on what is kept for the backward pass, for the gradients of activations."""
OPTIMIZER_BYTES = 12
"""Bytes per trained parameter: its gradient and AdamW's two moments, float32."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
_MAX_REUSED_BYTES = 32 * 2**20
"""Bytes of the largest block that glibc can keep: M_MMAP_THRESHOLD has no larger value."""
_FREE_MEMORY_FACTOR = 10
"""Freed memory is kept only if this many times the memory that training needs is available."""


def keep_freed(needed: int) -> None:
    """Let the C library, if it is glibc, keep freed memory for the next tensors, provided there is enough.

    By default it returns much of it to the kernel, which clears the pages of the next tensor: a third of the
    processor's time in a training of MiniLM. Kept memory is fragmented, so that training took 6.5 times ``needed``
    bytes (weights, gradients, optimizer and activations) after 1,200 steps.
    """
    available = memory.available()
    if available is None or available < _FREE_MEMORY_FACTOR * needed:
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _MAX_REUSED_BYTES)
        mallopt(_TRIM_THRESHOLD, -1)


@dataclass(frozen=True)
class Demand:
    """Bytes kept for a sample of ``length`` tokens (1 for an image): linear * length + square * length²."""

    linear: float
    square: float

    @classmethod
    def of(cls, short: tuple[int, int], long: tuple[int, int]) -> Demand:
        """Fit to two measured samples, (length, bytes) each; attention grows with the square of the length."""
        (a, low), (b, high) = short, long
        square = max(0.0, (high / b - low / a) / (b - a)) if b > a else 0.0
        return cls(max(high / b - square * b, 0.0), square)

    def bytes(self, length: int) -> float:
        """Of one sample."""
        return self.linear * length + self.square * length**2


def kept(forward: Callable[[], object], parameters: Iterable[torch.Tensor]) -> Counter[int]:
    """The number of tensors, by size in bytes, that a forward pass keeps for the backward pass, without the parameters.

    Every storage is counted once.
    """
    storages: dict[int, int] = {}
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # held so that no storage is freed and its address reused
        sizes = Counter(storages.values())
    del result
    return sizes


@dataclass(frozen=True)
class KeptBytes:
    """The memory that a forward pass keeps for the backward pass, in bytes."""

    each: int
    """For each sample."""
    largest: int
    """For each sample, in the largest tensor."""
    once: int
    """Once for all samples, such as masked and rounded weights."""

    @classmethod
    def by(cls, forward: Callable[[int], object], parameters: Sequence[torch.Tensor]) -> KeptBytes:
        """Measure ``forward``, which takes the number of samples, with 1 and with 2."""
        one, two = (kept(partial(forward, count), parameters) for count in (1, 2))
        each = max(_total(two) - _total(one), 1)
        return cls(each, max(two - one, default=0) // 2, max(_total(one) - each, 0))


def _total(sizes: Counter[int]) -> int:
    return sum(sizes.elements())


def free(device: torch.device) -> int | None:
    """Free bytes of a device; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory.available()


@dataclass(frozen=True)
class Budget:
    """The memory for samples that are computed at once."""

    demand: Demand
    bytes: float
    """Available for them."""
    largest: Demand = Demand(0.0, 0.0)
    """Of the largest tensor; zero where tensors of any size are kept when they are freed."""

    @classmethod
    def of(cls, demand: Demand, largest: Demand, taken: int, device: torch.device) -> Budget:
        """The free memory, less ``taken`` bytes.

        On a CPU, no tensor may be too large to be kept (`keep_freed`): fewer samples at once are no slower there.
        """
        available = free(device)
        if device.type == "cuda":
            largest = Demand(0.0, 0.0)
        if available is None:
            return cls(demand, float("inf"), largest)
        return cls(demand, max(0.0, _MAX_SHARE_OF_MEMORY * available - taken), largest)

    @classmethod
    def restored(cls, state: Mapping[str, float]) -> Budget:
        """From `state`."""
        largest = Demand(state["largest_linear"], state["largest_square"])
        return cls(Demand(state["linear"], state["square"]), state["bytes"], largest)

    def state(self) -> dict[str, float]:
        """Plain numbers for a checkpoint."""
        return {
            "bytes": self.bytes,
            "linear": self.demand.linear,
            "square": self.demand.square,
            "largest_linear": self.largest.linear,
            "largest_square": self.largest.square,
        }

    def samples(self, length: int) -> int:
        """The number of samples of a length that fit, at least one."""
        limits = (
            (self.bytes, self.demand.bytes(length) * _GRADIENT_FACTOR),
            (_MAX_REUSED_BYTES, self.largest.bytes(length)),
        )
        return max(1, int(min([limit / each for limit, each in limits if each] + [1 << 20])))
