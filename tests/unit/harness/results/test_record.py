"""run.json: what is written, and what is read of other versions."""

from __future__ import annotations

import json

import pytest
from finished import run_folder
from pydantic import ValidationError

from harness.results.parts import RecordedCores, RecordedEngine, RecordedMachine
from harness.results.record import RecordedMetric, RecordedResult, read_record

RESULT = {
    "metric": RecordedMetric(name="throughput", value=1.0, unit="samples/s"),
    "duration_s": 1.0,
    "samples": 1,
    "accuracy": None,
}


def changed(folder, part=None, **changes):
    """The content of the record in that folder, after these changes of it or of a part of it."""
    values = json.loads((folder / "run.json").read_text())
    (values[part] if part else values).update(changes)
    (folder / "run.json").write_text(json.dumps(values))
    return values


def test_a_name_that_is_not_a_field_is_refused_where_a_record_is_made():
    assert RecordedResult(**RESULT, energy=None).values()["energy"] is None
    for name in ("energi", "estimated_target_qps"):
        with pytest.raises(ValidationError, match=f"RecordedResult has no {name}"):
            RecordedResult(**RESULT, **{name: None})
    with pytest.raises(ValidationError, match="RecordedCores has no cores"):
        RecordedCores(own=1.0, others=0.0, stolen=0.0, of=2.0, disturbed=False, cores=2)


def test_only_an_engine_adds_names_of_its_own():
    made = RecordedEngine(name="mine", spinning=True)
    assert made.values() == {"name": "mine", "spinning": True}
    assert RecordedEngine.of(made.values()) == made


def test_names_of_other_versions_are_kept_when_a_record_is_read(tmp_path):
    folder = run_folder(tmp_path)
    changed(folder, "result", energi=3)
    changed(folder, "machine", sockets=[2])
    values = changed(folder, estimated_power=7.0, agreement={"with": "mine", "differences": [], "why": "x"})
    assert read_record(folder).values() == values


@pytest.mark.parametrize("key", ["target_qps", "target_latency"])
@pytest.mark.parametrize("value", [75.5, 80, None])
def test_the_value_that_the_harness_estimated_is_read_by_its_key_of_user_conf(tmp_path, key, value):
    folder = run_folder(tmp_path)
    assert read_record(folder).estimated is None
    values = changed(folder, **{f"estimated_{key}": value, f"missed_{key}": None})
    found = read_record(folder)
    assert found.estimated == value
    assert found.values() == values


def test_a_record_of_this_machine_is_read_as_it_was_written():
    here = RecordedMachine.here()
    assert RecordedMachine.model_validate_json(json.dumps(here.values())) == here
    assert here.values().keys() == RecordedMachine.model_fields.keys()
    assert "numpy" in here.packages


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
    folder = run_folder(tmp_path)
    changed(folder, "model", **changes)
    record = read_record(folder)
    assert record.model.random == random
    assert ("random" in record.values()["model"]) == ("random" in changes)  # what was read is not changed
