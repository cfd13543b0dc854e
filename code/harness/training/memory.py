"""How many samples fit the memory at once: what a forward pass keeps for the backward pass, measured."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from harness.host import memory

_SHARE = 0.7
"""Part of the free memory that activations and gradients may take; the rest is for what no hook sees."""
_OVERHEAD = 1.6
"""Times what is kept for the backward pass: gradients of activations live beside it."""
_OPTIMIZER_BYTES = 12
"""Of a trained parameter: its gradient and AdamW's two moments, float32."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed() -> None:
    """Let the C library keep freed memory for the next tensors, where it is glibc.

    By default a tensor of more than 32 MiB gets fresh pages, which the kernel clears, and returns them when it is
    freed: a third of the processor's time in a training of MiniLM. The process keeps its peak of memory instead.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


@dataclass(frozen=True)
class Demand:
    """Bytes that a sample of ``length`` tokens (1 for an image) keeps: linear * length + square * length²."""

    linear: float
    square: float

    @classmethod
    def of(cls, short: tuple[int, int], long: tuple[int, int]) -> Demand:
        """From two measured samples, each its length and its bytes; attention grows with the square of the length."""
        (a, low), (b, high) = short, long
        square = max(0.0, (high / b - low / a) / (b - a)) if b > a else 0.0
        return cls(max(high / b - square * b, 0.0), square)

    def bytes(self, length: int) -> float:
        """Of one sample."""
        return self.linear * length + self.square * length**2


def kept(forward: Callable[[], object], parameters: Iterable[torch.Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, every storage counted once, without the parameters."""
    storages: dict[int, int] = {}
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # held, so that no storage is freed and its address used again
        total = sum(storages.values())
    del result
    return total


def kept_each(forward: Callable[[int], object], parameters: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Bytes that each sample keeps, and those kept once however many there are, such as masked and rounded weights.

    ``forward`` gets the number of samples: 1 and 2.
    """
    one, two = (kept(partial(forward, count), parameters) for count in (1, 2))
    each = max(two - one, 1)
    return each, max(one - each, 0)


def free(device: torch.device) -> int | None:
    """Bytes that can still be used; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory.available()


@dataclass(frozen=True)
class Budget:
    """What samples that are computed at once may take."""

    demand: Demand
    bytes: float

    @classmethod
    def of(cls, demand: Demand, parameters: int, reserved: int, device: torch.device) -> Budget:
        """The free memory, less what gradients and the optimizer of so many parameters take, and ``reserved`` bytes."""
        available = free(device)
        if available is None:
            return cls(demand, float("inf"))
        return cls(demand, max(0.0, _SHARE * available - parameters * _OPTIMIZER_BYTES - reserved))

    @classmethod
    def restored(cls, state: Mapping[str, float]) -> Budget:
        """From `state`."""
        return cls(Demand(state["linear"], state["square"]), state["bytes"])

    def state(self) -> dict[str, float]:
        """Plain numbers for a checkpoint."""
        return {"bytes": self.bytes, "linear": self.demand.linear, "square": self.demand.square}

    def samples(self, length: int) -> int:
        """How many samples of a length fit, at least one."""
        each = self.demand.bytes(length) * _OVERHEAD
        return max(1, int(min(self.bytes / each, 1 << 20))) if each else 1 << 20
