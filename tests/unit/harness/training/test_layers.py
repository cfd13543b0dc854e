"""Encoder layers found by scope, and dropped."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from bert.architecture import BertConfig, build_bert
from bert.mobilebert import MobileBertConfig, build_mobilebert
from harness.compress.folding import read_network
from harness.compress.network import Network
from harness.errors import ConfigError
from harness.models.weights import RandomWeights
from harness.training.layers import drop_layers, hidden_names

SIZES = {"hidden": 16, "heads": 2, "feed_forward": 32, "vocabulary": 50, "positions": 32}


def bert(layers: int) -> Network:
    return Network(build_bert(RandomWeights(1), BertConfig(layers=layers, **SIZES)))


def mobilebert(layers: int) -> Network:
    return Network(
        build_mobilebert(RandomWeights(1), MobileBertConfig(layers=layers, bottleneck=8, embedding=8, **SIZES))
    )


def run(model: ModelProto) -> list[np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 50, (2, 9))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def test_each_layer_ends_in_its_last_normalisation():
    assert hidden_names(bert(2)) == {n: f"bert.encoder.layer.{n}.output.LayerNorm/Add_1_output_0" for n in range(2)}
    names = hidden_names(mobilebert(2))
    assert names == {n: f"mobilebert.encoder.layer.{n}.output.bottleneck.LayerNorm/Add_output_0" for n in range(2)}


@pytest.mark.parametrize("make", [bert, mobilebert])
def test_first_layers_that_are_kept_give_the_smaller_model(make):
    # The same seed draws the same weights for tensors of the same name.
    kept = drop_layers(make(4), [0, 1])
    checker.check_model(kept)
    for own, other in zip(run(kept), run(make(2).model), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [bert, mobilebert])
def test_dropped_layers_leave_nothing_behind(make):
    network = make(4)
    before = network.model.SerializeToString()
    kept = drop_layers(network, [1, 3])
    assert network.model.SerializeToString() == before
    assert list(hidden_names(Network(kept))) == [1, 3]
    assert not [tensor.name for tensor in kept.graph.initializer if ".layer.0." in tensor.name]
    assert not [node.name for node in kept.graph.node if ".layer.2." in node.name]
    assert run(kept)[0].shape == (2, 9)


def test_a_graph_without_names_of_layers_is_rejected():
    network = bert(2)
    for number, node in enumerate(network.model.graph.node):
        node.name = f"node_{number}"
    assert hidden_names(Network(network.model)) == {}
    with pytest.raises(ConfigError, match="show no encoder layers"):
        drop_layers(Network(network.model), [0])


def blocks(count: int) -> Network:
    """Blocks of a depthwise and a pointwise convolution with a residual connection, named as torch exports them."""
    rng, nodes, weights, name = np.random.default_rng(0), [], [], "input"
    for n in range(count):
        scope = f"/_blocks.{n}"
        for part, shape in (("_depthwise_conv", (4, 1, 3, 3)), ("_project_conv", (4, 4, 1, 1))):
            weights.append(
                numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), f"_blocks.{n}.{part}.weight")
            )
        wide, out = f"{scope}/_depthwise_conv/Conv_output_0", f"{scope}/_project_conv/Conv_output_0"
        nodes += [
            helper.make_node(
                "Conv", [name, weights[-2].name], [wide], f"{scope}/_depthwise_conv/Conv", group=4, pads=[1, 1, 1, 1]
            ),
            helper.make_node("Conv", [wide, weights[-1].name], [out], f"{scope}/_project_conv/Conv"),
            helper.make_node("Add", [name, out], [f"{scope}/Add_output_0"], f"{scope}/Add"),
        ]
        name = nodes[-1].output[0]
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["logits"], "/pool"))
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ("N", 4, 8, 8)) for end in ("input", "logits")]
    return Network(helper.make_model(helper.make_graph(nodes, "blocks", ends[:1], ends[1:], weights)))


def test_each_block_of_a_convolutional_network_ends_in_what_the_next_one_reads():
    network = blocks(3)
    assert hidden_names(network) == {n: f"/_blocks.{n}/Add_output_0" for n in range(3)}
    with pytest.raises(ConfigError, match="layers cannot be dropped"):
        drop_layers(network, [0, 2])


@pytest.mark.parametrize("keep", [[], [1, 0], [0, 0], [0, 2]])
def test_layers_that_are_not_there_are_rejected(keep):
    with pytest.raises(ConfigError, match="the graph has 0 to 1"):
        drop_layers(bert(2), keep)


def test_the_exporters_scopes_are_understood(fp32_model):
    network = Network(read_network(fp32_model))
    assert hidden_names(network) == {n: f"/layers.{n}/ln2/Add_1_output_0" for n in range(6)}
    kept = drop_layers(network, [0, 2, 5])
    checker.check_model(kept)
    assert list(hidden_names(Network(kept))) == [0, 2, 5]
