from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bert.features import build_features
from bert.qsl import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS, BertQSL
from bert.squad import read_squad
from bert.sut import BertSUT
from harness.catalog.manifests import folder
from harness.errors import ConfigError, RunFailed
from harness.graph import Tensor
from harness.task.base import Benchmark
from harness.task.shape import Shape

VOCAB = folder("bert") / "data" / "vocab.txt"


@pytest.fixture
def features(small_squad):
    return build_features(read_squad(small_squad), VOCAB)


@pytest.fixture
def qsl(features):
    return BertQSL(features)


def graph(inputs, outputs=("start_logits", "end_logits"), dtype=np.int64, dims=(None, None), reshapes=False):
    return SimpleNamespace(
        name="fake",
        inputs=tuple(Tensor(name, np.dtype(dtype), dims) for name in inputs),
        outputs=tuple(Tensor(name, np.dtype(np.float32), dims) for name in outputs),
        reshapes=reshapes,
        fixed_shapes=False,
    )


def test_collate_pads_with_nothing_attended_and_segments_as_the_reference(features, qsl):
    indices = np.array([3, 0])
    qsl.load([0, 3])
    tensors = qsl.collate(indices, Shape(3, 384))
    for row, index in enumerate(indices):
        tokens = features.tokens[features.offsets[index] : features.offsets[index + 1]]
        n, first = len(tokens), features.first_segment[index]
        assert tensors[INPUT_IDS][row].tolist() == tokens.tolist() + [0] * (384 - n)
        assert tensors[ATTENTION_MASK][row].tolist() == [1] * n + [0] * (384 - n)
        assert tensors[TOKEN_TYPE_IDS][row].tolist() == [0] * first + [1] * (n - first) + [0] * (384 - n)
    assert tensors[ATTENTION_MASK][2].sum() == 1
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.int64)}


def test_only_loaded_samples_are_in_memory_and_can_be_used(qsl):
    qsl.load([1, 2, 5])
    assert qsl.loaded == 3
    qsl.unload([2])
    assert qsl.loaded == 2
    qsl.collate(np.array([1, 5]), Shape(2, 384))
    with pytest.raises(RunFailed, match="sample 2 was issued but is not loaded"):
        qsl.collate(np.array([1, 2]), Shape(2, 384))
    qsl.unload([1, 5])
    assert qsl.loaded == 0


def test_samples_are_loaded_in_pieces_as_loadgen_may(qsl):
    qsl.load([4])
    qsl.load([0, 4])
    assert qsl.loaded == 2
    at_once = BertQSL(qsl._features)
    at_once.load(range(at_once.count))
    indices = np.array([4, 0])
    for role, array in at_once.collate(indices, Shape(2, 384)).items():
        assert np.array_equal(array, qsl.collate(indices, Shape(2, 384))[role])


def test_samples_travel_without_padding_and_arrive_as_they_were(qsl):
    qsl.load(range(qsl.count))
    indices = np.array([5, 2, 5, 0])
    packed = qsl.pack(indices)
    lengths = qsl.cost(indices)
    assert {array.dtype for array in packed.values()} == {np.dtype(np.int32)}
    assert sum(array.nbytes for array in packed.values()) == 4 * lengths.sum() + 8 * len(indices)
    carrier = qsl.carrier(4)
    carrier.put(np.array([3, 1]), qsl.pack(np.array([1, 4])))  # longer or shorter, and overwritten
    carrier.grow(6)
    places = np.array([3, 0, 5, 1])
    carrier.put(places, packed)
    assert carrier.cost(places).tolist() == lengths.tolist()
    shape = Shape(5, 384)
    for role, array in qsl.collate(indices, shape).items():
        assert np.array_equal(carrier.collate(places, shape)[role], array)
    with pytest.raises(RunFailed, match="is not loaded"):
        carrier.collate(np.array([4]), Shape(1, 384))


def test_only_loaded_samples_travel(qsl):
    qsl.load([1])
    with pytest.raises(RunFailed, match="sample 2 was issued but is not loaded"):
        qsl.pack(np.array([1, 2]))


def test_a_sut_answers_for_a_carrier_as_for_the_data_set(qsl):
    sut = BertSUT(graph(("input_ids", "attention_mask", "token_type_ids")), qsl)
    qsl.load(range(qsl.count))
    indices, places = np.array([2, 5]), np.array([1, 0])
    outputs = [np.arange(2 * 384, dtype=np.float32).reshape(2, 384)] * 2
    expected = sut.encode(outputs, indices)
    sut.qsl = carrier = qsl.carrier(2)
    carrier.put(places, qsl.pack(indices))
    found = sut.encode(outputs, places)
    assert found.sizes.tolist() == expected.sizes.tolist()
    assert np.array_equal(found.buffer, expected.buffer)


def test_a_limit_never_cuts_a_question_in_two(features):
    long = int(np.flatnonzero(np.diff(features.question) == 0)[0])  # the first of two features of one question
    limited = BertQSL(features, long + 1)
    assert limited.count > long + 1
    assert limited.count == len(features) or features.question[limited.count] != features.question[limited.count - 1]
    with pytest.raises(ConfigError, match="at least 1"):
        BertQSL(features, 0)


