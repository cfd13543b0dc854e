"""The outcome of a test: its record, and the result as printed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from socket import gethostname

from pydantic import JsonValue
from rich.table import Table

from harness import __version__
from harness.catalog.manifests import Dataset
from harness.files.disk import shown
from harness.host.clock import Timing
from harness.host.energy import Energy
from harness.host.usage import CoreUse
from harness.loadgen.logs import Detail
from harness.preparing.conversion import Conversion
from harness.results.agreement import Agreement
from harness.results.parts import (
    RecordedCores,
    RecordedEnergy,
    RecordedEngine,
    RecordedLimits,
    RecordedMachine,
    RecordedNode,
    RecordedStreams,
    record_text,
    recorded_seconds,
    recorded_shapes,
)
from harness.results.record import (
    Identity,
    Record,
    RecordedChoice,
    RecordedDataset,
    RecordedMetric,
    RecordedModel,
    RecordedResult,
)
from harness.scenarios.base import BatchFacts, Metric, Scenario
from harness.scheduling.base import Counters
from harness.settings.identity import code_digest, command
from harness.settings.run import RunSettings
from harness.task.base import Accuracy, Choice
from harness.terminal import console

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
    engine: RecordedEngine
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
    nodes: tuple[RecordedNode, ...] = ()
    """The nodes that computed, and the part of each."""

    @cached_property
    def record(self) -> Record:
        """The content of run.json."""
        settings, batches = self.settings, self.scenario.describe()
        made = Record(
            harness=__version__,
            time=self.ended,
            command=command(settings),
            code=code_digest(),
            for_submission=settings.official and not settings.rehearsal,
            rehearsal=settings.rehearsal,
            notice=settings.notice,
            scenario=settings.scenario,
            mode="accuracy" if settings.accuracy else "performance",
            audit=settings.audit,
            identity=self.identity,
            model=RecordedModel.of(settings.model),
            dataset=self._dataset,
            tuned=str(settings.tuned) if settings.tuned else None,
            engine_choice=settings.engine_choice,
            benchmark_settings=settings.benchmark_settings.model_dump(mode="json"),
            choices=[RecordedChoice.of(choice) for choice in self.choices],
            doubts=list(self.doubts),
            engine=self.engine,
            shapes=recorded_shapes(batches.shapes),
            result=self._result,
            loadgen={key: self.detail.values.get(key) for key in ("loadgen_version", "effective_target_qps")},
            machine=RecordedMachine.here(),
            valid=self.valid,
            reasons=list(self.reasons),
        )
        self._add_sizing(made)
        self._add_parts(made, batches)
        return Record.model_validate_json(record_text(made.values()))  # as it will be read: paths are valid text

    def _add_sizing(self, made: Record) -> None:
        """Add the value for the scenario's key of user.conf, under a name with that key."""
        if self.scenario.latency:
            made.estimated_target_latency, made.missed_target_latency = self.estimated, self.settings.missed
        else:
            made.estimated_target_qps, made.missed_target_qps = self.estimated, self.settings.missed

    def _add_parts(self, made: Record, batches: BatchFacts) -> None:
        """Add what only some tests have: without it, run.json lacks the key."""
        if batches.streams:
            made.streams = RecordedStreams.of(batches.streams)
        if batches.limits:
            made.limits = RecordedLimits.of(batches.limits)
        if batches.seconds is not None:
            made.measured_seconds = recorded_seconds(batches.seconds)
        if self.conversion:
            made.converted = self.conversion.record()
        if self.agreement:
            made.agreement = self.agreement.record()
        if self.nodes:
            made.nodes = list(self.nodes)
            made.machines = len({node.host for node in self.nodes} | {gethostname()})
            made.cluster_samples = self.settings.cluster_samples
        if self.reference is not None:
            made.reference = dict(self.reference)

    @property
    def _dataset(self) -> RecordedDataset:
        dataset = self.dataset
        made = RecordedDataset(
            name=dataset.name,
            path=str(dataset.path),
            sha256=dataset.sha256,
            official=dataset.official,
            samples=dataset.samples,
            metric=dataset.metric,
            samples_used=self.samples,
        )
        if self.samples_sha256:
            made.samples_sha256 = self.samples_sha256
        return made

    @property
    def _result(self) -> RecordedResult:
        counters, detail, accuracy = self.counters, self.detail, self.accuracy
        return RecordedResult(
            metric=RecordedMetric.of(self.metric),
            latency_ms=detail.latencies,
            duration_s=detail.duration,
            loadgen_s=detail.elapsed,
            monotonic_s=round(self.timing.shortest, 3),
            samples=counters.completed,
            batches=counters.batches,
            cost=counters.real,
            cost_unit=self.scenario.sut.unit,
            padded_to_real=counters.padding_ratio,
            accuracy={name: float(value) for name, value in accuracy.metrics.items()} if accuracy else None,
            accuracy_scope=accuracy.scope if accuracy else None,
            cores=RecordedCores.measured(self.cores) if self.cores else None,
            energy=RecordedEnergy.measured(self.energy) if self.energy else None,
        )

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
