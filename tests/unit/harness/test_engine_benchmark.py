"""What benchmarks.engines computes from its measurements, and the bare engines that it compares with."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from benchmarks import engines
from benchmarks.bare import BARE, Layout
from benchmarks.engines import Row, Work, datasets, entry, measure, ranking
from benchmarks.offline import seconds_of
from graphs import graph, node, normal

from harness.catalog.models import find_model
from harness.errors import ConfigError
from harness.registry import installed
from harness.task.shape import Shape


def row(*offline: float, failed: bool = False) -> Row:
    found = Row(failed=failed)
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
    log = []

    def apart(work, *args):
        log.append((work.__name__, args[1:]))
        return {"offline": (90.0, 7, 0.2), "stream": (2.0, ["queries"], 0.0)}.get(work.__name__, (100.0, 0.5))

    monkeypatch.setattr(engines, "apart", apart)
    found = Row()
    for turn in range(2):
        measure(Work("m", None, "openvino", 1.0), found, turn)
    first = [("offline", (0,)), ("bare_offline", (7,)), ("stream", ()), ("bare_stream", (["queries"],))]
    second = [("bare_offline", (7,)), ("offline", (7,)), ("bare_stream", (["queries"],)), ("stream", ())]
    assert log == [*first, ("tool_offline", (7,)), *second, ("tool_offline", (7,))]
    assert found.ratio("offline", "bare").startswith("0.900 (0.900")
    assert found.ratio("bare p90", "p90").startswith("50.000")
    assert max(found.figures["others"]) == 0.5
    assert Row().ratio("offline", "tool") == ""


@pytest.mark.parametrize("engine", BARE)
@pytest.mark.parametrize("streams", [1, 2])
def test_a_bare_engine_runs_the_batches(tmp_path, engine, streams):
    if engine not in installed():
        pytest.skip(f"{engine} is not installed")
    path = tmp_path / "m.onnx"
    weight = normal(1, 16, 16)
    onnx.save(graph([node("MatMul", "x w", "a"), node("Relu", "a", "y")], {"x": ("N", 16)}, ["y"], {"w": weight}), path)
    batches = [(Shape(n, 1), {"x": normal(n, n, 16, scale=1.0)}) for n in (1, 3, 1)]
    scheduler = "multi_stream" if streams > 1 else "single_stream"
    calls = BARE[engine](Layout(path, ("x",), ("y",), streams, 1, "", scheduler), batches)
    assert len(calls) == streams
    for call in calls:
        for batch in batches:
            found = call(batch)
            outputs = list(found.values()) if hasattr(found, "values") else found
            np.testing.assert_allclose(outputs[0], np.maximum(batch[1]["x"] @ weight, 0), rtol=1e-2, atol=1e-2)
    assert seconds_of(calls, batches) > 0


def test_every_item_is_done_once_by_one_of_the_streams():
    done: list[int] = []
    seconds_of([done.append] * 3, range(100))
    assert sorted(done) == list(range(100))
