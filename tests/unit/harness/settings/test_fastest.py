"""The engine that runs a model if the user names none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph, node, normal
from onnx import ModelProto, TensorProto, helper

from harness import registry
from harness.catalog import manifests, models
from harness.catalog.arithmetic import read_arithmetic
from harness.catalog.manifests import Model
from harness.errors import ConfigError
from harness.host.machine import multiplies_int8
from harness.models import show
from harness.settings import fastest as module
from harness.settings.fastest import fastest
from harness.settings.request import RunRequest, resolve

ALL = ["deepsparse", "onnxruntime", "openvino"]
WIDTH = 64


def pruned(values: np.ndarray, share: float, zero: int = 0) -> np.ndarray:
    """The values, of which a share is zero."""
    rows = np.random.default_rng(7).random(values.shape)
    return np.where(rows < share, values.dtype.type(zero), values)


def integers(share: float = 0.0, zero: int = 0, kind: type = np.int8) -> np.ndarray:
    values = np.random.default_rng(1).integers(1, 100, (WIDTH, WIDTH)).astype(kind)
    return pruned(values, share, zero)


def integer_product(weight: np.ndarray, zero: int = 0) -> ModelProto:
    """x (1, WIDTH) to y through MatMulInteger."""
    constants = {"w": weight, "z": np.array(zero, weight.dtype), "s": np.float32(0.1), "zx": np.uint8(3)}
    nodes = [
        node("QuantizeLinear", "x s zx", "q"),
        node("MatMulInteger", "q w zx z", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "f s", "y"),
    ]
    return graph(nodes, {"x": (1, WIDTH)}, ["y"], constants)


def linear_product(weight: np.ndarray) -> ModelProto:
    """x (1, WIDTH) to y through QLinearMatMul."""
    constants = {"w": weight, "z": np.int8(0), "s": np.float32(0.1), "zx": np.uint8(3)}
    nodes = [
        node("QuantizeLinear", "x s zx", "q"),
        node("QLinearMatMul", "q s zx w s z s zx", "p"),
        node("DequantizeLinear", "p s zx", "y"),
    ]
    return graph(nodes, {"x": (1, WIDTH)}, ["y"], constants)


def qdq_product(weight: np.ndarray, stored: bool = True) -> ModelProto:
    """x (1, WIDTH) to y through MatMul of dequantised tensors; the weight is stored in 8 bits or as a float."""
    constants = {"w": weight if stored else weight.astype(np.float32), "z": np.int8(0), "s": np.float32(0.1)}
    nodes = [] if stored else [node("QuantizeLinear", "w s z", "wq")]
    nodes += [
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq s z", "xd"),
        node("DequantizeLinear", f"{'w' if stored else 'wq'} s z", "wd"),
        node("Transpose", "wd", "wt", perm=[1, 0]),
        node("MatMul", "xd wt", "y"),
    ]
    return graph(nodes, {"x": (1, WIDTH)}, ["y"], constants)


def float_product(weight: np.ndarray) -> ModelProto:
    """x (1, WIDTH) to y through MatMul."""
    nodes = [node("Cast", "w", "wf", to=TensorProto.FLOAT)] if weight.dtype == np.float16 else []
    return graph([*nodes, node("MatMul", "x wf" if nodes else "x w", "y")], {"x": (1, WIDTH)}, ["y"], {"w": weight})


FLOATS = normal(2, WIDTH, WIDTH)


@pytest.fixture
def three(monkeypatch):
    """All three engines are known and installed; a test sets others with `here`."""
    monkeypatch.setitem(registry.ENGINES, "openvino", "harness.engines.onnxruntime:OnnxRuntimeEngine")
    here = {"names": ALL}
    monkeypatch.setattr(module, "installed", lambda: here["names"])
    return here


def model(tmp_path: Path, proto: ModelProto, **values: object) -> Model:
    path = tmp_path / "mine.onnx"
    onnx.save(proto, str(path))
    given = {"name": "mine", "path": path, "benchmark": "bert", "official_name": "bert-99", "sha256": None}
    return Model.model_validate({**given, **values})


CASES = {
    "sparse MatMulInteger": (integer_product(integers(0.85)), "deepsparse", "85 % of the weights are zero, in 8 bits"),
    "zero point": (integer_product(integers(0.9, 128, np.uint8), 128), "deepsparse", "90 % of the weights are zero"),
    "sparse QLinearMatMul": (linear_product(integers(0.5)), "deepsparse", "of the weights are zero, in 8 bits"),
    "dense MatMulInteger": (integer_product(integers()), "onnxruntime", "dense weights in 8 bits (integer operators)"),
    "zeros that are not": (integer_product(integers(0.9, 0, np.uint8), 128), "onnxruntime", "dense weights in 8 bits"),
    "dense QLinearMatMul": (linear_product(integers()), "onnxruntime", "dense weights in 8 bits"),
    "QDQ": (qdq_product(integers()), "openvino", "weights in 8 bits (QDQ)"),
    "QDQ of floats": (qdq_product(integers(), stored=False), "openvino", "weights in 8 bits (QDQ)"),
    "FP32": (float_product(FLOATS), "openvino", "dense weights in floating point"),
    "FP32, half zero": (float_product(pruned(FLOATS, 0.5)), "openvino", "dense weights in floating point"),
    "sparse FP32": (float_product(pruned(FLOATS, 0.95)), "deepsparse", "of the weights are zero"),
    "sparse FP16": (float_product(pruned(FLOATS, 0.95).astype(np.float16)), "openvino", "of the weights are zero"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_file_holds_decides(three, tmp_path, case):
    proto, engine, why = CASES[case]
    found = fastest(model(tmp_path, proto))
    assert (found.engine, why in found.why) == (engine, True), found
    assert "not installed" not in found.why
    assert str(found) == f"engine {engine}: {found.why}"


@pytest.mark.parametrize("case", CASES)
def test_the_sample_gives_the_sparsity_that_the_whole_file_has(three, tmp_path, case):
    proto = CASES[case][0]
    whole = show.sparsity(proto)
    if case == "sparse FP16":
        return  # behind a Cast, which show does not look through either
    expected = whole.zeros / whole.elements
    assert read_arithmetic(model(tmp_path, proto).path).zeros == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("here", "engine", "why"),
    [
        (["onnxruntime"], "onnxruntime", "% of the weights are zero, in 8 bits; deepsparse is not installed"),
        (["openvino"], "openvino", "deepsparse is not installed"),
        ([], "onnxruntime", "no other engine that is installed can run this model"),
    ],
)
def test_an_engine_that_would_be_faster_is_named(three, tmp_path, here, engine, why):
    three["names"] = here
    found = fastest(model(tmp_path, integer_product(integers(0.85))))
    assert (found.engine, why in found.why) == (engine, True), found


def test_the_engine_that_the_file_was_written_for_wins(three, tmp_path):
    written = model(tmp_path, float_product(FLOATS), metadata={"engine_form": "deepsparse"})
    assert str(fastest(written)) == "engine deepsparse: the file was written for deepsparse"
    three["names"] = ["onnxruntime", "openvino"]
    assert str(fastest(written)) == "engine openvino: the file was written for deepsparse; deepsparse is not installed"


@pytest.mark.parametrize("form", ["tensorrt", "", "null"])
def test_a_form_that_names_no_installable_engine_is_ignored(three, tmp_path, form):
    assert fastest(model(tmp_path, float_product(FLOATS), metadata={"engine_form": form})).engine == "openvino"


def test_an_engine_that_lacks_a_type_is_not_chosen_even_for_its_own_form(three, tmp_path):
    half = model(
        tmp_path, float_product(pruned(FLOATS, 0.95).astype(np.float16)), metadata={"engine_form": "deepsparse"}
    )
    assert fastest(half).engine == "openvino"
    three["names"] = ["deepsparse"]
    assert fastest(half).engine == "onnxruntime"


def test_float16_inputs_also_count(tmp_path):
    proto = float_product(FLOATS)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    assert "float16" in read_arithmetic(model(tmp_path, proto).path).types


def test_operators_of_other_domains_are_left_to_onnx_runtime(three, tmp_path):
    proto = float_product(FLOATS)
    proto.graph.node[0].domain, proto.graph.node[0].op_type = "com.microsoft", "FusedMatMul"
    assert str(fastest(model(tmp_path, proto))) == "engine onnxruntime: operators of com.microsoft"
    proto.graph.node[0].domain = "ai.onnx"
    assert read_arithmetic(model(tmp_path, proto).path).domains == frozenset()


class TestPlaces:
    """Wherever the values are stored."""

    WEIGHT = integers(0.85)

    def zeros(self, path: Path) -> float:
        return read_arithmetic(path).zeros

    def test_in_another_file(self, tmp_path):
        path = tmp_path / "mine.onnx"
        onnx.save(integer_product(self.WEIGHT), str(path), save_as_external_data=True, size_threshold=0, location="w")
        assert self.zeros(path) == pytest.approx(np.mean(self.WEIGHT == 0))
        (tmp_path / "w").unlink()
        with pytest.raises(ConfigError, match=r"No such file|cannot be read"):
            self.zeros(path)

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("zero", [0, 5, -7])
    def test_as_protobuf_integers(self, tmp_path, sign, zero):
        values = np.where(self.WEIGHT == 0, np.int8(zero), self.WEIGHT * np.int8(sign))
        proto = integer_product(values, zero)
        tensor = next(each for each in proto.graph.initializer if each.name == "w")
        tensor.CopyFrom(helper.make_tensor("w", TensorProto.INT8, values.shape, values.flatten().tolist()))
        assert not tensor.raw_data
        tensor = next(each for each in proto.graph.initializer if each.name == "z")
        tensor.CopyFrom(helper.make_tensor("z", TensorProto.INT8, [], [zero]))
        assert self.zeros(model(tmp_path, proto).path) == pytest.approx(np.mean(values == zero), abs=0.02)

    def test_as_protobuf_floats(self, tmp_path):
        values = pruned(FLOATS, 0.8)
        proto = float_product(values)
        proto.graph.initializer[0].CopyFrom(
            helper.make_tensor("w", TensorProto.FLOAT, values.shape, values.flatten().tolist())
        )
        assert self.zeros(model(tmp_path, proto).path) == pytest.approx(np.mean(values == 0))

    def test_in_a_node(self, tmp_path):
        values = pruned(FLOATS, 0.8)
        proto = float_product(values)
        constant = node("Constant", "", "w", value=proto.graph.initializer[0])
        del proto.graph.initializer[:]
        proto.graph.node.insert(0, constant)
        assert self.zeros(model(tmp_path, proto).path) == pytest.approx(np.mean(values == 0))

    def test_a_large_weight_is_sampled_all_over(self, tmp_path):
        values = np.ones((512, 1024), np.float32)
        values[256:] = 0
        proto = graph([node("MatMul", "x w", "y")], {"x": (1, 512)}, ["y"], {"w": values})
        assert self.zeros(model(tmp_path, proto).path) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("content", [b"\x08\x08not a model at all, whatever follows", b"PK\x03\x04"])
def test_a_file_that_is_not_a_model_is_one_sentence(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"m\.onnx"):
        read_arithmetic(path)


def test_a_graph_with_a_circle_is_read(tmp_path):
    proto = float_product(FLOATS)
    proto.graph.node.extend([node("Identity", "a", "b"), node("Cast", "b", "a", to=1), node("MatMul", "x a", "c")])
    assert read_arithmetic(model(tmp_path, proto).path).zeros == 0


class TestManifest:
    def test_shipped_models_list_every_engine_once(self):
        for name, (_, entry) in manifests.models().items():
            for engines in (entry.engines, entry.engines_without_vnni):
                assert not entry.file or sorted(engines) == sorted(registry.LIBRARIES), name

    @pytest.mark.parametrize(
        ("flags", "key"),
        [("avx2 avx512_vnni", "engines"), ("avx2 avx_vnni", "engines"), ("avx avx2", "engines_without_vnni")],
    )
    def test_the_order_is_that_of_such_a_processor(self, tmp_path, monkeypatch, flags, key):
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n\nprocessor : 1\n")
        monkeypatch.setattr(models, "multiplies_int8", lambda: multiplies_int8(tmp_path))
        found = models.find_model("minilm-l6-squad-int8")
        assert found.engines == getattr(manifests.models()[found.name][1], key)

    def test_the_first_that_is_installed_is_chosen(self, three, tmp_path):
        listed = model(tmp_path, float_product(FLOATS), engines=("onnxruntime", "deepsparse", "openvino"))
        three["names"] = ["deepsparse", "openvino"]
        assert str(fastest(listed)) == "engine deepsparse: fastest installed for mine (models.toml)"

    def test_a_file_that_only_has_the_name_of_a_shipped_model_is_judged_by_its_content(self, three, tmp_path):
        assert fastest(model(tmp_path, float_product(FLOATS), name="minilm-l6-squad-int8")).engine == "openvino"

    def test_an_engine_that_is_unknown_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "models.toml").write_text(
            '[m]\ndescription = "d"\nsource = "s"\nofficial_name = "bert-99"\nprecision = "int8"\n'
            'input_data_types = "int64"\nweight_transformations = "no"\nengines = ["onxruntime"]\n'
        )
        monkeypatch.setattr(manifests, "folder", lambda benchmark: tmp_path)
        with pytest.raises(ConfigError, match=r"unknown engine 'onxruntime': did you mean 'onnxruntime'"):
            manifests.models()


def test_installed_engines_are_those_whose_library_is_found(monkeypatch):
    monkeypatch.setattr(registry.util, "find_spec", lambda name: "found" if name == "onnxruntime" else None)
    assert registry.installed() == ["onnxruntime"]

    def broken(name):
        raise ValueError(f"{name}.__spec__ is None")

    monkeypatch.setattr(registry.util, "find_spec", broken)
    assert registry.installed() == []


def test_a_run_says_and_records_how_its_engine_was_chosen():
    found = resolve(RunRequest())
    assert found.engine == next(name for name in found.model.engines if name in registry.installed())
    assert found.engine_choice == "fastest installed for minilm-l6-squad-int8 (models.toml)"
    assert found.remarks == (f"engine {found.engine}: {found.engine_choice}",)
    assert "engines" not in json.loads(found.model.model_dump_json())
    named = resolve(RunRequest(engine="null"))
    assert (named.engine, named.engine_choice, named.remarks) == ("null", None, ())
