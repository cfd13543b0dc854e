"""What an ONNX file says of itself: its inputs, its outputs and its metadata. No engine is needed to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ConfigError


@dataclass(frozen=True)
class Tensor:
    """An input or output as the ONNX graph declares it; a dimension is None where the graph leaves it open."""

    name: str
    dtype: np.dtype
    dims: tuple[int | None, ...]

    def __str__(self) -> str:
        """Name, dtype and dimensions: ``input float32 (?, 3, 224, 224)``."""
        return f"{self.name} {self.dtype} ({', '.join('?' if dim is None else str(dim) for dim in self.dims)})"


@dataclass(frozen=True)
class Graph:
    """The outside of a model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]
    """The file's metadata_props."""
    weight_files: tuple[str, ...]
    """Files beside the graph that hold its weights, relative to its folder."""


def read_graph(path: Path) -> Graph:
    """Read a file's graph, without the weights that lie beside it.

    Raises:
        ConfigError: it is no ONNX model.
    """
    import onnx  # slow to import, and needed only where a model is named by its path

    try:
        model = onnx.load(str(path), load_external_data=False)
        graph = model.graph
        weights = {tensor.name for tensor in graph.initializer}
        found = Graph(
            tuple(_tensor(value) for value in graph.input if value.name not in weights),
            tuple(_tensor(value) for value in graph.output),
            {entry.key: entry.value for entry in model.metadata_props},
            tuple(
                sorted(
                    {
                        pair.value
                        for tensor in graph.initializer
                        for pair in tensor.external_data
                        if pair.key == "location"
                    }
                )
            ),
        )
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:
        raise ConfigError(f"{path} is no ONNX model ({type(error).__name__}): export it again.") from error
    if not found.inputs or not found.outputs:
        raise ConfigError(f"{path} is no ONNX model: it has no inputs or no outputs; export it again.")
    return found


def listing(tensors: Sequence[Tensor]) -> str:
    """The tensors in one line, for messages."""
    return ", ".join(map(str, tensors)) or "none"


def _tensor(value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    return Tensor(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), dims)
