"""Runs with nodes: the answers are those of one process, and nodes that differ are refused."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from small_nodes import Collected, Numbers, issue, make_link, ready

from harness.cluster.local_link import LocalLink
from harness.cluster.messages import DATA, INDICES
from harness.cluster.scenarios import NodesOffline, NodesServer, clustered
from harness.cluster.scheduler import ClusterScheduler
from harness.cluster.system import check_alike
from harness.errors import ConfigError, RunFailed
from harness.files.fingerprint import Fingerprint
from harness.machines import files
from harness.preparing.clustered import prepare_nodes
from harness.preparing.local import prepare
from harness.preparing.node import PREPARE, prepare_node
from harness.preparing.prepared import Preparation
from harness.results.parts import RecordedEngine
from harness.running.nodes import node_records, progress_of
from harness.scenarios import offline
from harness.scenarios.base import BatchFacts, Estimate, WarmUp, find_scenario
from harness.settings.identity import command
from harness.settings.request import RunRequest, resolve
from harness.task.shape import Shape

MODELS = {"bert": "minilm-l6-squad-int8", "resnet50": "efficientnet-lite0-int8"}
CALIBRATION_SAMPLES = {"bert": 6, "resnet50": 8}
DATASETS = {"bert": "sample", "resnet50": "imagenet-synthetic"}


def settings_of(benchmark, scenario="Offline", samples=DATA, **more):
    """One sample in a batch: padding to a neighbour's length changes the last bits of BERT's logits."""
    return resolve(
        RunRequest(
            model=MODELS[benchmark],
            engine="onnxruntime",
            scenario=scenario,
            mode="accuracy",
            dataset=DATASETS[benchmark],
            samples=CALIBRATION_SAMPLES[benchmark],
            options={"max_batch": "1", "streams": "1"},
            tuned=False,
            cluster="threads:1",
            cluster_samples=samples,
            **more,
        )
    )


class Nodes:
    """Three nodes of unequal speed, prepared when they are first asked for."""

    def __init__(self) -> None:
        self.links: list[LocalLink] = []

    def connect(self, number, request):
        while len(self.links) < number:
            place = len(self.links)
            node, said = prepare_node(request, f"node-{place}")
            sut = node._scenario.sut
            answer = sut.answer

            def slowly(indices, shape, answer=answer, seconds=0.02 * place):
                time.sleep(seconds)
                return answer(indices, shape)

            sut.answer = slowly
            self.links.append(LocalLink(node, replace(said, rate=said.rate / (1 + place))))
        return self.links[:number]


@cache
def nodes_of(benchmark, scenario, samples):
    return Nodes()


@cache
def alone(benchmark):
    """The responses of one process, by sample."""
    plain = settings_of(benchmark).model_copy(update={"cluster": None})
    made = prepare(plain, Preparation(quiet=True))
    collected = Collected()
    scheduler = made.scenario.scheduler(collected)
    numbers = issue(scheduler, [made.indices.tolist()])
    scheduler.close()
    assert scheduler.failure is None
    return by_sample(numbers, collected)


def by_sample(numbers, collected):
    assert set(collected.times.values()) == {1}
    assert len(collected.answers) == len(numbers)
    return dict(zip(numbers, (collected.answers[query] for query in sorted(collected.answers)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "samples", "scenario"),
    [
        (1, DATA, "Offline"),
        (2, DATA, "Offline"),
        (3, DATA, "Offline"),
        (2, DATA, "Server"),
        (2, INDICES, "Offline"),
    ],
)
@pytest.mark.parametrize("benchmark", MODELS)
def test_nodes_of_unequal_speed_answer_as_one_process_does(benchmark, number, samples, scenario, monkeypatch):
    monkeypatch.setattr(offline, "_ROUGHLY_SECONDS", 0.1)
    nodes = nodes_of(benchmark, scenario, samples)
    settings = settings_of(benchmark, scenario, samples)
    made = prepare_nodes(settings, Preparation(quiet=True), lambda name, request, beat: nodes.connect(number, request))
    assert made.engine.streams == number
    assert made.description.name == "onnxruntime"
    words = "measured roughly" if scenario == "Offline" else "the streams' rate"
    assert all(words in link.ready.estimate.how for link in made.links)
    collected = Collected()
    scheduler = made.scenario.scheduler(collected)
    one_by_one = [[index] for index in made.indices.tolist()]
    numbers = issue(scheduler, one_by_one if scenario == "Server" else [made.indices.tolist()])
    scheduler.close()
    assert scheduler.failure is None
    assert by_sample(numbers, collected) == alone(benchmark)
    records = node_records(made.links, scheduler)
    assert sum(record.samples for record in records) == len(numbers) == scheduler.counters.completed
    assert {record.host for record in records} == {made.links[0].ready.host}
    assert all(0 < record.round_trip_ms < 1000 for record in records)
    assert progress_of(scheduler).startswith("node-0 ")


@pytest.mark.parametrize("scenario", ["SingleStream", "MultiStream"])
def test_scenarios_with_one_query_at_a_time_are_refused_with_the_reason(scenario):
    with pytest.raises(ConfigError, match=f"{scenario} has one query at a time"):
        settings_of("bert", scenario)
    with pytest.raises(ConfigError, match="one query at a time"):
        clustered(find_scenario(scenario))


def test_threads_cannot_give_an_official_result():
    with pytest.raises(ConfigError, match="only imitates nodes"):
        resolve(RunRequest(engine="onnxruntime", cluster="threads:2", official=True))


@pytest.mark.parametrize("cluster", ["threads:", "threads:0", "threads:two"])
def test_a_number_of_threads_is_needed(cluster):
    settings = settings_of("bert").model_copy(update={"cluster": cluster})
    with pytest.raises(ConfigError, match="threads:N"):
        prepare_nodes(settings, Preparation(quiet=True))


def test_indices_are_marked_everywhere_and_the_command_repeats_the_run():
    settings = settings_of("bert", samples=INDICES)
    assert "working group" in (settings.notice or "")
    assert "working group" not in (settings_of("bert").notice or "")
    assert "--cluster threads:1 --cluster-samples indices" in command(settings)
    assert "cluster" not in command(settings.model_copy(update={"cluster": None}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": "b"}, "node two on far runs different code of the harness"),
        (
            {"model_sha256": "f" * 64},
            "node two on far has a different model \\(ffffffffffff...\\) than node one on here",
        ),
        ({"versions": {"python": "3.12"}}, "different Python \\(3.12\\) than node one on here \\(3.11\\)"),
        ({"versions": {"python": "3.11", "numpy": "2"}}, "node two on far has numpy 2, .* not installed"),
        ({"engine": RecordedEngine(name="none", version="2")}, "different version of the engine"),
        ({"data": "x"}, "different data set"),
    ],
)
def test_nodes_that_differ_are_refused_with_node_and_fact(change, words):
    first = replace(ready("one"), code="a", versions={"python": "3.11"})
    second = replace(first, name="two", host="far")
    check_alike([first, second], "a")
    with pytest.raises(ConfigError, match=words):
        check_alike([first, replace(second, **change)], "a")


def test_links_are_closed_if_the_nodes_do_not_fit():
    closed = []

    class Link(LocalLink):
        def __init__(self) -> None:
            self.name, self.ready = "one", ready()

        def close(self):
            closed.append(self)

    links = [Link(), Link()]
    with pytest.raises(ConfigError, match="different code"):
        prepare_nodes(settings_of("bert"), Preparation(quiet=True), connect=lambda *_: links)
    assert closed == links


def scenario_of(kind, links, **options):
    sut = links[0]._node._scenario.sut
    own = type(sut)()
    own.engine.settings = own.engine.settings.model_copy(update={"max_batch": 4})
    return kind(own, own.qsl.cost(np.arange(own.qsl.count)), 384, 0.13, links, **options)


def test_estimates_are_the_sums_of_the_nodes():
    links = [make_link("a", rate=3000.0), make_link("b", rate=1000.0)]
    links[0].ready = replace(links[0].ready, peak=60.0, slowest=0.2, batches=BatchFacts([Shape(4, 8), Shape(1, 8)]))
    links[1].ready = replace(links[1].ready, peak=20.0, slowest=0.1, batches=BatchFacts([Shape(1, 8)]))
    dealt, server = scenario_of(NodesOffline, links), scenario_of(NodesServer, links)
    listener = SimpleNamespace(ran=lambda: None)
    indices = np.arange(50)
    assert dealt.get_ready(indices, listener) == 0.2
    assert dealt.describe() == BatchFacts([Shape(1, 8), Shape(4, 8)])
    assert server.peak(indices) == 80.0
    assert server.lower(indices, 0.0) == 40.0
    server = scenario_of(NodesServer, links, warm_up=WarmUp(pilots=False))
    assert server.estimate(indices, 20.0, listener).value == 40.0
    links[1].ready = replace(links[1].ready, peak=0.0)
    assert server.peak(indices) == 0.0
    assert server.estimate(indices, 20.0, listener).value == 4000.0
    for link in links:
        link.close()


def test_a_query_is_sized_by_what_the_nodes_reach_together_if_that_is_much_less():
    links = [make_link("a", rate=1e5), make_link("b", rate=1e5)]
    for link in links:
        link.ready = replace(link.ready, estimate=Estimate(2.3e5, "dreamt", 2e5))
        link._node._scenario.sut.delay = 0.004
    dealt = scenario_of(NodesOffline, links)
    dealt._reached = lambda *_: 5000.0
    found = dealt.estimate(np.arange(50), 20.0, SimpleNamespace(ran=lambda: None))
    assert found.per_second == 5000.0
    assert found.value == pytest.approx(1.15 * 5000)
    assert "together" in found.how
    dealt._reached = lambda *_: 3.9e5
    assert dealt.estimate(np.arange(50), 20.0, SimpleNamespace(ran=lambda: None)).per_second == 4e5
    del dealt._reached
    assert 0 < dealt._reached(np.arange(50), 100.0, SimpleNamespace(ran=lambda: None)) < 3000
    for link in links:
        link.close()


def test_nothing_is_recorded_of_a_scheduler_without_nodes():
    assert node_records((), SimpleNamespace()) == ()
    assert progress_of(SimpleNamespace()) == ""


def test_the_progress_of_many_nodes_is_one_line():
    links = [make_link(f"n{number}") for number in range(9)]
    scheduler = ClusterScheduler.offline(Numbers.full(), links, Collected())
    assert progress_of(scheduler) == ", ".join([*(f"n{number} 0" for number in range(6)), "3 more 0"])
    for link in links:
        link.close()


@pytest.fixture
def needed(tmp_path):
    """A model of two files, and one other file."""
    there = tmp_path / "there"
    there.mkdir()
    found = []
    for name, content in (("model.onnx", b"m"), ("weights.bin", b"w"), ("vocab.txt", b"v")):
        (there / name).write_bytes(content)
        group = "v" if name == "vocab.txt" else "m"
        found.append((f"{group}/{name}", there / name, Fingerprint.of(there / name).sha256))
    return found


def test_files_that_are_in_place_are_used_there(needed, tmp_path):
    assert files.missing(needed, tmp_path / "cache") == []
    assert files.located(needed, tmp_path / "cache") == {path: path for _, path, _ in needed}


def test_a_missing_file_is_sent_once_with_all_that_belong_beside_it(needed, tmp_path):
    cache = tmp_path / "cache"
    content = {name: path.read_bytes() for name, path, _ in needed}
    needed[1][1].write_bytes(b"other weights")
    assert files.missing(needed, cache) == ["m/model.onnx", "m/weights.bin"]
    with pytest.raises(ConfigError, match=r"model.onnx is missing on this node"):
        files.located(needed, cache)
    for name, _, digest in needed[:2]:
        files.store(name, digest, [content[name]], cache)
    assert files.missing(needed, cache) == []
    found = files.located(needed, cache)
    assert found[needed[0][1]].read_bytes() == b"m"
    assert found[needed[0][1]].parent == found[needed[1][1]].parent == cache / "m"
    assert found[needed[2][1]] == needed[2][1]


def test_a_file_that_arrives_damaged_or_outside_is_refused(needed, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(RunFailed, match="damaged"):
        files.store("m/model.onnx", needed[0][2], [b"not it"], cache)
    assert not (cache / "m" / "model.onnx").exists()
    with pytest.raises(ConfigError, match="not a name below"):
        files.store("../model.onnx", needed[0][2], [b"m"], cache)


def test_the_request_names_a_function_that_exists():
    module, name = PREPARE.split(":")
    assert (prepare_node.__module__, prepare_node.__name__) == (module, name)
