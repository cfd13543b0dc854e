"""The layers of an encoder, or the blocks of a convolutional network, found by the scopes in the nodes' names: their
outputs, and a graph without some.
"""

import re
from collections.abc import Iterable, Sequence

from onnx import ModelProto, NodeProto

from harness.compress.network import LINEAR, Network
from harness.errors import ConfigError

_SCOPE = re.compile(r"(?:^|[/.])(?:layers?[._/](?:layer[._])?|_?blocks?[._])(\d+)(?=[/.])")
"""A layer's number in ``bert.encoder.layer.3/x``, ``/encoder/layer/layer.3/x``, ``/layers.3/x``, ``layer_3/x`` or, of a
convolutional network, ``/_blocks.3/x``.
"""
_SHAPES = ("Shape", "Size")


def hidden_names(network: Network) -> dict[int, str]:
    """The tensor that each layer passes to the next, by the layer's number in the nodes' names, ascending.

    It is the one tensor that is computed from the layer's own linear layers and read outside the layer: in BERT the
    output of its last normalisation, in EfficientNet that of a block. The names are those of torch's exporter and of
    this harness. Empty if the graph has no such names.

    Raises:
        ConfigError: a layer passes on several tensors, or none.
    """
    numbers = _numbers(network)
    made = {name: number for node, number in zip(network.nodes, numbers, strict=True) for name in node.output}
    passed: dict[int, dict[str, None]] = {number: {} for number in sorted({n for n in numbers if n is not None})}
    own = _computed(network, numbers)
    readers = [(name, number) for node, number in zip(network.nodes, numbers, strict=True) for name in node.input]
    readers += [(value.name, None) for value in network.model.graph.output]
    for name, reader in readers:
        maker = made.get(name)
        if maker is not None and maker != reader and name in own:
            passed[maker][name] = None
    for number, names in passed.items():
        if len(names) != 1:
            raise ConfigError(
                f"encoder layer {number} passes on {len(names)} tensors instead of one: {', '.join(names) or 'none'}; "
                "its hidden state cannot be found, so distil without hidden states, and keep all layers."
            )
    return {number: next(iter(names)) for number, names in passed.items()}


def drop_layers(network: Network, keep: Sequence[int]) -> ModelProto:
    """A copy of the graph with only the encoder layers ``keep``, ascending numbers as in the nodes' names.

    The layer after a dropped one reads what the dropped one read. The remaining layers keep their names, so that their
    hidden states are compared with those of the same layers of the complete graph.

    Raises:
        ConfigError: the graph's nodes do not show its layers, or there is no such layer.
    """
    hidden = hidden_names(network)
    if len(hidden) < 2 or any(node.op_type == "Conv" for node in network.nodes):  # blocks differ in their channels
        raise ConfigError(
            "layers cannot be dropped: the names of the graph's nodes show no encoder layers, as in "
            "bert.encoder.layer.0/...; export it again with names, or omit 'layers' from the recipe."
        )
    if not keep or list(keep) != sorted(set(keep)) or not set(keep) <= set(hidden):
        raise ConfigError(
            f"layers = {list(keep)}: give numbers of encoder layers, ascending; the graph has {min(hidden)} to "
            f"{max(hidden)}."
        )
    numbers = _numbers(network)
    before = _first_input(network, numbers, hidden)
    renamed: dict[str, str] = {}
    for number, name in hidden.items():
        if number in keep:
            before = name
        else:
            renamed[name] = before
    model = ModelProto()
    model.CopyFrom(network.model)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    _remove_unused(model)
    left = {number for number in map(_number, model.graph.node) if number is not None}
    linear = {_number(node) for node in model.graph.node if node.op_type in LINEAR}
    if (left & linear) - set(keep) or any(value.name in renamed for value in model.graph.output):
        raise ConfigError("layers cannot be dropped: later ones read more of them than their hidden states.")
    return model


def _number(node: NodeProto) -> int | None:
    found = _SCOPE.search(node.name or node.output[0])
    return int(found.group(1)) if found else None


def _numbers(network: Network) -> list[int | None]:
    """The encoder layer of each node; None outside."""
    return [_number(node) for node in network.nodes]


def _computed(network: Network, numbers: Sequence[int | None]) -> set[str]:
    """Tensors computed from a linear layer of the same encoder layer; not masks or sizes, which layers may share."""
    linear = {layer.output for layer in network.layers}
    found: dict[str, int] = {}
    for node, number in zip(network.nodes, numbers, strict=True):
        if number is None or node.op_type in _SHAPES:
            continue
        if node.output[0] in linear or any(found.get(name) == number for name in node.input):
            found.update(dict.fromkeys(node.output, number))
    return set(found)


def _first_input(network: Network, numbers: Sequence[int | None], hidden: dict[int, str]) -> str:
    """The tensor that the first encoder layer reads in place of a previous layer's hidden state."""
    first, second = list(hidden)[:2]

    def read(wanted: int) -> set[str]:
        nodes = [node for node, number in zip(network.nodes, numbers, strict=True) if number == wanted]
        made = {name for node in nodes for name in node.output}
        names = {name for node in nodes if node.op_type not in _SHAPES for name in node.input}
        return {name for name in names - made if name and not network.is_constant(name)}

    # The second layer reads the same masks and sizes, but not the hidden state before the first one.
    found = read(first) - read(second)
    if len(found) != 1:
        raise ConfigError("layers cannot be dropped: it is not clear which tensor the first encoder layer reads.")
    return found.pop()


def _remove_unused(model: ModelProto) -> None:
    """Remove nodes and constants that no output depends on."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    _replace(graph.node, reversed(kept))
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    _replace(graph.value_info, [])


def _replace(field: object, values: Iterable[object]) -> None:
    """Set a repeated field of a protobuf message."""
    entries = list(values)
    copies = [type(entry)() for entry in entries]
    for copy, entry in zip(copies, entries, strict=True):
        copy.CopyFrom(entry)  # type: ignore[attr-defined]  # messages of protobuf
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]
