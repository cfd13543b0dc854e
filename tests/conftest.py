"""Shared by all tests: small data, and the data that only developers and CI have."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.files import fingerprint

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# A shell lets its background jobs ignore Ctrl-C, and everything that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder: unit, integration or e2e."""
    for item in items:
        item.add_marker(item.path.relative_to(ROOT / "tests").parts[0])


def shared(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative} of the developers' data, which users do not have")
    return path


@pytest.fixture(scope="session")
def real_squad() -> Path:
    return shared("data/squad-sample/dev-sample-v1.1.json")


@pytest.fixture(scope="session")
def fp32_model() -> Path:
    return shared("models/minilm-l6-squad-fp32.onnx")


@pytest.fixture(scope="session")
def imagenet_sample() -> Path:
    return shared("data/imagenet-sample")


@pytest.fixture(scope="session")
def efficientnet_fp32() -> Path:
    return shared("models/efficientnet-lite0-fp32.onnx")


@pytest.fixture(scope="session")
def cases() -> Path:
    """Inputs from the field, with their right values in README.md."""
    return shared("cases")


@pytest.fixture(scope="session")
def case_graphs(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs that make_graphs.py writes."""
    script, models = cases / "make_graphs.py", shared("models")
    folder = tmp_path_factory.mktemp("graphs")
    subprocess.run([sys.executable, str(script), str(models), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what another one read, possibly with a replaced function."""
    monkeypatch.setattr(fingerprint, "_known", {})


@pytest.fixture
def small_imagenet(tmp_path: Path) -> Path:
    """Ten drawn images in the official layout, of every shape, one of them grey; labels 0, 100, ... 900."""
    folder = tmp_path / "imagenet"
    (folder / "val").mkdir(parents=True)
    lines = []
    for number in range(10):
        height, width = 200 + 37 * number, 520 - 29 * number
        y, x, channel = np.ogrid[:height, :width, :3]
        image = Image.fromarray((x * (number + 1) + y * 3 + channel * 80).astype(np.uint8))
        name = f"val/ILSVRC2012_val_{number + 1:08}.JPEG"
        (image.convert("L") if number == 4 else image).save(folder / name, "JPEG")
        lines.append(f"{name} {number * 100}\n")
    (folder / "val_map.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def small_squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions on passages from one word to more than 384 tokens: 14 features or more."""
    passages = ["Tide.", "The Severn bore is a tidal wave on the river Severn, seen on 130 days a year."]
    passages += [f"In {1900 + n} the town counted {n * 137} people. " * (n + 1) for n in (1, 4, 9, 16, 44)]
    paragraphs = []
    for number, context in enumerate(passages):
        answer = context.split()[0].rstrip(".")
        paragraphs.append(
            {
                "context": context,
                "qas": [
                    {
                        "id": f"{number}-{k}",
                        "question": "What " + "really " * k + "is it?",
                        "answers": [{"text": answer, "answer_start": 0}],
                    }
                    for k in range(1 if number < 2 else 2)
                ],
            }
        )
    path = tmp_path_factory.mktemp("squad") / "small.json"
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path
