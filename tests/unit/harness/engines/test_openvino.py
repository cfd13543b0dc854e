"""OpenVINO: what it computes, what it is given, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.engines import openvino
from harness.engines.base import Signature, engine_errors
from harness.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSettings
from harness.engines.openvino import OpenVinoEngine, OpenVinoSettings
from harness.errors import ConfigError, EngineError, MissingDependencyError
from harness.host import machine
from harness.host.machine import Core, core_count

WEIGHT = np.random.default_rng(3).normal(size=(8, 5)).astype(np.float32)


def save(path: Path, *nodes, dims=("N", "L", 8), kind=TensorProto.FLOAT, outputs=("first",), **options) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(WEIGHT, "weight")],
    )
    sets = [helper.make_opsetid("", 13), helper.make_opsetid("unknown.domain", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=8), str(path), **options)
    return path


def product(path: Path, **options) -> Path:
    """Two outputs: a product, and what is positive of it."""
    matmul = helper.make_node("MatMul", ["x", "weight"], ["first"])
    relu = helper.make_node("Relu", ["first"], ["second"])
    return save(path, matmul, relu, outputs=("first", "second"), **options)


@pytest.fixture
def model(tmp_path) -> Path:
    return product(tmp_path / "m.onnx")


def made(path: Path, **settings) -> OpenVinoEngine:
    return OpenVinoEngine(path, OpenVinoSettings(**settings))


def signature(*outputs: str) -> Signature:
    return Signature({}, dict.fromkeys(outputs, ()))


def batch(*dims: int, seed: int = 1) -> dict[str, np.ndarray]:
    array = np.random.default_rng(seed).normal(size=(*dims, 8)).astype(np.float32)
    array.flags.writeable = False
    return {"x": array}


def test_it_computes_what_onnx_runtime_does_in_any_shape_and_order(model):
    runner = made(model, precision="f32").compile(signature("second", "first"))
    reference = OnnxRuntimeEngine(model, OnnxRuntimeSettings(streams=1)).compile(signature("second", "first"))
    for dims in ((1, 3), (4, 7), (2, 1)):
        for mine, theirs in zip(runner(batch(*dims)), reference(batch(*dims)), strict=True):
            assert mine.dtype == np.float32
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_read_only_inputs_are_neither_copied_nor_written(model):
    engine = made(model)
    runner, given = engine.compile(signature("first")), batch(4, 7)
    before, seen = given["x"].copy(), []
    infer = engine._free[-1].infer

    class Request:
        def infer(self, inputs, **options):
            seen.append(np.shares_memory(inputs["x"].data, given["x"]))
            return infer(inputs, **options)

    engine._free[-1] = Request()
    runner(given)
    assert seen == [True]
    np.testing.assert_array_equal(given["x"], before)


def test_outputs_are_the_callers_own(model):
    runner = made(model, streams=1).compile(signature("first"))
    (first,) = runner(batch(2, 3))
    kept = first.copy()
    (second,) = runner(batch(2, 3, seed=2))
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable


@pytest.mark.parametrize(
    ("settings", "in_flight"), [({"streams": 1}, 1), ({"streams": 3}, 4), ({"streams": 2, "instances": 2}, 2)]
)
def test_as_many_batches_run_at_once_as_it_says(model, settings, in_flight):
    engine = made(model, **settings)
    assert engine.in_flight == in_flight
    runner = engine.compile(signature("first"))
    expected = [runner(batch(2, 5, seed=seed))[0] for seed in range(30)]
    with ThreadPoolExecutor(in_flight) as pool:
        found = list(pool.map(lambda seed: runner(batch(2, 5, seed=seed))[0], range(30)))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("settings", [{}, {"pin": True}, {"pin": True, "instances": 2, "streams": 2}, {"streams": 1}])
def test_the_cpus_of_the_harness_stay_as_they_are(model, settings):
    before, seen = os.sched_getaffinity(0), []
    engine = made(model, **settings)
    runner = engine.compile(signature("first"))

    def work():
        runner(batch(64, 64))
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    runner(batch(64, 64))
    engine.close()
    assert seen == [before] == [os.sched_getaffinity(0)]


def test_more_pinned_instances_than_cores_share_them(model):
    count = core_count() + 1
    engine = made(model, pin=True, instances=count, streams=count)
    assert engine.compile(signature("first"))(batch(2, 3))[0].shape


def test_openvino_is_configured_as_the_settings_say(model):
    settings = {"streams": 1, "threads": 1, "pin": True, "precision": "f32"}
    (compiled,) = made(model, **settings)._compiled
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING")
    assert not compiled.get_property("ENABLE_HYPER_THREADING")
    assert str(compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"
    engine = made(model)
    (compiled,) = engine._compiled
    assert compiled.get_property("NUM_STREAMS") == core_count()
    assert compiled.get_property("ENABLE_CPU_PINNING") == engine.layout.pin


def test_the_record_holds_the_version_and_the_precision(model):
    described = made(model).describe()
    assert described["name"] == "openvino"
    assert described["version"][:3] == "202"
    assert described["precision"] in ("f32", "bf16")
    assert described["streams"] == core_count()


def test_bf16_is_the_default_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(openvino, "computes_bf16", lambda: True)
    assert OpenVinoSettings().in_force()["precision"] == "bf16"
    assert OpenVinoSettings(precision="f32").in_force()["precision"] == "f32"
    assert [{"precision": "bf16"}, {"precision": "f32"}] in OpenVinoEngine.search_space(384, False)
    assert [{"precision": "bf16"}, {"precision": "f32"}] in OpenVinoEngine.search_space(384, True)


def test_bf16_without_hardware_is_refused(model, monkeypatch):
    monkeypatch.setattr(openvino, "computes_bf16", lambda: False)
    assert OpenVinoSettings().in_force()["precision"] == "f32"
    assert not any("precision" in choice for one in OpenVinoEngine.search_space(384, False) for choice in one)
    with pytest.raises(ConfigError, match="this processor does not compute in bf16: omit precision=bf16"):
        made(model, precision="bf16")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2 avx512f", False), ("avx512_bf16", True), ("avx2 amx_bf16 amx_tile", True), ("", False)],
)
def test_the_processor_says_whether_it_has_bf16(tmp_path, flags, expected):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"model name : x\nflags\t\t: fpu {flags}\n")
    assert machine.computes_bf16(tmp_path) is expected


def test_one_instance_serves_all_nodes_and_threads_never_exceed_the_cores(monkeypatch):
    cores = tuple(Core(node, 4 * node + n) for node in (0, 1) for n in range(4))
    monkeypatch.setattr("harness.engines.cores.cores", lambda: cores)
    monkeypatch.setattr(openvino, "core_count", lambda: len(cores))
    layout = OpenVinoSettings().layout()
    assert (layout.streams, layout.threads, len(layout.instances), layout.pin) == (8, 1, 1, True)
    assert "cpus" not in OpenVinoSettings().in_force()
    assert OpenVinoSettings(streams=4, threads=8).in_force()["threads"] == 2
    assert OpenVinoSettings(streams=16).in_force()["threads"] == 1
    assert len(OpenVinoSettings(instances=2).layout().instances) == 2
    assert OpenVinoSettings().suited(latency=True, arriving=False, max_cost=1).layout().threads == 8


@pytest.mark.parametrize(
    ("load", "module"),
    [
        ("from harness.engines.openvino import import_openvino; import_openvino()", "openvino"),
        ("import harness, onnxruntime", "onnxruntime"),
    ],
)
def test_the_import_sends_and_writes_nothing(tmp_path, load, module):
    code = (
        "import sys, socket\n"
        "def refuse(*_, **__): raise SystemExit('a connection was opened')\n"
        "socket.socket.connect = refuse\n"
        f"{load}\n"
        f"print([m for m in sys.modules if m == '{module}'])\n"
        "print([m for m, found in sys.modules.items() if m.startswith('openvino_telemetry') and found])"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"['{module}']\n[]\n"), done.stderr
    assert list(tmp_path.rglob("*")) == []


def test_a_missing_package_is_one_sentence_with_the_alternative(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"OpenVINO cannot be imported \(.*\): .* --engine onnxruntime"):
        made(model)


@pytest.mark.parametrize(
    ("operator", "dims", "reason"),
    [("Foo", ("N", 8), "No conversion rule found for operations: unknown.domain.Foo"), ("", None, "dynamic rank")],
)
def test_what_openvino_cannot_run_is_one_sentence(tmp_path, operator, dims, reason):
    domain = "unknown.domain" if operator else ""
    node = helper.make_node(operator or "Relu", ["x"], ["first"], domain=domain)
    path = save(tmp_path / "m.onnx", node, dims=dims)
    with pytest.raises(EngineError, match=reason) as failed, engine_errors("openvino", "to load it", "try another"):
        made(path)
    assert "\n" not in str(failed.value)
    assert "Exception from" not in str(failed.value)


def test_fixed_and_open_dimensions_are_those_of_the_file(tmp_path):
    engine = made(product(tmp_path / "m.onnx", dims=(2, None, 8)))
    assert [str(tensor) for tensor in engine.inputs] == ["x float32 (2, ?, 8)"]
    assert [str(tensor) for tensor in engine.outputs] == ["first float32 (2, ?, 5)", "second float32 (2, ?, 5)"]


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    node = helper.make_node("Identity", ["x"], ["first"])
    engine = made(save(tmp_path / "m.onnx", node, kind=TensorProto.BFLOAT16))
    assert str(engine.inputs[0]) == "x bfloat16 (?, ?, 8)"


def test_weights_beside_the_file_are_used(tmp_path, model):
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    (tmp_path / "beside").mkdir()
    path = product(tmp_path / "beside/m.onnx", **options)
    (mine,), (theirs,) = (made(each).compile(signature("first"))(batch(2, 3)) for each in (path, model))
    np.testing.assert_array_equal(mine, theirs)


def test_close_frees_the_model(model):
    engine = made(model)
    engine.compile(signature("first"))(batch(1, 1))
    engine.close()
    assert (engine._free, engine._compiled) == ([], [])
