"""What records, reports and packages say of several nodes."""

from __future__ import annotations

import csv
import io
import json

import pytest
from finished import found, run_folder
from official_runs import SCENE, change, make_runs, packaged

from harness.descriptions.description import machines_of
from harness.errors import CheckFailed
from harness.machines.hosts import Host, Hosts
from harness.report import facts, text
from harness.report.page import page
from harness.results.record import Record, first_difference, read_record

MACHINE = {"packages": {"numpy": "1.26"}, "python": "3.11", "os": "Linux", "cpu": "CPU", "cores": 2}


def node(name, host, **changes):
    return {
        "name": name,
        "host": host,
        "machine": MACHINE,
        "model_sha256": "0" * 64,
        "code": "1" * 64,
        "streams": 2,
        "rate": 1000.0,
        "engine": {"name": "null", "streams": 2},
        "samples": 1500,
        "batches": 400,
        "idle_s": 0.25,
        "ended_s": 19.875,
        "cores_busy": 1.9,
        **changes,
    }


NODES = [node("a", "one"), node("b", "<two>", samples=500, cores_busy=None)]


@pytest.fixture
def runs(tmp_path):
    folder = run_folder(tmp_path / "runs", scenario="Offline")
    run_folder(tmp_path / "runs", scenario="Offline", second=11)
    change(folder, nodes=NODES, machines=3, cluster_samples="data")
    return found(tmp_path / "runs", last=2)


def test_a_report_shows_the_nodes_side_by_side_in_every_format(runs):
    rows = facts.nodes(runs[0])
    assert rows[0] == ["node", "a", "b"]
    assert ["samples", "1,500", "500"] in rows
    assert ["idle", "0.25 s", "0.25 s"] in rows
    assert ["cores busy", "1.90", ""] in rows
    assert not any(row[0] == "round trip" for row in rows)
    assert dict(facts.facts(runs[0]))["nodes"] == "2 on 2 hosts; samples were sent to them"
    assert "<td>1,500</td><td>500</td>" in page(runs)
    assert "&lt;two&gt;" in page(runs)
    assert "| samples | 1,500 | 500 |" in text.as_markdown(runs)
    values = json.loads(text.as_json(runs))
    assert values[0]["nodes"] == NODES
    assert values[1]["nodes"] == []
    assert [row["nodes"] for row in csv.DictReader(io.StringIO(text.as_csv(runs)))] == ["2", ""]


def test_a_run_on_one_machine_shows_no_nodes(runs):
    assert facts.nodes(runs[1]) == []
    assert "nodes" not in dict(facts.facts(runs[1]))
    assert 'id="nodes-' not in page(runs[1:])


def test_runs_of_one_result_need_the_same_nodes(runs, tmp_path):
    first = runs[0].record

    def other(**changes):
        return Record.model_validate_json(json.dumps(first.values() | changes))

    again = [node("b", "x", samples=9), node("a", "y", ended_s=1.0)]
    assert first_difference(first, other(nodes=again)) is None
    assert first_difference(first, other(nodes=NODES[:1])) == "number of nodes"
    assert first_difference(first, other(machines=2)) == "number of nodes"
    assert first_difference(first, other(nodes=[NODES[0], node("b", "x", streams=1)])) == "node"
    assert first_difference(first, other(cluster_samples="indices")) == "kind of data sent to the nodes"
    assert first_difference(first, runs[1].record) == "number of nodes"


@pytest.fixture
def tree(tmp_path):
    """One official result, of three machines."""
    layout = make_runs(tmp_path / "repository")
    for folder in layout.root.rglob("run.json"):
        change(folder.parent, nodes=NODES, machines=3, cluster_samples="data")
    return layout


def test_a_closed_package_of_nodes_is_refused(tree, tmp_path):
    with pytest.raises(CheckFailed, match=r"ran on 2 nodes, which the closed division cannot have .* DIVISION=open"):
        packaged(tree, tmp_path / "out")


def test_the_number_of_nodes_and_the_network_are_those_of_the_runs(tree, tmp_path):
    path = tree.system_file(SCENE.system)
    with pytest.raises(CheckFailed) as refused:
        packaged(tree, tmp_path / "out", "open")
    assert f"{path} has number_of_nodes 1, but resnet50 Offline ran on 3: correct it" in str(refused.value)
    assert f"{path} has host_networking_topology N/A, but 3 machines are networked" in str(refused.value)
    values = json.loads(path.read_text()) | {"number_of_nodes": "3", "host_networking_topology": "one switch"}
    path.write_text(json.dumps(values))
    assert packaged(tree, tmp_path / "out", "open").results
    change(tree.accuracy(SCENE), nodes=NODES[:1])
    assert read_record(tree.accuracy(SCENE)).nodes[0].part.startswith("1,500 samples in 400 batches, idle 0.25 s")
    with pytest.raises(CheckFailed, match="with another number of nodes"):
        packaged(tree, tmp_path / "out", "open")


def test_a_cluster_says_how_many_machines_a_system_has():
    far = [Host(address="198.51.100.1"), Host(address="203.0.113.9")]  # addresses that nobody has
    assert machines_of(Hosts(local=2)) == {"number_of_nodes": "1"}
    assert machines_of(Hosts(nodes=far)) == {"number_of_nodes": "3"}
    assert machines_of(Hosts(nodes=[far[0], Host(address="127.0.0.2")])) == {"number_of_nodes": "2"}
    assert machines_of(Hosts(address="198.51.100.1:6379")) == {}