@pytest.mark.parametrize(
    "names",
    [
        ("input_ids", "attention_mask", "token_type_ids"),
        ("segment_ids", "input_mask", "input_ids"),
        ("token_type_ids", "input_ids", "attention_mask"),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_inputs_are_matched_by_name_in_any_order(qsl, names, dtype):
    sut = BertSUT(graph(names, dtype=dtype), qsl)
    qsl.load([0])
    tensors = qsl.collate(np.array([0]), Shape(1, 8))
    fed = sut.feed(tensors)
    assert set(fed) == set(names)
    assert all(array.dtype == dtype for array in fed.values())
    mask = next(name for name in names if "mask" in name)
    assert fed[mask].tolist() == tensors[ATTENTION_MASK].tolist()
    assert set(sut.signature(Shape(2, 7)).inputs) == set(names)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (("image",), "no input input_ids.*image int64"),
        (("input_ids", "attention_mask"), "no input token_type_ids.*attention_mask int64"),
        (("input_ids", "attention_mask", "token_type_ids", "position_ids"), "more inputs.*position_ids"),
    ],
)
def test_a_graph_of_another_model_is_refused_with_its_names(qsl, inputs, message):
    with pytest.raises(ConfigError, match=message):
        BertSUT(graph(inputs), qsl)


def test_wrong_dtype_and_outputs_are_refused(qsl):
    names = ("input_ids", "attention_mask", "token_type_ids")
    with pytest.raises(ConfigError, match="has the input input_ids float32"):
        BertSUT(graph(names, dtype=np.float32), qsl)
    with pytest.raises(ConfigError, match="its outputs are logits"):
        BertSUT(graph(names, outputs=("logits",)), qsl)


@pytest.mark.parametrize(
    "outputs",
    [
        [("last_hidden_state", (None, None, 384)), ("pooler_output", (None, 384))],
        [("last_hidden_state", (None, None, 384))],
        [("logits", (None, None, 2))],  # of both ends in one tensor
        [("logits", (None, 2)), ("pooler_output", (None, 384))],
    ],
)
def test_a_model_without_logits_for_each_token_is_refused_with_its_outputs(qsl, outputs):
    engine = graph(("input_ids", "attention_mask", "token_type_ids"))
    engine.outputs = tuple(Tensor(name, np.dtype(np.float32), dims) for name, dims in outputs)
    with pytest.raises(ConfigError, match=f"not a question-answering BERT: its outputs are {outputs[0][0]}.* expected"):
        BertSUT(engine, qsl)


def test_logits_are_found_beside_hidden_states(qsl):
    engine = graph(("input_ids", "attention_mask", "token_type_ids"))
    engine.outputs += (Tensor("hidden", np.dtype(np.float32), (None, None, 384)),)
    assert list(BertSUT(engine, qsl).signature(Shape(1, 8)).outputs) == ["start_logits", "end_logits"]


@pytest.mark.parametrize("outputs", [("end_logits", "start_logits"), ("output_end", "output_start"), ("1721", "1722")])
def test_outputs_are_taken_by_name_or_else_in_order(qsl, outputs):
    sut = BertSUT(graph(("input_ids", "input_mask", "segment_ids"), outputs=outputs), qsl)
    first = next(iter(sut.signature(Shape(1, 1)).outputs))
    assert first == next((name for name in outputs if "start" in name), outputs[0])


def test_dimensions_that_the_graph_fixes_bind_only_an_engine_that_cannot_change_them(qsl):
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert BertSUT(graph(names, dims=(1, 384)), qsl).static == Shape(1, 384)
    assert BertSUT(graph(names, dims=(None, 384)), qsl).static == Shape(0, 384)
    assert BertSUT(graph(names, dims=(1, 384), reshapes=True), qsl).static == Shape(0, 0)


def test_a_response_holds_start_and_end_of_the_samples_own_tokens(qsl):
    sut = BertSUT(graph(("input_ids", "attention_mask", "token_type_ids")), qsl)
    indices = np.array([2, 5])
    lengths = qsl.cost(indices)
    start = np.arange(3 * 384, dtype=np.float32).reshape(3, 384)
    end = -start
    responses = sut.encode([start, end], indices)
    assert responses.sizes.tolist() == (lengths * 8).tolist()
    for row, (offset, size) in enumerate(zip(responses.offsets, responses.sizes, strict=True)):
        logits = np.frombuffer(responses.buffer.tobytes()[offset : offset + size], np.float32).reshape(-1, 2)
        assert np.array_equal(logits[:, 0], start[row, : lengths[row]])
        assert np.array_equal(logits[:, 1], end[row, : lengths[row]])


def test_the_benchmark_keeps_its_contract():
    from bert.task import Bert

    assert issubclass(Bert, Benchmark)
    assert not Bert.__abstractmethods__
    assert Bert.name == "bert"  # LoadGen gives any other name a 10 ms Server bound
