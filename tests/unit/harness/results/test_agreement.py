from __future__ import annotations

import json
from types import SimpleNamespace

from harness.results.agreement import MAX_DIFFERENCE, Agreement
from harness.results.record import RecordedAgreement
from harness.task.shape import Shape


def test_only_differences_beyond_rounding_are_wrong():
    fine = Agreement({Shape(16, 1): 0.04, Shape(64, 1): MAX_DIFFERENCE})
    assert fine.warning("deepsparse") == ""
    assert fine.worst == Shape(64, 1)
    assert Agreement({Shape(16, 1): 0.04, Shape(64, 1): 0.43}, 16).warning("deepsparse") == (
        "in batches of 64 x 1, deepsparse differs from ONNX Runtime by up to 43%, more than rounding explains: "
        "use --set max_batch=16, which it computes correctly, or --engine onnxruntime."
    )
    assert Agreement({Shape(16, 1): 0.9}, at_once=4).warning("mine") == (
        "in batches of 16 x 1, 4 at once, mine differs from ONNX Runtime by up to 90%, more than rounding explains: "
        "use --set streams=1, with which it is correct, or --engine onnxruntime."
    )
    hopeless = Agreement({Shape(1, 384): 0.5, Shape(2, 128): 0.6}).warning("mine")
    assert hopeless.startswith("in batches of 1 x 384, 2 x 128, mine differs from ONNX Runtime by up to 60%")
    assert hopeless.endswith("rounding explains: use --engine onnxruntime.")


def test_an_agreement_is_recorded_and_read_again():
    found = Agreement({Shape(16, 1): 0.04, Shape(64, 1): 0.5}, right=16)
    written = found.record().values()
    assert written == {"with": "onnxruntime", "differences": [[16, 1, 0.04], [64, 1, 0.5]]}
    read = RecordedAgreement.model_validate_json(json.dumps(written))
    assert read.values() == written
    assert Agreement.of(SimpleNamespace(agreement=read)).differences == found.differences
