from __future__ import annotations

import numpy as np
import pytest

from bert.outputs import match_outputs
from harness.errors import ConfigError
from harness.graph import Tensor
from harness.task.base import ASSUMED, GIVEN


def tensors(*names: str) -> list[Tensor]:
    return [Tensor(name, np.dtype(np.float32), (None, None)) for name in names]


@pytest.mark.parametrize(
    ("names", "start", "end"),
    [
        (("end_logits", "start_logits"), "start_logits", "end_logits"),
        (("output_start_logits", "output_end_logits"), "output_start_logits", "output_end_logits"),
        (("endLogits", "startLogits"), "startLogits", "endLogits"),
        (("pooled", "END", "START"), "START", "END"),
    ],
)
def test_names_that_say_which_output_is_which_decide(names, start, end):
    assert match_outputs(tensors(*names)) == (start, end, "from their names")


@pytest.mark.parametrize(
    "names",
    [
        ("unstack:0", "unstack:1"),
        ("Identity", "Identity_1"),
        ("logits", "logits.1"),
        ("1530", "1532"),
        ("output_9", "output_10"),
        ("extended_0", "extended_1"),
        ("bert/q8/unstack:0", "bert/q8/unstack:1"),
    ],
)
def test_numbered_outputs_come_in_the_order_of_their_numbers_and_that_is_an_assumption(names):
    for listed in (names, names[::-1]):
        assert match_outputs(tensors(*listed)) == (*names, ASSUMED)


def test_other_outputs_come_in_the_order_of_the_graph_and_that_is_an_assumption():
    assert match_outputs(tensors("b", "a")) == ("b", "a", ASSUMED)


def test_the_user_can_say_which_output_is_which():
    assert match_outputs(tensors("a", "b", "c"), "c, a") == ("c", "a", GIVEN)
    assert match_outputs(tensors("start", "end"), "end,start") == ("end", "start", GIVEN)


@pytest.mark.parametrize("given", ["a", "a,", "a,a", "a,d", "a,b,c"])
def test_names_that_the_graph_does_not_have_are_refused(given):
    with pytest.raises(ConfigError, match="START,END; the model's outputs are a float32"):
        match_outputs(tensors("a", "b", "c"), given)


@pytest.mark.parametrize("names", [("a", "b", "c"), ("start_a", "start_b", "end"), ("logits",)])
def test_outputs_that_cannot_be_distinguished_are_refused_and_the_advice_helps(names):
    with pytest.raises(ConfigError, match="start and end logits are expected") as error:
        match_outputs(tensors(*names))
    assert ("--set outputs=START,END" in str(error.value)) == (len(names) > 1)
    if len(names) > 1:
        assert match_outputs(tensors(*names), ",".join(names[:2]))[:2] == names[:2]
