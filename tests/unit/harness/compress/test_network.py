from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import (
    constants,
    convnet,
    distance,
    embedder,
    folded,
    graph,
    images,
    mlp,
    mlp_feeds,
    node,
    normal,
    run,
    texts,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from harness.compress.folding import read_network
from harness.compress.network import Network, Walk, groups
from harness.errors import ConfigError


def layer_of(model, name):
    return next(layer for layer in Network(model).layers if layer.output == name)


def test_reading_folds_constants_and_batch_normalisations(tmp_path):
    """Weights behind a Transpose or an Identity, as exporters write them, would be no layers otherwise."""
    model = graph(
        [
            node("Transpose", "w", "wt", perm=[1, 0]),
            node("Identity", "k", "k2"),
            node("Conv", "x k2", "c"),
            node("BatchNormalization", "c gamma beta mean var", "n"),
            node("GlobalAveragePool", "n", "g"),
            node("Flatten", "g", "f"),
            node("MatMul", "f wt", "m"),
            node("Add", "m b", "y"),
        ],
        {"x": ("N", 3, 8, 8)},
        ["y"],
        {
            "w": normal(1, 5, 4),
            "k": normal(2, 4, 3, 3, 3),
            "b": normal(3, 5),
            **{name: np.abs(normal(i + 4, 4)) for i, name in enumerate(("gamma", "beta", "mean", "var"))},
        },
    )
    read = folded(model, tmp_path)
    assert [n.op_type for n in read.graph.node] == ["Conv", "GlobalAveragePool", "Flatten", "MatMul", "Add"]
    assert [layer.node.op_type for layer in Network(read).layers] == ["Conv", "MatMul"]
    feed = {"x": normal(9, 2, 3, 8, 8, scale=1.0)}
    assert distance(run(read, feed)[0], run(model, feed)[0]) < 1e-5


def test_reading_keeps_matmul_and_its_bias_apart(tmp_path):
    """In rank 2 ONNX Runtime would make them one Gemm, which BERT's MatMulInteger cannot be written from."""
    nodes = [node("MatMul", "x w", "m"), node("Add", "m b", "y")]
    model = graph(nodes, {"x": ("N", 4)}, ["y"], {"w": normal(1, 4, 5), "b": normal(2, 5)})
    assert [n.op_type for n in folded(model, tmp_path).graph.node] == ["MatMul", "Add"]


def test_reading_leaves_only_the_default_operators(tmp_path):
    """DeepSparse refuses a model that imports others, and one of a newer file format than it knows."""
    model = convnet()
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    model.ir_version = 9
    read = folded(model, tmp_path)
    assert [(opset.domain, opset.version) for opset in read.opset_import] == [("", 13)]
    assert read.ir_version == 8


def test_weights_that_are_inputs_with_a_default_are_folded_and_no_inputs_any_more(tmp_path):
    """Old exporters list weights among the inputs; they would be asked for once their integers replace them."""
    model = convnet()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model.graph.node.append(node("BatchNormalization", "y gamma beta mean var", "z"))
    for name in ("gamma", "beta", "mean", "var"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(10, np.float32), name))
        model.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [10]))
    read = folded(model, tmp_path)
    assert [value.name for value in read.graph.input] == ["x"]
    assert len(Network(read).layers) == 6


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08" * 40])
def test_junk_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "junk.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"ONNX Runtime cannot load .*junk\.onnx") as error:
        read_network(path)
    assert "\n" not in str(error.value).strip()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.onnx"):
        read_network(tmp_path / "none.onnx")


def test_an_optimised_graph_is_refused(tmp_path):
    """Operators of other domains: neither the walk's opsets nor DeepSparse know them."""
    gelu = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    model = graph([gelu], {"x": ("N", 4)}, ["y"], {})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ConfigError, match=r"uses operators of com\.microsoft: give the FP32 model"):
        folded(model, tmp_path)


CONVS = [
    {},
    {"strides": [2, 1]},
    {"pads": [1, 0, 2, 1]},
    {"dilations": [2, 3]},
    {"strides": [2, 3], "pads": [2, 1, 0, 3], "dilations": [1, 2]},
    {"auto_pad": "VALID", "strides": [2, 2]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "SAME_UPPER"},
]


