"""What `harness cluster check` says of facts and measurements."""

from __future__ import annotations

from dataclasses import replace

from harness.machines.check import Facts, NodeMeasurements, between, of_node
from harness.terminal.findings import BAD, GOOD, WARNING, as_json, lines, summary

MINE = Facts("here", "A CPU", 8, "c" * 64, {"python": "3.11.7", "numpy": "1.26.4"}, {"m.onnx": "1" * 64})
MEASURED = NodeMeasurements(0.0008, 0.002, 1e9, 2e9, 0.001, 0.0, 8.0)


def found(theirs=MINE, measured=MEASURED) -> dict[str, tuple[str, str]]:
    """Level and text of each finding, by its subject."""
    lines = of_node("b", theirs, MINE, measured)
    assert {line.node for line in lines} == {"b"}
    return {line.subject: (line.level, f"{line.what} -> {line.cure}") for line in lines}


def test_a_machine_like_this_one_is_good():
    assert {level for level, _ in found().values()} == {GOOD}
    assert found()["bandwidth"][1].startswith("1,000 MB/s to it, 2,000 MB/s from it")
    assert "0.80 ms" in found()["round trip"][1]


def test_other_code_and_versions_are_bad_and_named():
    theirs = replace(MINE, code="d" * 64, versions={"python": "3.12.1"})
    lines = found(theirs)
    assert lines["code"][0] == BAD
    assert "dddddddddddd instead of cccccccccccc" in lines["code"][1]
    assert lines["versions"][0] == BAD
    assert "python 3.12.1 instead of 3.11.7, numpy missing instead of 1.26.4" in lines["versions"][1]


def test_another_file_of_a_model_is_a_warning_but_a_missing_one_is_sent():
    assert found(replace(MINE, models={"m.onnx": "2" * 64}))["models"][0] == WARNING
    assert "models" not in found(replace(MINE, models={}))


def test_slow_networks_clocks_and_neighbours_are_warnings():
    slow = NodeMeasurements(0.005, 0.02, 1e6, 1e6, -3.0, 2.0, 8.0)
    lines = found(measured=slow)
    assert {subject for subject, (level, _) in lines.items() if level == WARNING} == {
        "round trip",
        "clock",
        "other processes",
    }
    assert "3.00 s behind this machine's" in lines["clock"][1]
    assert "other processes use 2.00 of 8 cores" in lines["other processes"][1]


def test_machines_that_differ_are_a_warning_for_all_together():
    assert [line.level for line in between({"a": MINE, "b": MINE})] == [GOOD]
    assert "2 with 16 cores" in between({"a": MINE, "b": MINE})[0].what
    assert [line.level for line in between({"a": MINE, "b": replace(MINE, cores=4)})] == [GOOD, WARNING]
    assert between({}) == []


def test_each_line_begins_with_its_node():
    found = [*of_node("one", MINE, MINE, MEASURED)[:2], *between({"one": MINE})]
    assert [text for _, text in lines(found)] == [
        "one  machine  here: A CPU, 8 cores",
        f"one  code     same as here ({'c' * 12})",
        "     nodes    1 with 8 cores",
    ]
    assert as_json(found)["findings"][-1] == {
        "level": "good",
        "node": "",
        "subject": "nodes",
        "what": "1 with 8 cores",
        "cure": "",
    }


def test_the_summary_counts():
    found = of_node("b", replace(MINE, code="d" * 64), MINE, replace(MEASURED, ahead=1.0))
    assert summary(found) == "1 bad, 1 warning: fix the errors first."
    assert summary(of_node("b", MINE, MINE, MEASURED)) == "nothing blocks a run; 0 warnings."
