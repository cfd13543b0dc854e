from __future__ import annotations

import numpy as np
import pytest

from bert.features import build_features
from bert.qsl import BertQSL
from bert.squad import read_squad
from bert.sut import BertSUT
from bert.vocabulary import VOCAB
from harness.engines.base import Engine, EngineSettings, Signature
from harness.engines.outputs import checked_outputs
from harness.errors import EngineError
from harness.graph import Tensor
from harness.task.shape import Shape

SIGNATURE = Signature({}, {"y": (2, 3)})
FLOAT, HALF, DOUBLE, INT = map(np.dtype, (np.float32, np.float16, np.float64, np.int64))
GOOD = np.arange(6, dtype=np.float32).reshape(2, 3)


def checked(output, declared=FLOAT):
    return checked_outputs("toy", [output], SIGNATURE, {"y": declared})[0]


def spoiled(value, dtype):
    array = GOOD.astype(dtype)
    array[1, 1] = value
    return array


@pytest.mark.parametrize(
    "output",
    [
        GOOD.astype(object),
        spoiled(np.nan, object),
        spoiled(complex(1, np.nan), np.complex64),
        spoiled(1e300, np.float64),
        GOOD.astype(np.float64),
        GOOD.astype(str),
        GOOD.astype("S8"),
        GOOD.astype(bool),
        GOOD.astype(np.uint8),
        GOOD.astype(np.int64),
        GOOD.astype(np.float16),
        GOOD.astype(">f4"),
        GOOD.astype(np.int64).astype("datetime64[s]"),
        GOOD.view([("value", np.float32)]),
    ],
    ids=lambda output: str(output.dtype),
)
def test_only_the_dtype_of_the_graph_is_an_answer(output):
    with pytest.raises(EngineError, match=r"^toy returned 'y' as an array of .*; expected float32\.$"):
        checked(output)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (GOOD.tolist(), "list"),
        (None, "NoneType"),
        (np.float32(1), "float32"),
        (np.ma.masked_invalid(np.full((2, 3), np.nan, np.float32)), "MaskedArray"),
    ],
)
def test_only_a_plain_array_is_an_answer(output, kind):
    with pytest.raises(EngineError, match=f"^toy returned 'y' as {kind}; expected an array"):
        checked(output)


@pytest.mark.parametrize("output", [GOOD[:1], GOOD[:, :2], GOOD.T, GOOD.reshape(-1), GOOD[..., None], np.array(1.0)])
def test_only_the_shape_of_the_batch_is_an_answer(output):
    with pytest.raises(EngineError, match=r"'y' with shape \(.*; expected \(2, 3\)"):
        checked(output)


@pytest.mark.parametrize(
    ("output", "declared"),
    [
        (spoiled(np.nan, np.float32), FLOAT),
        (spoiled(-np.inf, np.float32), FLOAT),
        (spoiled(np.inf, np.float16), HALF),
        (spoiled(1e300, np.float64), DOUBLE),
    ],
)
def test_only_numbers_that_float32_holds_are_an_answer(output, declared):
    with pytest.raises(EngineError, match="returned 1 NaN or infinite values in 'y'"):
        checked(output, declared)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (None, "toy returned NoneType instead of a list of the outputs y"),
        ((each for each in [GOOD]), "toy returned generator instead"),
        ({"y": GOOD}, "toy returned dict instead"),
        ("y", "toy returned str instead"),
        ([], "toy returned 0 outputs where the model has 1"),
        ([GOOD, GOOD], "toy returned 2 outputs"),
    ],
)
def test_anything_but_a_list_of_the_outputs_is_one_sentence(outputs, message):
    with pytest.raises(EngineError, match=message):
        checked_outputs("toy", outputs, SIGNATURE, {"y": FLOAT})


@pytest.mark.parametrize(
    ("output", "declared", "dtype"),
    [
        (GOOD, FLOAT, FLOAT),
        (GOOD, HALF, FLOAT),
        (GOOD.astype(np.float16), HALF, FLOAT),
        (GOOD.astype(np.float64), DOUBLE, FLOAT),
        (GOOD, np.dtype(object), FLOAT),  # bfloat16
        (GOOD.astype(np.int64), INT, INT),
        (GOOD.astype(np.int32), INT, np.dtype(np.int32)),
        (np.repeat(GOOD, 2, axis=1)[:, ::2], FLOAT, FLOAT),
        (np.asfortranarray(GOOD), FLOAT, FLOAT),
        (np.frombuffer(GOOD.tobytes(), np.float32).reshape(2, 3), FLOAT, FLOAT),  # read-only
    ],
)
def test_numbers_of_the_graphs_type_are_answers(output, declared, dtype):
    found = checked(output, declared)
    assert found.dtype == dtype
    assert found.tolist() == GOOD.tolist()


class Zeroing(Engine):
    """Overwrites its inputs."""

    name = "zeroing"
    inputs = tuple(
        Tensor(name, np.dtype(np.int64), (None, None)) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    outputs = tuple(Tensor(name, FLOAT, (None, None)) for name in ("start_logits", "end_logits"))

    def compile(self, signature):
        def runner(batch):
            batch["input_ids"][...] = 0
            raise AssertionError("it must not get here")

        return runner


def test_an_engine_cannot_write_to_its_inputs(small_squad):
    qsl = BertQSL(build_features(read_squad(small_squad), VOCAB))
    qsl.load([0])
    sut = BertSUT(Zeroing(None, EngineSettings()), qsl)
    with pytest.raises(EngineError, match="zeroing failed to run a batch: assignment destination is read-only"):
        sut.answer(np.array([0]), Shape(1, 384))
