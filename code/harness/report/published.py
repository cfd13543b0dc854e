"""The published table, with the results of finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.catalog import manifests
from harness.report.facts import metric_text
from harness.results.finished import Finished


@dataclass(frozen=True)
class ReproducedResult:
    """The result of one run for a row of the published table."""

    number: int
    """The number of the run, from 1."""
    text: str
    ratio: str
    """Relative to the published value."""
    remark: str


@dataclass(frozen=True)
class PublishedRow:
    """A row of the published table, with the runs' results."""

    title: str
    engine: str
    score: str
    rate: str
    reached: tuple[ReproducedResult, ...]


def published(runs: Sequence[Finished]) -> list[PublishedRow]:
    """The published table, with the results of the runs whose models are in it."""
    return [
        PublishedRow(
            entry.title,
            entry.engine,
            f"{entry.accuracy:g} %",
            f"{entry.samples_per_second:,.2f} samples/s",
            tuple(
                _reached(number, run, entry)
                for number, run in enumerate(runs, start=1)
                if run.published == name and not run.record.audit and run.metrics
                # The published rates are those of Offline: all samples in one query.
                if run.scenario.one_query or not run.performance
            ),
        )
        for name, (_, entry) in manifests.published().items()
    ]


def _reached(number: int, run: Finished, entry: manifests.PublishedResult) -> ReproducedResult:
    aim = entry.samples_per_second if run.performance else entry.accuracy
    metric = run.metrics[0]
    remarks = [run.record.engine.name]
    remarks += ["random weights"] if run.model.random else []
    remarks += ["INVALID"] if not run.record.valid else []
    remarks += ["disturbed"] if run.disturbed else []
    ratio = f"{metric.value / aim:.3g}" if metric.value is not None else ""
    return ReproducedResult(number, metric_text(metric), ratio, ", ".join(remarks))
