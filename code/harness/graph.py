"""The inputs, outputs and metadata of an ONNX file, read without an engine."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from harness.errors import ConfigError

_METADATA_PROPS = 14  # the field's number in ModelProto


@dataclass(frozen=True)
class Tensor:
    """An input or output as the ONNX graph declares it; an open dimension is None."""

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int | None, ...]

    def __str__(self) -> str:
        """Name, dtype and dimensions: ``input float32 (?, 3, 224, 224)``."""
        return f"{self.name} {self.dtype} ({', '.join('?' if dim is None else str(dim) for dim in self.dims)})"


@dataclass(frozen=True)
class Graph:
    """A model without its weights."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]
    """The file's metadata_props."""
    weight_files: tuple[str, ...]
    """External files with the model's weights, relative to its folder."""
    operators: dict[str, int] = field(default_factory=dict)
    """Number of nodes by operator, the most frequent first."""


def read_graph(path: Path) -> Graph:
    """Read a file's graph, without weights in external files.

    Raises:
        ConfigError: the file cannot be read or is not an ONNX model.
    """
    import onnx  # slow to import, and needed only for a model given by its path

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
            dict(Counter(node.op_type for node in graph.node).most_common()),
        )
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    except Exception as error:
        raise ConfigError(f"{path} is not an ONNX model ({type(error).__name__}): export it again.") from error
    if not found.inputs or not found.outputs:
        raise ConfigError(f"{path} is not an ONNX model: it has no inputs or no outputs; export it again.")
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """A file's metadata_props, without importing onnx, which is slow, or reading the weights, which may be large.

    Raises:
        ConfigError: the file cannot be read or is not an ONNX model.
    """
    try:
        with path.open("rb") as file:
            entries = [dict(_strings(io.BytesIO(content), (1, 2))) for _, content in _strings(file, (_METADATA_PROPS,))]
        return {entry.get(1, b"").decode(): entry.get(2, b"").decode() for entry in entries}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not an ONNX model: export it again.") from error


def listing(tensors: Sequence[Tensor]) -> str:
    """The tensors on one line, for messages."""
    return ", ".join(map(str, tensors)) or "none"


def _tensor(value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    return Tensor(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), dims)


def _strings(file: IO[bytes], wanted: tuple[int, ...]) -> Iterator[tuple[int, bytes]]:
    """(number, content) of each wanted field of a protobuf message; such a field is a string or a message."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    while (at := file.tell()) < end:
        number, kind = divmod(_varint(file), 8)
        if kind == 0:
            _varint(file)
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind} at {at}")
        length = _varint(file) if kind == 2 else 8 if kind == 1 else 4
        if length > end - file.tell():
            raise ValueError(f"a field of {length} bytes at {at}")
        if kind == 2 and number in wanted:
            yield number, file.read(length)
        else:
            file.seek(length, io.SEEK_CUR)


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("not a varint")
