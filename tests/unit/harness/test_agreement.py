from __future__ import annotations

import numpy as np

from harness.agreement import LIMIT, Agreement
from harness.scheduling.batching import Shape


def test_only_what_is_no_rounding_is_wrong():
    fine = Agreement({Shape(16, 1): 0.04, Shape(64, 1): LIMIT})
    assert fine.warning("deepsparse") == ""
    assert fine.worst == LIMIT
    assert Agreement({Shape(16, 1): 0.04, Shape(64, 1): 0.43}).warning("deepsparse") == (
        "in batches of 64 x 1, what deepsparse computes is 43% off what ONNX Runtime does, which is no rounding: "
        "try --set max_batch=32, or use --engine onnxruntime."
    )


def test_a_single_sample_cannot_be_split():
    warning = Agreement({Shape(1, 384): 0.5, Shape(2, 128): np.float64(0.6)}).warning("mine")
    assert warning.startswith("in batches of 1 x 384, 2 x 128, what mine computes is 60% off")
    assert warning.endswith("rounding: use --engine onnxruntime.")
    assert "max_batch" not in warning
