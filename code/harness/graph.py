"""The inputs, outputs and metadata of an ONNX file, read without an engine."""

import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from harness.errors import ConfigError
from harness.files.contents import EMPTY, look
from harness.files.fingerprint import remembered

# Numbers of protobuf fields, from onnx.proto.
_GRAPH, _METADATA_PROPS = 7, 14  # of ModelProto
_NODE, _INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12  # of GraphProto
_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7  # of NodeProto
_VALUE = 5  # of AttributeProto: a tensor
_DIMS, _TYPE, _FLOATS, _INTEGERS, _NAME, _RAW, _EXTERNAL = 1, 2, 4, 5, 8, 9, 13  # of TensorProto
_PARTS = {  # by message of onnx.proto: the numbers of its fields that may hold a tensor, and their messages
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
    "external data": {},
}
_MAX_DEPTH = 64  # of messages within messages


class _Truncated(ValueError):
    """A field is longer than the rest of the message."""


@dataclass(frozen=True)
class Tensor:
    """An input or output as the ONNX graph declares it; an open dimension is None."""

    name: str
    dtype: np.dtype[np.generic]
    """object for a type that numpy lacks, such as bfloat16."""
    dims: tuple[int | None, ...]
    """Empty if the graph does not say how many there are."""
    type_name: str = ""
    """The graph's name of a type that numpy lacks."""

    def __str__(self) -> str:
        """Name, dtype and dimensions: ``input float32 (?, 3, 224, 224)``."""
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.dims)
        return f"{self.name} {self.type_name or self.dtype} ({dims})"


@dataclass(frozen=True)
class Graph:
    """A model without its weights."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, str]
    """The file's metadata_props."""
    weight_files: tuple[str, ...]
    """External files with the model's weights, relative to its folder."""
    operators: Mapping[str, int] = field(default_factory=dict)
    """Number of nodes by operator, the most frequent first."""


@dataclass
class Weight:
    """A weight or constant of a graph, and where its values are."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    type_number: int = 0
    """As in onnx.TensorProto.DataType."""
    start: int = 0
    size: int = 0
    """Bytes of the values from ``start`` on; 0 if they are stored differently."""
    varints: bool = False
    """Whether the values are protobuf integers, rather than in their own format."""
    external: dict[str, str] = field(default_factory=dict)
    """For values in another file: location, offset, length."""


@dataclass
class Nodes:
    """The nodes of a graph, and its weights without their values."""

    nodes: list[tuple[str, list[str], list[str]]] = field(default_factory=list)
    """Operator, inputs and outputs of each."""
    weights: dict[str, Weight] = field(default_factory=dict)
    """Initialisers and constants by name."""
    domains: set[str] = field(default_factory=set)
    """Domains of the nodes' operators, without the standard one."""
    type_numbers: set[int] = field(default_factory=set)
    """Types of the graph's inputs and outputs, as in onnx.TensorProto.DataType."""


@remembered
def read_graph(path: Path) -> Graph:
    """Read a file's graph, without weights in external files.

    Raises:
        ConfigError: the file cannot be read or is not an ONNX model.
    """
    import onnx  # slow to import, and needed only for a model given by its path

    with _parsing(path):
        model = onnx.load(str(path), load_external_data=False)
        graph = model.graph
        weights = {tensor.name for tensor in graph.initializer}
        found = Graph(
            tuple(_tensor(value) for value in graph.input if value.name not in weights),
            tuple(_tensor(value) for value in graph.output),
            {entry.key: entry.value for entry in model.metadata_props},
            weight_files(path),
            dict(Counter(node.op_type for node in graph.node).most_common()),
        )
    if not found.inputs or not found.outputs:
        raise _not_a_model(path, "it has no inputs or no outputs")
    return found


@remembered
def read_metadata(path: Path) -> Mapping[str, str]:
    """A file's metadata_props, without importing onnx, which is slow, or reading the weights, which may be large.

    Raises:
        ConfigError: the file cannot be read or is not an ONNX model.
    """
    with _parsing(path), path.open("rb") as file:
        return dict(_entry(file, end) for _, end in _fields(file, _size(file), (_METADATA_PROPS,)))


