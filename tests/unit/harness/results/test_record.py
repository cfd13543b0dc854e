"""run.json: what is written, and what is read of other versions."""

from __future__ import annotations

import json

import pytest
from finished import run_folder

from harness.results.record import read_record


def rewritten(folder, **changes):
    """The record in that folder, after these changes of its model."""
    values = json.loads((folder / "run.json").read_text())
    values["model"] |= changes
    (folder / "run.json").write_text(json.dumps(values))
    return read_record(folder)


@pytest.mark.parametrize(
    ("changes", "random"),
    [
        ({"caveat": ""}, False),  # as versions up to 0.2 wrote it
        ({"caveat": "random weights, seed 5"}, True),
        ({"caveat": "seed 5", "random": True}, True),
        ({"caveat": "", "random": False}, False),
    ],
)
def test_records_of_all_versions_say_whether_weights_were_random(tmp_path, changes, random):
    record = rewritten(run_folder(tmp_path), **changes)
    assert record.model.random == random
    assert ("random" in record.values()["model"]) == ("random" in changes)  # what was read is not changed
