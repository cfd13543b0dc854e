"""The parts of an ONNX node that the operators' functions read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

SINCE_AXES_ARE_INPUTS = 13
"""The first operator set in which most operators read their axes as an input, and a softmax is over one axis."""
Function = Callable[..., Tensor | Sequence[Tensor]]
"""Runs a node: its inputs in order, None for one that is omitted; a single output, or all of them in order."""


@dataclass(frozen=True)
class OnnxNode:
    """A node's attributes by name, the number of its outputs, the version of its operator set, and its name."""

    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = SINCE_AXES_ARE_INPUTS
    name: str = ""

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)
