"""The rows of the organisers' final report, from summary.csv of the official checker.

The official generate_final_report.py makes a spreadsheet of them, with one sheet for each kind of system and division;
it needs packages that nothing else here needs, so its columns are read instead.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from harness.registry import SCENARIOS
from harness.rules.rounds import RULES, Round


@dataclass(frozen=True)
class ReportedResult:
    """A result as the organisers will see it."""

    sheets: str
    """Such as "edge - closed"; "" if the report leaves the result out."""
    submitter: str
    system: str
    processor: str
    software: str
    model: str
    """In the open division, with the submitter's own name."""
    scenario: str
    result: str
    units: str
    accuracy: str
    """Only in the open division."""


def read_rows(path: Path, round_: Round) -> list[ReportedResult]:
    """The rows of a summary.csv; none if it does not exist, or cannot be read as one."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            return [_row(values, round_) for values in csv.DictReader(file, restval="")]
    except (OSError, csv.Error, KeyError):
        return []


def _row(values: dict[str, str], round_: Round) -> ReportedResult:
    is_open, model = values["Division"] == "open", values["MlperfModel"]
    known = next((name for name, rules in RULES.items() if rules.mapped == model), None)
    scenario = next((name for name in SCENARIOS if name.lower() == values["Scenario"].lower()), values["Scenario"])
    kinds = [kind for kind in ("datacenter", "edge") if kind in values["SystemType"]]
    sheets = [kind for kind in kinds if known is None or scenario in round_.required(known, kind)]
    return ReportedResult(
        sheets=", ".join(f"{kind} - {values['Division']}" for kind in sheets),
        submitter=values["Organization"],
        system=values["SystemName"],
        processor=f"{values['host_processors_per_node']} x {values['host_processor_model_name']}",
        software=values["framework"],
        model=f"{model} ({values['Model']})" if is_open and values["Model"] != model else model,
        scenario=scenario,
        result=values["Result"],
        units=values["Units"],
        accuracy=values["Accuracy"] if is_open else "",
    )
