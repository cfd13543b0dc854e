"""What benchmarks.engines computes from its measurements, and the bare engines that it compares with."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from benchmarks import bare, engines
from benchmarks.bare import BARE, TOOLS, BareLayout
from benchmarks.engines import (
    EngineMeasurements,
    ModelOnEngine,
    add_rows,
    datasets,
    entry,
    measure,
    measured,
    ranking,
    warm_up,
)
from benchmarks.offline import seconds_of
from graphs import graph, node, normal
from rich.table import Table

from harness.catalog.models import find_model
from harness.engines.base import find_engine
from harness.errors import ConfigError, EngineError, RunFailed
from harness.registry import installed
from harness.results.parts import RecordedEngine
from harness.scheduling.limits import Limits
from harness.task.shape import Shape


def row(*offline: float, failed: bool = False) -> EngineMeasurements:
    found = EngineMeasurements(failed=failed)
    for rate in offline:
        found.add("offline", rate, 0.1)
    return found


def test_engines_are_ranked_by_their_median_and_those_that_failed_are_left_out(monkeypatch):
    rows = {"slow": row(10, 11, 99), "fast": row(20, 21, 1), "broken": row(500, failed=True)}
    assert ranking(rows) == ["fast", "slow"]
    model = find_model("minilm-l6-squad-int8")
    monkeypatch.setattr(engines, "multiplies_int8", lambda: True)
    assert entry(model, rows) == '[minilm-l6-squad-int8]\nengines = ["fast", "slow"]'
    monkeypatch.setattr(engines, "multiplies_int8", lambda: False)
    assert entry(model, rows).endswith('\nengines_without_vnni = ["fast", "slow"]')


def test_data_sets_are_given_by_benchmark():
    assert datasets(["bert=a=b.json", "ResNet50=folder"]) == {"bert": "a=b.json", "resnet50": "folder"}
    for wrong in ("dev.json", "bret=x"):
        with pytest.raises(ConfigError, match=r"write BENCHMARK=PATH|did you mean 'bert'"):
            datasets([wrong])


def test_both_sides_of_a_ratio_take_turns_on_the_same_work(monkeypatch):
    log, limits = [], []

    def apart(work, *args):
        log.append((work.__name__, args[1:]))
        if "offline" in work.__name__:
            limits.append(args[0].limits)
        return {"offline": (90.0, 7, 0.2, Limits(4, 1024)), "stream": (2.0, ["queries"], 0.0)}.get(
            work.__name__, (100.0, 0.5)
        )

    monkeypatch.setattr(engines, "apart", apart)
    found = EngineMeasurements()
    for turn in range(2):
        measure(ModelOnEngine("m", None, "openvino", 1.0), found, turn)
    first = [("offline", (0,)), ("bare_offline", (7,)), ("stream", ()), ("bare_stream", (["queries"],))]
    second = [("bare_offline", (7,)), ("offline", (7,)), ("bare_stream", (["queries"],)), ("stream", ())]
    assert log == [*first, ("tool_offline", (7,)), *second, ("tool_offline", (7,))]
    assert limits == [None, *[Limits(4, 1024)] * 5]  # the first choice is everyone's
    assert found.ratio("offline", "bare").startswith("0.900 (0.900")
    assert found.ratio("bare p90", "p90").startswith("50.000")
    assert max(found.figures["others"]) == 0.5
    assert EngineMeasurements().ratio("offline", "tool") == ""


WEIGHT = normal(1, 16, 16)
BATCHES = [(Shape(n, 1), {"x": normal(n, n, 16, scale=1.0)}) for n in (1, 3, 1)]


def layout(folder: Path, name: str, streams: int) -> BareLayout:
    """That of a product with WEIGHT, as the harness runs it."""
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    path, nodes = folder / "m.onnx", [node("MatMul", "x w", "a"), node("Relu", "a", "y")]
    onnx.save(graph(nodes, {"x": ("N", 16)}, ["y"], {"w": WEIGHT}), path)
    engine = find_engine(name)
    precision = {"precision": "f32"} if name == "openvino" else {}
    made = engine(path, engine.Settings(streams=streams, threads=1, **precision))
    return BareLayout.of(SimpleNamespace(engine=made, description=RecordedEngine.of(made.describe())))


@pytest.mark.parametrize("engine", BARE)
@pytest.mark.parametrize("streams", [1, 2])
def test_a_bare_engine_runs_the_batches(tmp_path, engine, streams):
    batches = BATCHES
    calls = BARE[engine](layout(tmp_path, engine, streams), batches)
    assert len(calls) == streams
    for call in calls:
        for batch in batches:
            found = call(batch)
            outputs = list(found.values()) if hasattr(found, "values") else found
            np.testing.assert_allclose(outputs[0], np.maximum(batch[1]["x"] @ WEIGHT, 0), rtol=1e-5, atol=1e-5)
    assert seconds_of(calls, batches) > 0


def test_openvino_alone_is_configured_as_in_the_harness(tmp_path, monkeypatch):
    import openvino

    facts, seen = layout(tmp_path, "openvino", 2), []
    assert {"ENABLE_CPU_PINNING", "ENABLE_HYPER_THREADING", "DYNAMIC_QUANTIZATION_GROUP_SIZE"} < set(facts.config)
    assert (facts.config["NUM_STREAMS"], facts.config["INFERENCE_PRECISION_HINT"]) == (2, "f32")

    class Core:
        def compile_model(self, model, device, config):
            seen.append(config)
            return SimpleNamespace(create_infer_request=lambda: None)

    monkeypatch.setattr(openvino, "Core", Core)
    BARE["openvino"](facts, BATCHES)
    assert seen == [facts.config]


def test_benchmark_app_gets_the_configuration_and_counts_samples(tmp_path, monkeypatch):
    facts, seen = layout(tmp_path, "openvino", 2), {}

    def run(command, **_):
        options = dict(zip(command[3::2], command[4::2], strict=True))
        seen.update(options, config=json.loads(Path(options["-load_config"]).read_text()))
        return SimpleNamespace(stdout="Throughput:   12.50 FPS\n", stderr="")

    monkeypatch.setattr(bare.subprocess, "run", run)
    assert TOOLS["openvino"](facts, BATCHES, 1.0) == 12.5
    assert seen["config"] == {"CPU": facts.config}
    assert (seen["-layout"], seen["-data_shape"], seen["-nireq"]) == ("x[N...]", "x[1,16][3,16][1,16]", "2")


def test_every_stream_runs_each_shape_before_the_clock_starts():
    runs, together = [], threading.Barrier(3, timeout=60)

    def stream(name):
        def call(batch):
            together.wait()  # breaks unless all three are here at the same time
            runs.append((name, batch[0]))

        return call

    warm_up([stream(name) for name in "abc"], BATCHES)
    assert sorted(runs) == sorted((name, Shape(n, 1)) for name in "abc" for n in (1, 3))

    def fail(batch):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        warm_up([fail, lambda batch: None], BATCHES)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_both_sides_measure_a_real_model(tmp_path, small_imagenet, monkeypatch, engine):
    if engine not in installed():
        pytest.skip(f"{engine} is not installed")
    path, nodes = tmp_path / "m.onnx", [node("GlobalAveragePool", "x", "a"), node("Flatten", "a", "f")]
    model = graph([*nodes, node("MatMul", "f w", "y")], {"x": ("N", 3, 224, 224)}, ["y"], {"w": normal(1, 3, 1000)})
    onnx.helper.set_model_props(model, {"preprocessing": "efficientnet-lite"})
    onnx.save(model, path)
    warmed = []

    def warm(streams, batches):
        warmed.append((len(streams), {shape for shape, _ in batches}))
        warm_up(streams, batches)

    monkeypatch.setattr(engines, "warm_up", warm)
    work = ModelOnEngine(str(path), str(small_imagenet), engine, 0.1)
    latency, issued, _ = engines.stream(work)
    assert latency > 0
    assert len(issued) >= 20
    alone, _ = engines.bare_stream(work, issued)
    assert alone > 0
    rate, samples, _, limits = engines.offline(work, 30)
    assert (samples, rate > 0) == (30, True)
    bare_rate, _ = engines.bare_offline(replace(work, limits=limits), 30)
    assert bare_rate > 0
    assert warmed[:2] == [(1, {Shape(1, 1)})] * 2
    streams = find_engine(engine).Settings().layout().streams
    assert [count for count, shapes in warmed[2:] if shapes] == [streams] * 2


def test_a_library_that_fails_alone_is_one_sentence(monkeypatch):
    def fail(layout, batches):
        raise RuntimeError("no memory\nat line 3")

    monkeypatch.setattr(engines, "_apart_from_the_harness", lambda work, scenario, batches: (None, []))
    for side in (engines.bare_offline, engines.bare_stream):
        monkeypatch.setitem(BARE, "openvino", fail)
        with pytest.raises(EngineError, match=r"^openvino failed to run alone: no memory$"):
            side(ModelOnEngine("m", None, "openvino", 1.0), 7)


def test_what_was_measured_is_shown_although_a_side_failed(monkeypatch, capsys):
    tried = []

    def apart(side, work, *args):
        tried.append(side.__name__)
        if side.__name__ in ("bare_offline", "tool_offline"):
            raise RunFailed(f"{side.__name__} has no memory.")
        if side.__name__ == "stream" and work.engine == "onnxruntime":
            raise RunFailed("stream has no memory.")
        return {"offline": (90.0, 7, 0.2, None), "stream": (2.0, ["queries"], 0.0)}.get(side.__name__, (100.0, 0.5))

    monkeypatch.setattr(engines, "apart", apart)
    monkeypatch.setattr(engines, "score", lambda *_: "top-1 70.00")
    rows = measured("efficientnet-lite0-int8", None, ["openvino", "onnxruntime"], 1.0, 2)
    assert "bare_offline has no memory" in " ".join(capsys.readouterr().err.split())
    assert (tried.count("bare_offline"), tried.count("tool_offline"), tried.count("offline")) == (2, 1, 3)
    table = Table(*"abcdefghi")
    add_rows(table, "m", rows)
    columns = [list(column.cells) for column in table.columns]
    assert columns[2:6] == [["90.0", "90.0 failed"], ["", ""], ["", ""], ["2.00", ""]]
    assert columns[6][0].startswith("50.000")
    assert ranking(rows) == ["openvino"]


def test_every_item_is_done_once_by_one_of_the_streams():
    done: list[int] = []
    seconds_of([done.append] * 3, range(100))
    assert sorted(done) == list(range(100))
