from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks import recovery
from benchmarks.recovery import (
    VariantMeasurements,
    agreement,
    answers,
    content_of,
    held_out,
    measured,
    options_of,
    variants,
)

from bert.squad import read_squad
from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Dataset
from resnet50.images import find_images

SCORES = {"accuracy": {"F1": 80.0, "exact match": 70.0}, "metric": {"value": 12.5}}


def row(*found: list[int]) -> VariantMeasurements:
    return VariantMeasurements("F1", 80.0, 12.5, True, list(found))


def log(folder: Path, responses: list[np.ndarray]) -> Path:
    """An accuracy log in another order than the samples'."""
    entries = [
        {"seq_id": number, "qsl_idx": index, "data": responses[index].astype("<f4").tobytes().hex()}
        for number, index in enumerate(reversed(range(len(responses))))
    ]
    folder.mkdir(parents=True)
    (folder / "mlperf_log_accuracy.json").write_text(json.dumps(entries))
    return folder / "mlperf_log_accuracy.json"


def test_answers_are_the_greatest_start_and_end_of_each_window(tmp_path):
    path = log(tmp_path / "run", [np.float32([[1, 0], [3, 2], [2, 9]]), np.float32([[5, 1], [0, 4]])])
    assert answers(path, 2, "bert") == [[1, 2], [0, 1]]


def test_answers_are_the_classes_of_images(tmp_path):
    path = log(tmp_path / "run", [np.float32([7]), np.float32([999]), np.float32([-1])])
    assert answers(path, 3, "resnet50") == [[7], [999], [-1]]


def test_engines_agree_where_start_and_end_are_the_same():
    first = row([1, 2], [0, 1], [5, 6], [7, 7])
    assert agreement([first, row([1, 2], [0, 2], [5, 6], [7, 7])]) == "75.0 %"
    assert agreement([first, first]) == "100.0 %"
    assert agreement([first]) == "-"


def test_the_dense_model_comes_first_and_magnitude_stands_beside_the_other_method():
    found = [(v.sparsity, v.precision, v.method, v.engine) for v in variants([0.0, 0.5], ["int8", "fp32"], 1)]
    assert found == [
        (0.0, "fp32", "second-order", None),
        (0.0, "int8", "second-order", "deepsparse"),
        (0.0, "int8", "second-order", "openvino"),
        (0.5, "int8", "second-order", "deepsparse"),
        (0.5, "int8", "second-order", "openvino"),
        (0.5, "fp32", "second-order", None),
        (0.5, "fp32", "magnitude", None),
    ]


def test_fp32_files_are_computed_in_fp32_on_every_engine():
    assert options_of("bert", "fp32", "openvino", 4) == ["precision=f32"]
    assert options_of("bert", "int8", "openvino", 4) == options_of("bert", "fp32", "onnxruntime", 4) == []
    assert options_of("bert", "fp32", "deepsparse", 4) == ["shapes=4"]
    assert options_of("resnet50", "fp32", "deepsparse", 4) == []


def test_an_engine_that_is_not_installed_is_left_out_with_a_note(monkeypatch, capsys):
    monkeypatch.setattr(recovery, "installed", lambda: ["deepsparse", "onnxruntime"])
    assert recovery.installed_engines() == ["deepsparse", "onnxruntime"]
    assert "openvino is not installed" in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_images_is_another_once_a_file_changes(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    dataset = Dataset(name="d", path=tmp_path, sha256=None)
    before = content_of(dataset)
    assert content_of(dataset) == before
    (tmp_path / "a.jpg").write_bytes(b"22")
    assert content_of(dataset) != before


def test_what_calibrates_is_not_scored(tmp_path, monkeypatch, small_squad, small_imagenet):
    monkeypatch.setattr(recovery, "_FOLDER", tmp_path / "kept")
    calibration, scored = held_out("bert", find_dataset("bert", str(small_squad)))
    parts = [{question.id for question in read_squad(path).questions} for path in (calibration, scored)]
    whole = {question.id for question in read_squad(small_squad).questions}
    assert (parts[0] | parts[1], parts[0] & parts[1]) == (whole, set())
    assert parts[0]

    dataset = find_dataset("resnet50", str(small_imagenet))
    for _ in range(2):  # the second time all is there
        folders = held_out("resnet50", dataset)
    found = [find_images(find_dataset("resnet50", str(folder)).path) for folder in folders]
    assert [image.labels.tolist() for image in found] == [[0, 300, 600, 900], [100, 200, 400, 500, 700, 800]]
    files = {file.resolve() for images in found for file in images.files}
    assert files == set(find_images(dataset.path).files)


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Measures a file as if it were a variant; ``runs`` are the modes in which it was run."""
    runs = []

    def run(path, engine, mode, dataset, seconds, options, folder):
        runs.append(mode)
        log(folder / "1", [np.float32([3]), np.float32([4])])
        return {"result": SCORES, "valid": True, "dataset": {"samples_used": 2}}

    monkeypatch.setattr(recovery, "run", run)
    monkeypatch.setattr(recovery, "_FOLDER", tmp_path / "kept")
    path = tmp_path / "variant.onnx"
    path.write_bytes(b"weights")
    dataset = Dataset(name="d", path=tmp_path / "d", sha256="0" * 64)

    def call(*, engine="onnxruntime", seconds=1.0, options=(), fresh=False, data=dataset) -> VariantMeasurements:
        model = SimpleNamespace(benchmark="resnet50")
        return measured(model, path, engine, data, seconds, options, fresh=fresh)

    return SimpleNamespace(call=call, runs=runs, path=path, dataset=dataset, folder=tmp_path / "kept")


def test_a_row_is_measured_once_and_then_read(measure):
    first = measure.call()
    assert first == VariantMeasurements("F1", 80.0, 12.5, True, [[3], [4]])
    assert measure.call() == first
    assert measure.runs == ["accuracy", "performance"]
    measure.call(fresh=True)
    assert len(measure.runs) == 4


def test_a_row_is_measured_again_when_what_it_depends_on_changes(measure, monkeypatch):
    measure.call()
    measure.call(seconds=2.0)
    measure.call(options=["precision=f32"])
    measure.call(data=measure.dataset.model_copy(update={"sha256": "1" * 64}))
    measure.path.write_bytes(b"other weights")
    measure.call()
    monkeypatch.setattr(recovery, "version", lambda name: "another")
    measure.call()
    monkeypatch.setattr(recovery, "_sources", lambda: "another")
    measure.call()
    assert len(measure.runs) == 14


def test_a_row_that_was_interrupted_is_not_kept(measure, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    whole = recovery.run
    monkeypatch.setattr(recovery, "run", lambda *a: interrupt() if a[2] == "performance" else whole(*a))
    with pytest.raises(KeyboardInterrupt):
        measure.call()
    assert not measure.folder.exists()