def read_nodes(path: Path) -> Nodes:
    """The nodes and weights of a file's graph; read like `read_metadata`.

    Raises:
        ConfigError: the file cannot be read or is not an ONNX model.
    """
    found = Nodes()
    with _parsing(path), path.open("rb") as file:
        for _, end in _fields(file, _size(file), (_GRAPH,)):
            for number, stop in _fields(file, end, (_NODE, _INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT)):
                if number == _NODE:
                    found.nodes.append(_node(file, stop, found))
                elif number != _INITIALIZER:
                    found.type_numbers.update(_element_types(file, stop))
                else:
                    weight = _weight(file, stop)
                    found.weights[weight.name] = weight
    return found


def weight_files(path: Path) -> tuple[str, ...]:
    """Names of the external files with a model's weights, relative to its folder; read like `read_metadata`.

    Raises:
        ConfigError: the file cannot be read, is not an ONNX model, or names a file outside its folder.
    """
    return tuple(sorted({str(relative(path, part.location)) for part in _external(path)}))


def check_weights(path: Path, folder: Path | None = None) -> None:
    """Check that a model's external files are in its ``folder``, and long enough for all that the model reads.

    Every model is checked before an engine or a copy reads its files.

    Raises:
        ConfigError: an external file is missing, outside the folder, not a regular file, or too short.
    """
    folder = (folder or path.parent).resolve()
    for part in sorted(_external(path)):
        place = folder / relative(path, part.location)
        if not place.resolve().is_relative_to(folder):
            raise ConfigError(
                f"{place}, a weight file of {path.name}, is a link to another folder: replace the link with a copy."
            )
        if not place.exists():
            raise ConfigError(
                f"{place}, a weight file of {path.name}, is missing: copy or download it there; the model needs both "
                "files."
            )
        if not place.is_file():
            raise ConfigError(f"{place}, a weight file of {path.name}, is not a regular file: use another copy.")
        if place.stat().st_size < part.end:
            raise ConfigError(
                f"{place}, a weight file of {path.name}, has {place.stat().st_size:,} bytes, but the model reads up to "
                f"byte {part.end:,}: download or copy it again."
            )


def _begins_like_a_model(path: Path) -> bool:
    """Whether the first field is the IR version, as all exporters write it."""
    with path.open("rb") as file:
        return file.read(1) == b"\x08"


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Turn any error from reading a model file into one sentence that says what the file is."""
    try:
        yield
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the path and its permissions.") from error
    except _Truncated as error:
        raise _not_a_model(path, str(error), EMPTY.cure) from error
    except Exception as error:
        raise _not_a_model(path, type(error).__name__) from error


def _not_a_model(path: Path, reason: str, cure: str = "use another copy, or export the model again") -> ConfigError:
    kind = look(path)
    if kind is None:
        if not _begins_like_a_model(path):
            reason, cure = "it does not begin like one", "check the path"
        return ConfigError(f"{path} is not an ONNX model ({reason}): {cure}.")
    what = kind.what if kind is EMPTY else f"{kind.what}, not an ONNX model"
    return ConfigError(f"{path} is {what}: {kind.cure or 'export the model to ONNX, and give the path of that file'}.")


def relative(holder: Path, name: str) -> PurePosixPath:
    """The name of a file in the folder of ``holder``, which refers to it.

    Raises:
        ConfigError: the path could leave that folder.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or any(bad in name for bad in ("\\", "\0", ":")):
        raise ConfigError(f"{holder} refers to a file outside its folder ({name!r}): use another copy.")
    return path


@dataclass(frozen=True, order=True)
class _External:
    """The place of a tensor's values."""

    location: str
    end: int


@remembered
def _external(path: Path) -> frozenset[_External]:
    with _parsing(path), path.open("rb") as file:
        return frozenset(_places(file, "model", _size(file)))


def _places(file: IO[bytes], message: str, end: int, depth: int = 0) -> Iterator[_External]:
    """The place of each external tensor in the message from here to ``end``."""
    if depth > _MAX_DEPTH:
        raise ValueError("messages are nested too deeply")
    entries = {}
    for number, stop in _fields(file, end, _PARTS[message]):
        part = _PARTS[message][number]
        if _PARTS[part]:
            yield from _places(file, part, stop, depth + 1)
        else:
            key, value = _entry(file, stop)
            entries[key] = value
    if entries:
        offset, length = (int(entries.get(key) or 0) for key in ("offset", "length"))
        if offset < 0 or length < 0:
            raise ValueError("a negative offset")
        yield _External(entries.get("location", ""), offset + length)


