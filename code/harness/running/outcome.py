"""The outcome of a test: its record, and the result as printed."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from socket import gethostname

from pydantic import JsonValue
from rich.table import Table

from harness import __version__
from harness.catalog.manifests import Dataset
from harness.host import console, machine
from harness.host.clock import Timing
from harness.host.energy import Energy
from harness.host.files import shown
from harness.host.usage import CoreUse
from harness.loadgen.logs import Detail
from harness.preparing.agreement import Agreement
from harness.preparing.conversion import Conversion
from harness.results.record import Identity, Record, record_text
from harness.scenarios.base import Metric, Scenario
from harness.scheduling.base import Counters
from harness.settings.identity import code_digest, command
from harness.settings.run import RunSettings
from harness.task.base import Accuracy, Choice

_PRINTED_KEYS = ("scenario", "mode", "audit", "for_submission", "notice", "model", "dataset", "engine", "result")
"""The keys of the record that `--json` prints."""


@dataclass(frozen=True)
class Outcome:
    """A completed test, valid or not."""

    settings: RunSettings
    dataset: Dataset
    samples: int
    """Number of samples in the data set that was used."""
    samples_sha256: str | None
    """Over the files of the samples; None if the data set's own file contains them."""
    identity: Identity
    engine: Mapping[str, object]
    """The engine's description of itself."""
    conversion: Conversion | None
    """The file that the engine read in place of the user's, if any."""
    scenario: Scenario
    estimated: float | None
    """An estimate for the scenario's key of user.conf, if the user sets none."""
    counters: Counters
    timing: Timing
    detail: Detail
    metric: Metric
    accuracy: Accuracy | None
    agreement: Agreement | None
    valid: bool
    reasons: tuple[str, ...]
    """The reasons why it is not valid."""
    ended: str
    """When the test ended, in ISO 8601."""
    reference: Mapping[str, str] | None = None
    """For a compliance test: sha256 of the logs that it was compared with."""
    choices: tuple[Choice, ...] = ()
    """The choices that change the score, and who made them."""
    doubts: tuple[str, ...] = ()
    """Signs that one of these choices is wrong."""
    cores: CoreUse | None = None
    """Who used the cores during the test; None if unknown."""
    energy: Energy | None = None
    """The energy that the machine used during the test; None if unknown."""
    nodes: tuple[Mapping[str, object], ...] = ()
    """The nodes that computed, and the part of each, as `harness.results.record.RecordedNode`."""

    @cached_property
    def record(self) -> Record:
        """The content of run.json."""
        settings, counters, accuracy = self.settings, self.counters, self.accuracy
        values: dict[str, object] = {
            "harness": __version__,
            "time": self.ended,
            "command": command(settings),
            "code": code_digest(),
            "for_submission": settings.official and not settings.rehearsal,
            "rehearsal": settings.rehearsal,
            "notice": settings.notice,
            "scenario": settings.scenario,
            "mode": settings.mode,
            "audit": settings.audit,
            "identity": self.identity.model_dump(),
            "model": settings.model.model_dump(),
            "dataset": {**self.dataset.model_dump(), "samples_used": self.samples, **self._samples},
            "tuned": settings.tuned,
            "engine_choice": settings.engine_choice,
            "benchmark_settings": settings.benchmark_settings.model_dump(),
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "doubts": self.doubts,
            "engine": self.engine,
            **self.scenario.describe(),
            f"estimated_{self.scenario.key}": self.estimated,
            f"missed_{self.scenario.key}": settings.missed,
            "result": {
                "metric": dataclasses.asdict(self.metric),
                "latency_ms": self.detail.latencies,
                "duration_s": self.detail.duration,
                "loadgen_s": self.detail.elapsed,
                "monotonic_s": round(self.timing.shortest, 3),
                "samples": counters.completed,
                "batches": counters.batches,
                "cost": counters.real,
                "cost_unit": self.scenario.sut.unit,
                "padded_to_real": counters.padding_ratio,
                "accuracy": {name: float(value) for name, value in accuracy.metrics.items()} if accuracy else None,
                "accuracy_scope": accuracy.scope if accuracy else None,
                "cores": _cores(self.cores),
                "energy": dataclasses.asdict(self.energy) if self.energy else None,
            },
            "loadgen": {key: self.detail.values.get(key) for key in ("loadgen_version", "effective_target_qps")},
            "machine": machine.describe(),
            "valid": self.valid,
            "reasons": self.reasons,
        }
        if self.conversion:
            values["converted"] = self.conversion.record()
        if self.agreement:
            values["agreement"] = self.agreement.record()
        if self.nodes:
            hosts = {node["host"] for node in self.nodes} | {gethostname()}
            values |= {"nodes": self.nodes, "machines": len(hosts), "cluster_samples": settings.cluster_samples}
        if self.reference is not None:
            values["reference"] = self.reference
        return Record.model_validate_json(record_text(values))

    @property
    def _samples(self) -> dict[str, str]:
        return {"samples_sha256": self.samples_sha256} if self.samples_sha256 else {}

    def show(self, logs: Path) -> None:
        """Print the outcome as the settings specify; ``logs`` is the folder that holds it."""
        if self.settings.shown == "json":
            values = self.record.values()
            printed: dict[str, JsonValue | Path] = {key: values[key] for key in _PRINTED_KEYS}
            about = {"agreement": values.get("agreement"), "valid": self.valid, "reasons": list(self.reasons)}
            about |= {name: values.get(name) for name in ("choices", "doubts")}
            about |= {name: values[name] for name in ("nodes",) if name in values}
            console.print_json({**printed, **about, "logs": logs})
        elif self.settings.shown == "table":
            table = self._table()
            console.print_table(table)
            # Not in the table: a terminal would fold a long path, which could then not be copied.
            label = max(len(str(cell)) for cell in table.columns[0].cells)
            console.out.print(f"{'logs':{label}}  {shown(logs)}", soft_wrap=True)

    def _table(self) -> Table:
        settings, detail, counters = self.settings, self.detail, self.counters
        table = Table(show_header=False, box=None, pad_edge=False)
        add = table.add_row
        add("scenario", f"{settings.scenario}, {settings.test}")
        add("engine", self.record.engine.title)
        add("model", settings.model.title)
        count = f"{counters.completed:,} {'in' if self.accuracy else 'samples in'} {counters.batches:,} batches"
        if self.accuracy:
            for name, value in self.accuracy.metrics.items():
                add(name, f"{value:.3f} %")
            add("scored", self.accuracy.scope)
            add("samples", count)
        else:
            add(self.metric.name, str(self.metric))
            if detail.bound:
                add("latency", f"{detail.latencies['99.00']:,.2f} ms at the 99th percentile, bound {detail.bound:g} ms")
            add("duration", f"{detail.duration:.1f} s, {count}")
            if energy := self.record.result.energy:
                add("energy", energy.words(counters.completed))
        if counters.padding_ratio:
            padded = f"{counters.padded:,} {self.scenario.sut.unit} computed for {counters.real:,}"
            add("padding", f"{counters.padding_ratio - 1:.1%} ({padded})")
        for assumed in (True, False):
            chosen = "; ".join(str(choice) for choice in self.choices if choice.assumed == assumed)
            if chosen:
                add(*("assumed", chosen) if assumed else ("known", chosen), style="yellow" if assumed else "")
        # LoadGen judges only performance runs as VALID or INVALID.
        verdict = "INVALID" if not self.valid else "complete" if self.accuracy else "VALID"
        add("result", verdict, style="bold green" if self.valid else "bold red")
        for reason in self.reasons:
            add("because", reason)
        for node in self.record.nodes:
            add(f"node {node.name}", node.part)
        if self.record.disturbed:
            again = "" if self.valid else "; run it again without them"
            add("disturbed", f"{self.record.disturbed}: {self.scenario.suffers}{again}", style="yellow")
        for notice in (*self.doubts, *settings.notices):
            add("note", notice, style="yellow")
        if settings.official and not self.valid:
            add("note", "Not moved to results/, which holds only valid runs.", style="yellow")
        return table


def _cores(use: CoreUse | None) -> dict[str, object] | None:
    """The content of `harness.results.parts.RecordedCores`."""
    if use is None:
        return None
    found = {"own": use.own, "others": use.others, "stolen": use.stolen, "of": use.cores}
    return {**{name: round(cores, 3) for name, cores in found.items()}, "disturbed": use.disturbed}