@pytest.mark.parametrize("attributes", CONVS, ids=str)
@pytest.mark.parametrize("kernel", [(3, 2), (1, 1), (2, 4)])
def test_a_convolution_is_its_rows_times_its_matrix(attributes, kernel):
    """Wrong patches (order, pads, strides, dilations) fit the weights to what the layer never sees."""
    model = graph(
        [node("Conv", "x k b", "y", **attributes)],
        {"x": ("N", 3, 12, 11)},
        ["y"],
        {"k": normal(1, 5, 3, *kernel), "b": normal(2, 5)},
    )
    network = Network(model)
    (layer,) = network.layers
    x = normal(3, 2, 3, 12, 11, scale=1.0)
    found = layer.rows(x, network.kernel(layer)) @ network.matrix(layer).T + network.constant("b")
    expected = np.moveaxis(run(model, {"x": x})[0], 1, -1).reshape(-1, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for most in (1, 7, len(found), 1000):
        some = layer.rows(x, network.kernel(layer), most)
        assert min(most, len(found)) <= len(some) < 2 * most
        np.testing.assert_array_equal(some, layer.rows(x, network.kernel(layer))[:: max(1, len(found) // most)])


@pytest.mark.parametrize("attributes", [{}, {"strides": [2], "pads": [2, 1], "dilations": [2]}], ids=str)
def test_a_convolution_of_one_dimension_is_its_rows_times_its_matrix(attributes):
    model = graph([node("Conv", "x k", "y", **attributes)], {"x": ("N", 3, 15)}, ["y"], {"k": normal(1, 5, 3, 4)})
    network = Network(model)
    (layer,) = network.layers
    x = normal(3, 2, 3, 15, scale=1.0)
    found = layer.rows(x, network.kernel(layer)) @ network.matrix(layer).T
    np.testing.assert_allclose(found, np.moveaxis(run(model, {"x": x})[0], 1, -1).reshape(-1, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "attributes", "x", "w"),
    [
        ("MatMul", {}, (2, 5, 4), (4, 3)),
        ("MatMul", {}, (7, 4), (4, 3)),
        ("Gemm", {}, (7, 4), (4, 3)),
        ("Gemm", {"transB": 1}, (7, 4), (3, 4)),
    ],
)
def test_a_product_is_its_rows_times_its_matrix(operator, attributes, x, w):
    model = graph([node(operator, "x w", "y", **attributes)], {"x": x}, ["y"], {"w": normal(1, *w)})
    network = Network(model)
    (layer,) = network.layers
    value = normal(2, *x, scale=1.0)
    found = layer.rows(value, network.kernel(layer)) @ network.matrix(layer).T
    np.testing.assert_allclose(found, run(model, {"x": value})[0].reshape(-1, 3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "attributes", "shape"),
    [
        ("MatMul", {}, (4, 3)),
        ("Gemm", {}, (4, 3)),
        ("Gemm", {"transB": 1}, (3, 4)),
        ("Conv", {}, (5, 4, 3, 2)),
        ("Conv", {"group": 4}, (8, 1, 3, 2)),
        ("Conv", {}, (5, 4, 3)),
    ],
)
def test_replacing_a_weight_with_its_own_matrix_changes_nothing(operator, attributes, shape):
    x = ("N", 4, *(9 for _ in shape[2:]))
    model = graph([node(operator, "x w", "y", **attributes)], {"x": x}, ["y"], {"w": normal(1, *shape)})
    network = Network(model)
    (layer,) = network.layers
    matrix = network.matrix(layer)
    assert len(matrix) == (shape[0] if operator == "Conv" or attributes else shape[1])
    before = network.constant("w").copy()
    network.replace(layer, matrix * 2)
    np.testing.assert_array_equal(network.constant("w"), before * 2)
    assert network.constant("w").shape == shape


def test_only_plain_products_are_layers():
    """A scaled or transposed Gemm, a weight of rank 3, a weight or bias that is computed, one of another type."""
    model = graph(
        [
            node("Gemm", "x w", "a", alpha=0.5),
            node("Gemm", "x w1", "b", transA=1),
            node("Gemm", "x w2 v", "c", beta=2.0),
            node("MatMul", "x cube", "d"),
            node("MatMul", "x x2", "e"),
            node("Conv", "image k computed", "f"),
            node("MatMul", "double w64", "g"),
            node("Gemm", "x w3 v", "h"),
        ],
        {"x": (4, 4), "x2": (4, 4), "image": ("N", 4, 5, 5), "computed": (4,), "double": (4, 4)},
        list("abcdefgh"),
        {
            **{name: normal(1, 4, 4) for name in ("w", "w1", "w2", "w3")},
            "v": normal(2, 4),
            "cube": normal(3, 2, 4, 4),
            "k": normal(4, 4, 4, 3, 3),
            "w64": normal(5, 4, 4).astype(np.float64),
        },
    )
    assert [layer.output for layer in Network(model).layers] == ["h"]


@pytest.mark.parametrize("other", ["MatMul", "Gather"])
def test_a_weight_that_another_node_also_reads_belongs_to_no_layer(other):
    """Tied weights: pruning one would prune the other, whose outputs were not considered."""
    second = node("MatMul", "x w", "z") if other == "MatMul" else node("Gather", "w i", "z")
    model = graph(
        [node("MatMul", "x w", "y"), second],
        {"x": ("N", 4), "i": ("M",)},
        ["y", "z"],
        {"w": normal(1, 4, 4)},
        integers=["i"],
    )
    assert Network(model).layers == []


def test_layers_with_the_same_source_make_a_group(tmp_path):
    network = Network(folded(embedder(), tmp_path))
    found = [
        (position, [layer.output for layer in members]) for position, members in groups(network.layers, network.nodes)
    ]
    assert [members for _, members in found] == [["mq", "mk", "mv"], ["mo"], ["mf"], ["mh"]]
    positions = [position for position, _ in found]
    assert positions == sorted(positions)
    assert [network.nodes[position].output[0] for position in positions] == ["mq", "mo", "mf", "mh"]


def test_inner_layers_are_neither_first_nor_last_nor_grouped(tmp_path):
    """Those lose most by pruning."""
    assert [layer.output for layer in Network(folded(convnet(), tmp_path)).inner()] == ["v1", "v3", "v4"]
    assert [layer.output for layer in Network(folded(mlp(), tmp_path)).inner()] == ["m1", "m2"]
    assert [layer.output for layer in Network(folded(embedder(), tmp_path)).inner()] == ["mq", "mk", "mv", "mo", "mf"]


def test_each_of_several_outputs_has_its_last_layer():
    model = graph(
        [
            node("MatMul", "x w0", "a"),
            node("Relu", "a", "ra"),
            node("MatMul", "ra w1", "b"),
            node("MatMul", "ra w2", "c"),
            node("Softmax", "c", "z"),
            node("MatMul", "c w3", "d"),
        ],
        {"x": ("N", 4)},
        ["b", "z", "d"],
        {f"w{i}": normal(i, 4, 4) for i in range(4)},
    )
    assert Network(model).inner() == []


@pytest.mark.timeout(20)
def test_paths_that_part_and_meet_again_are_followed_once():
    """Each of these Adds doubles the paths from the last layer to the output: forty are more than can be followed."""
    chain = [node("Add", f"s{i} s{i}", f"s{i + 1}") for i in range(40)]
    model = graph(
        [node("MatMul", "x w0", "m"), node("MatMul", "m w1", "s0"), *chain, node("Relu", "s40", "y")],
        {"x": ("N", 4)},
        ["y"],
        {"w0": normal(1, 4, 4), "w1": normal(2, 4, 4)},
    )
    assert Network(model).inner() == []


def biased():
    """Each kind of layer with a bias of its own: m (left), n (right), g, c; s and t share one, o has none."""
    names = "mnstogc"
    return graph(
        [
            node("MatMul", "x w_m", "m"),
            node("Add", "b_m m", "am"),
            node("MatMul", "am w_n", "n"),
            node("Add", "n b_n", "an"),
            node("Add", "an am", "sum"),
            node("MatMul", "sum w_s", "s"),
            node("Add", "s shared", "as"),
            node("MatMul", "as w_t", "t"),
            node("Add", "t shared", "at"),
            node("MatMul", "at w_o", "o"),
            node("Add", "o as", "ao"),
            node("Gemm", "ao w_g b_g", "g"),
            node("Add", "as g", "ag"),
            node("Reshape", "ag shape", "image"),
            node("Conv", "image w_c b_c", "c"),
            node("Add", "image c", "y"),
        ],
        {"x": ("N", 6)},
        ["y"],
        {
            **{f"w_{n}": normal(i, *((6, 6, 1, 1) if n == "c" else (6, 6))) for i, n in enumerate(names)},
            **{f"b_{n}": normal(i + 10, 6) for i, n in enumerate(names)},
            "shared": normal(30, 6),
            "shape": np.array([-1, 6, 1, 1]),
        },
    )


def test_the_bias_and_the_residual_of_each_kind_of_layer():
    network = Network(biased())
    assert {layer.output: (network.bias(layer), network.added(layer)) for layer in network.layers} == {
        "m": ("b_m", None),
        "n": ("b_n", "am"),
        "s": (None, None),  # another layer has the same bias
        "t": (None, None),
        "o": (None, "as"),
        "g": ("b_g", "as"),
        "c": ("b_c", "image"),
    }


@pytest.mark.parametrize("name", ["m", "n", "g", "c"])
def test_a_shift_moves_the_outputs_by_that_much_and_adds_up(name):
    model = biased()
    network = Network(model)
    layer = layer_of(model, name)
    after = {"m": "am", "n": "an"}.get(name, name)
    feed = {"x": normal(50, 3, 6, scale=1.0)}
    (before,) = run(model, feed, after)
    change = normal(51, 6)
    assert network.shifted(layer) == 0.0
    network.shift(layer, change)
    network.shift(layer, change)
    (moved,) = run(network.model, feed, after)
    np.testing.assert_allclose(
        moved - before, np.broadcast_to(2 * change.reshape(6, *moved.shape[2:]), moved.shape), atol=1e-5
    )
    np.testing.assert_allclose(network.shifted(layer), 2 * change, rtol=1e-6)


@pytest.mark.parametrize("name", ["s", "t", "o"])
def test_a_layer_without_a_bias_of_its_own_is_not_shifted(name):
    model = biased()
    network = Network(model)
    before = {key: value.copy() for key, value in constants(model).items()}
    network.shift(layer_of(model, name), np.ones(6, np.float32))
    assert network.shifted(layer_of(model, name)) == 0.0
    for key, value in constants(network.model).items():
        np.testing.assert_array_equal(value, before[key])


def test_a_product_that_is_an_output_itself_has_no_bias():
    """A shift of what is added to it later would leave the output as it is."""
    model = graph(
        [node("MatMul", "x w", "m"), node("Add", "m b", "y")],
        {"x": ("N", 4)},
        ["m", "y"],
        {"w": normal(1, 4, 4), "b": normal(2, 4)},
    )
    network = Network(model)
    assert network.bias(network.layers[0]) is None


NETWORKS = {"mlp": (mlp, mlp_feeds), "convnet": (convnet, images), "embedder": (embedder, texts)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Each graph with its batches and all its tensors, computed at once."""
    found = {}
    for name, (make, feeds) in NETWORKS.items():
        model, batches = folded(make(), tmp_path_factory.mktemp(name)), feeds()
        names = [n.output[0] for n in model.graph.node]
        found[name] = model, batches, [dict(zip(names, run(model, feed, *names), strict=True)) for feed in batches]
    return found


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_walk_finds_what_the_whole_graph_gives_and_frees_what_no_node_reads(whole, name, data):
    model, feeds, expected = whole[name]
    network = Network(model)
    count = len(network.nodes)
    stops = [*data.draw(st.lists(st.integers(0, count), max_size=4)), count]  # one behind the last does nothing
    walk, position = Walk(network, feeds), 0
    for stop in stops:
        walk.advance(stop)
        position = max(position, stop)
        later = {i for n in network.nodes[position:] for i in n.input} | {"y"}
        for values, tensors, feed in zip(walk.values, expected, feeds, strict=True):
            known = {n.output[0] for n in network.nodes[:position]} | set(feed)
            assert set(values) == known & later if position else set(values) == set(feed)
            for key in set(values) - set(feed):
                np.testing.assert_allclose(values[key], tensors[key], rtol=1e-3, atol=1e-4)
    assert set(walk.values[0]) == {"y"}


def test_a_walk_uses_the_weights_of_the_moment(tmp_path):
    model = folded(mlp(), tmp_path)
    network, feeds = Network(model), mlp_feeds(1)
    walk = Walk(network, feeds)
    second = next(layer for layer in network.layers if layer.output == "m1")
    walk.advance(network.nodes.index(second.node))
    (before,) = run(model, feeds[0], "m1")
    network.replace(second, network.matrix(second) * 2)
    walk.advance(network.nodes.index(second.node) + 1)
    np.testing.assert_allclose(walk.values[0]["m1"], 2 * before, rtol=1e-4, atol=1e-5)


def test_a_walk_gives_the_outputs_with_other_constants_and_is_not_changed(tmp_path):
    model, feeds = folded(mlp(), tmp_path), mlp_feeds(3)
    network = Network(model)
    second = next(layer for layer in network.layers if layer.output == "m1")
    walk = Walk(network, feeds)
    walk.advance(network.nodes.index(second.node))
    before = model.SerializeToString(), [set(values) for values in walk.values]
    changed = network.changed(second, network.matrix(second) * 2, np.ones(64, np.float32))
    assert set(changed) == {"w1", "b1"}
    found = walk.outputs([0, 2], changed)
    assert (model.SerializeToString(), [set(values) for values in walk.values]) == before
    network.replace(second, network.matrix(second) * 2)
    network.shift(second, np.ones(64, np.float32))
    for values, feed in zip(found, (feeds[0], feeds[2]), strict=True):
        np.testing.assert_allclose(values[0], run(model, feed)[0], rtol=1e-4, atol=1e-5)


def test_only_floating_point_outputs_give_a_distance():
    """An arg-max rarely changes and is not a quantity. Outputs that exist already are also reported."""
    model = graph(
        [node("MatMul", "x w", "m"), node("ArgMax", "m", "a", axis=1), node("Relu", "m", "r")],
        {"x": ("N", 4)},
        ["m", "r"],
        {"w": normal(1, 4, 4)},
    )
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.INT64, ["N", 1]))
    feed = {"x": normal(2, 3, 4, scale=1.0)}
    walk = Walk(Network(model), [feed])
    for stop in (0, 1, 3):
        walk.advance(stop)
        (found,) = walk.outputs([0], {})
        assert len(found) == 2
        for value, expected in zip(found, run(model, feed, "m", "r"), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_a_walk_passes_outputs_and_inputs_that_are_left_out():
    """Optional inputs and outputs have an empty name."""
    model = graph(
        [
            node("Clip", "x zero", "a"),
            node("Dropout", "a", "d"),
            node("Clip", "d - six", "c"),
            node("MatMul", "c w", "y"),
        ],
        {"x": ("N", 4)},
        ["y"],
        {"zero": np.float32(0), "six": np.float32(0.5), "w": normal(1, 4, 4)},
    )
    model.graph.node[1].output.append("")
    feed = {"x": normal(2, 3, 4, scale=1.0)}
    walk = Walk(Network(model), [feed])
    for stop in range(1, 5):
        walk.advance(stop)
    np.testing.assert_allclose(walk.values[0]["y"], run(model, feed)[0], rtol=1e-5, atol=1e-6)


def test_a_layers_name_is_without_what_exporters_add():
    for name, expected in (("/bert/dense/MatMul", "bert/dense"), ("fc", "fc"), ("", "y"), ("/MatMul", "MatMul")):
        model = graph([node("MatMul", "x w", "y", name)], {"x": ("N", 4)}, ["y"], {"w": normal(1, 4, 4)})
        assert Network(model).layers[0].name == expected


@pytest.mark.parametrize("way", ["all", "one layer", "double"])
def test_weights_of_another_type_are_refused_by_name(tmp_path, way):
    """They would stay unchanged without a warning."""
    dtype, kind = (np.float64, TensorProto.DOUBLE) if way == "double" else (np.float16, TensorProto.FLOAT16)
    nodes = [node("MatMul", "x w", "y")]
    if way == "one layer":
        nodes = [node("Cast", "x", "c", to=kind), node("MatMul", "c w", "m"), node("Cast", "m", "y", to=1)]
    model = graph(nodes, {"x": ("N", 8)}, ["y"], {"w": normal(1, 8, 8).astype(dtype)})
    if way != "one layer":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = kind
    with pytest.raises(ConfigError, match=rf"has weights in {'double' if way == 'double' else 'float16'} \(w\): give"):
        folded(model, tmp_path)


def test_weights_that_are_only_stored_in_half_are_folded(tmp_path):
    model = graph(
        [node("Cast", "w", "full", to=1), node("MatMul", "x full", "y")],
        {"x": ("N", 8)},
        ["y"],
        {"w": normal(1, 8, 8).astype(np.float16)},
    )
    assert [layer.output for layer in Network(folded(model, tmp_path)).layers] == ["y"]


def test_a_loop_or_a_branch_is_refused(tmp_path):
    """The walk does not see what their graphs read of the graph around them."""
    branch = [
        helper.make_graph(
            [node("Relu" if i else "Abs", "h", f"o{i}")],
            f"b{i}",
            [],
            [helper.make_tensor_value_info(f"o{i}", onnx.TensorProto.FLOAT, None)],
        )
        for i in range(2)
    ]
    model = graph(
        [
            node("MatMul", "x w", "h"),
            node("ReduceSum", "x", "total", keepdims=0),
            node("Greater", "total zero", "positive"),
            node("If", "positive", "y", then_branch=branch[1], else_branch=branch[0]),
        ],
        {"x": ("N", 4)},
        ["y"],
        {"w": normal(1, 4, 4), "zero": np.float32(0)},
    )
    with pytest.raises(ConfigError, match="If"):
        folded(model, tmp_path)