def listing(tensors: Sequence[Tensor]) -> str:
    """The tensors on one line, for messages."""
    return ", ".join(map(str, tensors)) or "none"


def _tensor(value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    type_name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    if not hasattr(np, {"float": "float32", "double": "float64"}.get(type_name, type_name)):
        return Tensor(value.name, np.dtype(object), dims, type_name)
    return Tensor(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), dims)


def _size(file: IO[bytes]) -> int:
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    return end


def _node(file: IO[bytes], end: int, found: Nodes) -> tuple[str, list[str], list[str]]:
    """Operator, inputs and outputs of the NodeProto from here to ``end``; its domain and a constant go to ``found``."""
    strings: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _OPERATOR: [], _DOMAIN: []}
    values: list[Weight] = []
    for number, stop in _fields(file, end, (*strings, _ATTRIBUTE)):
        if number == _ATTRIBUTE:
            values += [_weight(file, last) for _, last in _fields(file, stop, (_VALUE,))]
        else:
            strings[number].append(file.read(stop - file.tell()).decode())
    operator = "".join(strings[_OPERATOR])
    found.domains |= {*strings[_DOMAIN]} - {"", "ai.onnx"}
    if operator == "Constant" and values and strings[_OUTPUT]:
        found.weights[strings[_OUTPUT][0]] = values[0]
    return operator, strings[_INPUT], strings[_OUTPUT]


def _element_types(file: IO[bytes], end: int) -> Iterator[int]:
    """The element type of the ValueInfoProto from here to ``end``, if it is a tensor."""
    for _, kind in _fields(file, end, (2,)):
        for _, tensor in _fields(file, kind, (1,)):
            for _ in _fields(file, tensor, (), integers=(1,)):
                yield _varint(file)


def _weight(file: IO[bytes], end: int) -> Weight:
    """The TensorProto from here to ``end``, without its values."""
    found = Weight()
    for number, stop in _fields(file, end, (_NAME, _FLOATS, _INTEGERS, _RAW, _EXTERNAL), integers=(_DIMS, _TYPE)):
        start = file.tell()
        if number == _NAME:
            found.name = file.read(stop - start).decode()
        elif number == _DIMS:
            while file.tell() < stop:
                found.dims.append(_varint(file))
        elif number == _TYPE:
            found.type_number = _varint(file)
        elif number == _EXTERNAL:
            found.external.update([_entry(file, stop)])
        else:
            found.start, found.size, found.varints = start, stop - start, number == _INTEGERS
    return found


def _entry(file: IO[bytes], end: int) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto from here to ``end``."""
    found = {number: file.read(stop - file.tell()) for number, stop in _fields(file, end, (1, 2))}
    return found.get(1, b"").decode(), found.get(2, b"").decode()


def _fields(
    file: IO[bytes], end: int, wanted: Collection[int], integers: Collection[int] = ()
) -> Iterator[tuple[int, int]]:
    """(number, end) of each wanted field of the protobuf message from here to ``end``.

    With each, the file is positioned at the field's content. ``wanted`` fields are strings or messages; ``integers``
    may be packed, several in one field.
    """
    while (at := file.tell()) < end:
        number, kind = divmod(_varint(file), 8)
        if kind == 0 and number in integers:
            start = file.tell()
            _varint(file)
            stop = file.tell()
            file.seek(start)
            yield number, stop
            file.seek(stop)
            continue
        if kind == 0:
            _varint(file)
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind} at {at}")
        length = _varint(file) if kind == 2 else 8 if kind == 1 else 4
        stop = file.tell() + length
        if stop > end:
            whole = file.seek(0, io.SEEK_END)
            if end < whole:
                raise ValueError(f"a field of {length} bytes at {at}")
            raise _Truncated(f"it ends after {whole:,} of at least {stop:,} bytes")
        if kind == 2 and (number in wanted or number in integers):
            yield number, stop
        file.seek(stop)


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
