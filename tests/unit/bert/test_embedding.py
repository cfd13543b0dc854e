from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bert.embedding import embedding_rows
from bert.sut import BertSUT
from bert.task import Bert, BertSettings
from harness.catalog.manifests import folder
from harness.errors import ConfigError
from harness.graph import Tensor

ROWS = 37


def saved(path: Path, nodes: list, weights: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids:0", TensorProto.INT64, ["N", "L"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph), str(path))
    return path


def node(operator: str, inputs: str, output: str, **more: object):
    return helper.make_node(operator, inputs.split(), [output], **more)


TABLE = {"table": np.zeros((ROWS, 4), np.float32), "places": np.zeros((512, 4), np.float32)}
BYTES = {"table": np.zeros((ROWS, 4), np.uint8), "scale": np.float32(1), "zero": np.uint8(0)}
PLACES = node("Gather", "places positions", "there")
CONSTANT = node("Constant", "", "table", value=numpy_helper.from_array(TABLE["table"]))
CASES = {
    "plain": ([PLACES, node("Gather", "table input_ids:0", "out")], TABLE),
    "cast ids": ([node("Cast", "input_ids:0", "i", to=6), node("Gather", "table i", "out")], TABLE),
    "flat ids": ([node("Reshape", "input_ids:0 size", "i"), node("Gather", "table i", "out")], TABLE),
    "quantised before": (
        [node("DequantizeLinear", "table scale zero", "t"), node("Gather", "t input_ids:0", "out")],
        BYTES,
    ),
    "quantised after": (
        [node("Gather", "table input_ids:0", "g"), node("DequantizeLinear", "g scale zero", "out")],
        BYTES,
    ),
    "fused": ([node("EmbedLayerNormalization", "input_ids:0 segments table places", "out")], TABLE),
    "constant": ([CONSTANT, node("Gather", "table input_ids:0", "out")], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rows_of_the_word_embedding_are_found(tmp_path, case):
    model = saved(tmp_path / "m.onnx", *CASES[case])
    assert embedding_rows(model, "input_ids:0") == ROWS
    assert embedding_rows(model, "other") is None


def test_a_weight_in_another_file_has_its_size_all_the_same(tmp_path):
    model = onnx.load(saved(tmp_path / "m.onnx", *CASES["plain"]))
    onnx.save(model, str(tmp_path / "n.onnx"), save_as_external_data=True, size_threshold=0)
    assert embedding_rows(tmp_path / "n.onnx", "input_ids:0") == ROWS


@pytest.mark.parametrize("content", [b"", b"\xff" * 30, b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_not_a_model_has_no_embedding(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    assert embedding_rows(tmp_path / "m.onnx", "input_ids:0") is None


def test_dimensions_may_be_packed(tmp_path):
    model = saved(tmp_path / "m.onnx", *CASES["plain"])
    single, packed = bytes([0x08, ROWS, 0x08, 4]), bytes([0x0A, 2, ROWS, 4])
    assert single in model.read_bytes()
    model.write_bytes(model.read_bytes().replace(single, packed))
    assert embedding_rows(model, "input_ids:0") == ROWS


def test_a_model_that_is_truncated_while_it_is_read_has_no_embedding(tmp_path, monkeypatch):
    path = saved(tmp_path / "m.onnx", CASES["plain"][0], {"table": np.zeros((ROWS, 10_000), np.float32)})

    class Shrinking(io.FileIO):
        def readinto(self, buffer: memoryview) -> int:
            count = super().readinto(buffer)
            os.truncate(path, count)
            return count

    monkeypatch.setattr(Path, "open", lambda self, _: io.BufferedReader(Shrinking(self)))
    assert embedding_rows(path, "input_ids:0") is None


def test_the_shipped_model_has_the_embedding_of_the_shipped_vocabulary():
    assert embedding_rows(folder("bert") / "data" / "minilm-l6-squad-int8.onnx", "input_ids") == 30522


def sizes(tmp_path: Path, tokens: int, rows: int) -> tuple[str, ...]:
    """The doubts about a vocabulary of that many tokens and a model of that many rows."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(tokens - 5))]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(words) + "\n")
    model = saved(
        tmp_path / "m.onnx", [node("Gather", "table input_ids:0", "out")], {"table": np.zeros((rows, 1), np.float32)}
    )
    inputs = tuple(
        Tensor(name, np.dtype(np.int64), (None, None)) for name in ("input_ids:0", "input_mask", "segment_ids")
    )
    sut = BertSUT(SimpleNamespace(model=model, inputs=inputs, outputs=(), reshapes=True), None)
    return Bert(BertSettings(vocab=vocab), tmp_path).doubts(sut)


@pytest.mark.parametrize(("tokens", "rows"), [(700, 700), (700, 704), (650, 704), (28996, 29056)])
def test_a_vocabulary_of_the_embeddings_size_raises_no_doubt(tmp_path, tokens, rows):
    assert sizes(tmp_path, tokens, rows) == ()


@pytest.mark.parametrize(("tokens", "rows"), [(699, 700), (600, 704), (20000, 30522), (28996, 30522)])
def test_a_vocabulary_that_is_cut_short_is_named_with_both_sizes(tmp_path, tokens, rows):
    (doubt,) = sizes(tmp_path, tokens, rows)
    assert f"{tokens:,} tokens" in doubt
    assert f"{rows:,} rows" in doubt


def test_a_vocabulary_that_is_longer_than_the_embedding_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"701 tokens, and the model's embedding 700 rows: .* --set vocab=PATH"):
        sizes(tmp_path, 701, 700)
