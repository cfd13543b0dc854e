"""Profiles: what ONNX Runtime and OpenVINO record, how it is summed up, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from finished import run_folder
from onnx import TensorProto, helper, numpy_helper

from harness.engines.base import Signature, find_engine
from harness.engines.onnxruntime import node_times
from harness.engines.profiler import NodeTotal, ProfiledNode
from harness.errors import ConfigError
from harness.report.page import page
from harness.report.text import as_json, as_markdown, rows
from harness.results.finished import find
from harness.results.profile import PROFILE, read_profile
from harness.running.profile import summary
from harness.running.recorder import Recorder
from harness.scheduling.base import Work
from harness.settings.request import RunRequest, resolve
from harness.task.shape import Shape

PROFILING = ("onnxruntime", "openvino")
SIZE = 512


@pytest.fixture
def model(tmp_path) -> Path:
    """A large product, and next to it a tiny sum."""
    weight = np.random.default_rng(1).normal(size=(SIZE, SIZE)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["big"], "big"),
        helper.make_node("ReduceSum", ["big"], ["y"], "small", keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", SIZE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("name", PROFILING)
def test_only_the_batches_inside_count_and_the_product_is_the_most_expensive(model, name):
    kind = find_engine(name)
    engine = kind.profiler()(model, kind.Settings(streams=2, threads=1))
    assert (engine.streams, engine.threads) == (1, 1)
    runner = engine.compile(Signature({}, {"y": ()}))
    batch = {"x": np.ones((512, SIZE), np.float32)}
    runner(batch)
    runner(batch)
    with engine.recorded() as times:
        for _ in range(3):
            runner(batch)
    engine.close()
    dearest, spent = max(times.items(), key=lambda item: item[1].seconds)
    assert dearest.name.startswith("big")
    assert dearest.operator in ("MatMul", "Gemm", "FullyConnected")
    assert spent.calls == 3
    assert spent.seconds > 0.5 * sum(each.seconds for each in times.values())


def test_the_files_of_onnx_runtimes_profiler_are_removed(model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kind = find_engine("onnxruntime")
    engine = kind.profiler()(model, kind.Settings())
    assert engine._folder.parent == tmp_path
    engine.close()
    assert not engine._folder.exists()


def test_events_before_the_recording_and_those_that_are_not_nodes_are_left_out():
    def event(name: str, ts: int, dur: int, **args: object) -> dict[str, object]:
        return {"name": name, "ts": ts, "dur": dur, "args": args}

    events = [
        event("session_initialization", 0, 900),
        event("a_kernel_time", 11, 100, op_name="Add", node_index="1"),
        event("model_run", 10, 200),
        event("a_kernel_time", 310, 5, op_name="Add", node_index="1"),
        event("_kernel_time", 320, 7, op_name="Mul", node_index="2"),
        event("model_run", 300, 40),
        event("a_kernel_time", 410, 6, op_name="Add", node_index="1"),
        event("model_run", 400, 40),
    ]
    times = node_times(events, 1)
    assert times.keys() == {ProfiledNode("a", "Add"), ProfiledNode("Mul 2", "Mul")}
    assert times[ProfiledNode("a", "Add")] == NodeTotal(pytest.approx(11e-6), 2)
    assert node_times(events, 3) == {}


def test_operators_are_summed_and_the_ten_slowest_nodes_listed():
    times = {ProfiledNode(f"n{at}", "Add" if at % 2 else "Mul"): NodeTotal(0.001 * at, 4) for at in range(1, 13)}
    found = summary(times, "some 1.0", 2, 4, [Shape(3, 64)])
    assert found.ms == pytest.approx(78)
    assert [(each.operator, each.ms, each.calls) for each in found.operators] == [("Mul", 42, 24), ("Add", 36, 24)]
    assert sum(each.share for each in found.operators) == pytest.approx(1, abs=1e-4)
    assert [each.node for each in found.nodes] == [f"n{at}" for at in range(12, 2, -1)]
    assert found.nodes[0].share == pytest.approx(12 / 78, abs=1e-5)
    assert "one stream of 2 threads; in the test 4 ran at once" in found.about


def test_batches_are_chosen_evenly_and_as_many_as_the_time_allows():
    recorder = Recorder()
    assert recorder.sample_shapes(5.0, 4, 16) == []
    for number in range(100):
        work = Work([number], np.array([number]), Shape(1 + number // 50, 100 - number), ())
        recorder.answered(float(number), number + 0.5, work, 1)
    chosen = recorder.sample_shapes(5.0, 4, 16)  # of half a second each
    assert [shape.length for shape in chosen] == list(range(95, 0, -10))
    assert (chosen[0].batch, chosen[-1].batch) == (1, 2)
    assert len(recorder.sample_shapes(0.1, 4, 16)) == 4
    assert len(recorder.sample_shapes(500.0, 4, 16)) == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"engine": "null"}, "null has no profile of its operators: use --engine onnxruntime or openvino"),
        ({"engine": "deepsparse"}, "deepsparse has no profile of its operators"),
        ({"engine": "harness.engines.null:NullEngine"}, "has no profile of its operators"),
        ({"engine": "openvino", "mode": "accuracy"}, "omit --profile or --mode accuracy"),
        ({"engine": "openvino", "timeline": "off"}, "omit --profile or --timeline off"),
        ({"engine": "openvino", "cluster": "local:2"}, "omit --cluster"),
    ],
)
def test_what_has_no_profile_is_refused_before_anything_runs(words, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(RunRequest(profile=True, **words))
    assert str(caught.value).count("\n") == 0


def _with_profile(folder: Path) -> Path:
    times = {
        ProfiledNode("/layer<1>/MatMul", "MatMul"): NodeTotal(0.3, 4),
        ProfiledNode("/layer/Add", "Add"): NodeTotal(0.1, 4),
    }
    made = summary(times, "onnxruntime 1.2", 1, 2, [Shape(4, 64)])
    (folder / PROFILE).write_text(made.model_dump_json())
    return folder


def test_a_report_shows_the_profile_in_every_format_but_tables_of_runs(tmp_path):
    folder = _with_profile(run_folder(tmp_path))
    run_folder(tmp_path, second=20)
    runs = find([folder.name], None, tmp_path)
    shown = page(runs)
    assert "Time by operator" in shown
    assert "/layer&lt;1&gt;/MatMul" in shown
    assert "75.0%" in shown
    assert "| MatMul | 75.0% | 300.00 | 4 |" in as_markdown(runs)
    assert json.loads(as_json(runs))[0]["profile"]["nodes"][0]["node"] == "/layer<1>/MatMul"
    assert not [name for name in rows(runs)[0] if "profile" in name]
    without = find([], 1, tmp_path)
    assert without[0].profile is None
    assert "Time by operator" not in page(without)
    assert json.loads(as_json(without))[0]["profile"] is None


def test_a_damaged_profile_is_a_warning(tmp_path, capsys):
    (tmp_path / PROFILE).write_text('{"engine": 3}')
    assert read_profile(tmp_path) is None
    assert "the run is shown without its profile" in capsys.readouterr().err
