"""The record of a test: the keys of run.json, which users' scripts read."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.catalog.datasets import find_dataset
from harness.host.clock import Timing
from harness.host.energy import Energy
from harness.host.usage import CoreUse
from harness.loadgen.logs import Detail
from harness.results.agreement import Agreement
from harness.results.parts import RecordedConversion, RecordedEngine, RecordedMachine, RecordedNode
from harness.running.outcome import Outcome
from harness.scenarios.base import BatchFacts, Metric, StreamChoice
from harness.scheduling.base import Counters
from harness.scheduling.limits import LimitChoice, Limits
from harness.settings.identity import identity
from harness.settings.request import RunRequest, resolve
from harness.task.base import Choice
from harness.task.shape import Shape

ALWAYS = {
    "harness", "time", "command", "code", "for_submission", "rehearsal", "notice", "scenario", "mode", "audit",
    "identity", "model", "dataset", "tuned", "engine_choice", "benchmark_settings", "choices", "doubts", "engine",
    "shapes", "result", "loadgen", "machine", "valid", "reasons",
}  # fmt: skip
ENGINE = RecordedEngine(name="null", delay_ms=0.5)


def outcome(batches=None, latency=False, **changes) -> Outcome:
    """The outcome of a test whose scenario forms these batches."""
    settings = resolve(RunRequest(engine="null", mode="performance", scenario="Server"))
    dataset = find_dataset("bert", None)
    scenario = SimpleNamespace(
        describe=lambda: batches or BatchFacts(), latency=latency, sut=SimpleNamespace(unit="tokens")
    )
    values = {"loadgen_version": "6.0.17", "result_99.00_percentile_latency_ns": 2_000_000}
    made = Outcome(
        settings=settings,
        dataset=dataset,
        samples=7,
        samples_sha256=None,
        identity=identity(settings),
        engine=ENGINE,
        conversion=None,
        scenario=scenario,
        estimated=75.5,
        counters=Counters(completed=9, batches=3, real=10, padded=15),
        timing=Timing(1.23456, 1.5, 0.0),
        detail=Detail(values, ()),
        metric=Metric("throughput", 9.5, "samples/s"),
        accuracy=None,
        agreement=None,
        valid=True,
        reasons=(),
        ended="2026-11-25T12:00:00+0000",
    )
    return replace(made, **changes)


@pytest.mark.parametrize(("latency", "key"), [(False, "target_qps"), (True, "target_latency")])
def test_a_plain_test_has_these_keys_and_no_others(latency, key):
    record = outcome(latency=latency).record
    values = record.values()
    assert values.keys() == ALWAYS | {f"estimated_{key}", f"missed_{key}"}
    assert (values[f"estimated_{key}"], values[f"missed_{key}"]) == (75.5, None)
    assert record.estimated == 75.5
    assert values["result"] == {
        "metric": {"name": "throughput", "value": 9.5, "unit": "samples/s"},
        "latency_ms": {"99.00": 2.0},
        "duration_s": None,
        "loadgen_s": None,
        "monotonic_s": 1.235,
        "samples": 9,
        "batches": 3,
        "cost": 10,
        "cost_unit": "tokens",
        "padded_to_real": 1.5,
        "accuracy": None,
        "accuracy_scope": None,
        "cores": None,
        "energy": None,
    }
    assert values["dataset"].keys() == {"name", "path", "sha256", "official", "samples", "metric", "samples_used"}
    assert values["engine"] == {"name": "null", "delay_ms": 0.5}


def test_what_only_some_tests_have_is_recorded_beside_it():
    one, two = Shape(1, 8), Shape(4, 8)
    batches = BatchFacts(
        [one, two], StreamChoice(2, "it is fast"), LimitChoice(Limits(4, 64), {Limits(4, 64): 0.5}, "x"), {one: 0.25}
    )
    machine = RecordedMachine.here()
    node = RecordedNode(
        name="a", host="far", machine=machine, model_sha256="m", code="c", streams=1, rate=1.0, engine=ENGINE
    )
    values = outcome(
        batches,
        conversion=SimpleNamespace(record=lambda: RecordedConversion(form="integer", layers="2 of 2", sha256="s")),
        agreement=Agreement({two: 0.04}),
        nodes=(node,),
        reference={"performance": "ab"},
        samples_sha256="cd",
        cores=CoreUse(1.00049, 0.5, 0.0, 2),
        energy=Energy(120.0, 2.0, ("package-0",)),
        choices=(Choice("casing", "cased", "assumed"),),
        doubts=("odd",),
        valid=False,
        reasons=("late",),
    ).record.values()
    assert values["shapes"] == [[1, 8], [4, 8]]
    assert values["streams"] == {"streams": 2, "why": "it is fast"}
    assert values["limits"] == {"max_batch": 4, "max_tokens": 64, "measured": [[4, 64, 2.0]], "why": "x"}
    assert values["measured_seconds"] == [[1, 8, 0.25]]
    assert values["converted"] == {"form": "integer", "layers": "2 of 2", "sha256": "s"}
    assert values["agreement"] == {"with": "onnxruntime", "differences": [[4, 8, 0.04]]}
    assert values["nodes"] == [node.values()]
    assert (values["machines"], values["cluster_samples"]) == (2, "data")
    assert values["reference"] == {"performance": "ab"}
    assert values["dataset"]["samples_sha256"] == "cd"
    cores = {"own": 1.0, "others": 0.5, "stolen": 0.0, "of": 2.0, "disturbed": True}
    assert values["result"]["cores"] == cores
    assert values["result"]["energy"] == {"joules": 120.0, "seconds": 2.0, "zones": ["package-0"]}
    assert values["choices"] == [{"name": "casing", "value": "cased", "source": "assumed"}]
    assert (values["doubts"], values["valid"], values["reasons"]) == (["odd"], False, ["late"])


def test_bytes_of_a_path_that_are_not_utf8_are_recorded_as_readable_text():
    made = outcome()
    path = made.dataset.path.parent / os.fsdecode(b"d\xfcten.json")
    dataset = made.dataset.model_copy(update={"path": path, "name": path.stem})
    found = replace(made, dataset=dataset).record.dataset
    assert found.name == r"d\xfcten"
    assert found.path.endswith(r"/d\xfcten.json")
