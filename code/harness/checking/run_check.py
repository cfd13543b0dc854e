"""`harness check`: run our own check and the official ones, and print their findings."""

import sys
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from rich.table import Table
from rich.text import Text

from harness.checking.check import CheckReport, examine
from harness.checking.final_report import ReportedResult, read_rows
from harness.checking.official import TABLE, CheckerVerdict, checker_folder, find_checkout, run_checkers
from harness.checking.rehearsed import excuse
from harness.paths import ROOT
from harness.rules.rounds import find_round
from harness.settings.advised import default_output, package_command
from harness.terminal import console
from harness.terminal.progress import working

_MAX_LISTED_REASONS = 40
"""Maximum reasons to print for an official checker; one broken file can cause hundreds."""
CHECKER_OUTPUT = ROOT / "build" / "submission-check"
"""The folder of the official checkers' own output."""


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """A user's request for a check."""

    root: Path | None = None
    """The tree; by default the one that `harness package` makes."""
    round_name: str | None = None
    """By default the round of the logs."""
    rehearsal: bool = False
    """Whether to ignore the marks of a rehearsal."""
    checkout: Path | None = None
    """A checkout of mlcommons/inference; its two checkers then also run."""
    clone: bool = False
    """Whether to clone mlcommons/inference to run its checkers."""
    python: str = sys.executable
    """The Python for the official checkers."""
    keep: Path = CHECKER_OUTPUT
    """The folder that receives their logs and tables."""


def run_check(request: CheckRequest, as_json: bool = False) -> int:
    """Check a tree and print the findings, with ``as_json`` as JSON; returns the exit code.

    Raises:
        ConfigError: the tree, round, checkout or Python does not exist.
    """
    root, rehearsal = request.root or default_output(request.rehearsal), request.rehearsal
    verdicts: list[CheckerVerdict] = []
    rows: list[ReportedResult] = []
    with working("checking"):
        report = examine(root, find_round(request.round_name) if request.round_name else None, rehearsal)
        official = None if report.recorded else find_checkout(request.checkout, request.clone)
        if official:
            verdicts = run_checkers(official, root, report.round, request.python, request.keep)
            rows = read_rows(checker_folder(request.keep, verdicts[0].checker) / TABLE, report.round)
    if report.recorded and (request.checkout or request.clone):
        console.warn(f"the official checkers were not run: they check only submissions, which {root} is not.")
    if rehearsal:
        report, verdicts = excuse(report, verdicts)
    if as_json:
        console.print_json({**facts(report, verdicts, rehearsal), "final_report": [asdict(row) for row in rows]})
    else:
        show(report, verdicts, rehearsal)
        if official:
            _show_rows(rows)
            console.out.print(f"The official checkers' logs and tables are in {request.keep}.")
    good = not report.problems and all(verdict.accepted is not False for verdict in verdicts)
    return 0 if good else 1


def _show_rows(rows: list[ReportedResult]) -> None:
    """Print the results as in the organisers' final report."""
    if not rows:
        return
    names = [name for name in asdict(rows[0]) if any(getattr(row, name) for row in rows)]
    table = Table(*(name.replace("sheets", "sheet") for name in names), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(getattr(row, name) or ("none" if name == "sheets" else "") for name in names))
    console.out.print(Text("in the organisers' final report", "bold"))
    console.print_table(table)
    if not all(row.sheets for row in rows):
        console.out.print(
            "No sheet has scenarios that the closed division does not require: the report leaves out these results."
        )


def last_line(report: CheckReport, rehearsal: bool = False) -> str:
    """A summary of our own check."""
    nature = " This is a rehearsal, not a submission." if rehearsal else ""
    if report.problems:
        files = len({problem.path for problem in report.problems})
        return f"{count(len(report.problems), 'problem')} in {count(files, 'file')} ({report.round.name}).{nature}"
    if recorded := report.recorded:
        old = recorded.without_digests
        known = count(report.results - old, "recorded test")
        found = [f"no file was edited since its test: {known}"] if report.results > old else []
        found += [f"not checked: {count(old, 'test')} {'has' if old == 1 else 'have'} no digests"] if old else []
        command = package_command(rehearsal or recorded.rehearsal)
        return f"{'; '.join(found)}. Make and check a submission with `{command}`.{nature}"
    whose = " and ".join(report.packages)
    return f"no problem found: {count(report.results, 'result')} of {whose} for {report.round.name}.{nature}"


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "result"), count(1200, "problem")
    ('1 result', '1,200 problems')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def show(report: CheckReport, verdicts: list[CheckerVerdict], rehearsal: bool) -> None:
    """Print the findings."""
    for path, problems in groupby(report.problems, key=lambda problem: problem.path):
        console.out.print(Text(path, "bold"))
        for problem in problems:
            console.out.print(Text.assemble(f"  {problem.what} \N{EN DASH} ", (problem.cure, "green")))
    if report.notes:
        console.out.print(
            Text("only real data and full-length tests can change this, so it is accepted in a rehearsal", "bold")
        )
        for note in report.notes:
            console.out.print(Text(f"  {note}"))
    for verdict in verdicts:
        outcome = {True: "accepts the tree", False: "does not accept the tree", None: "was not run"}[verdict.accepted]
        if any(note.startswith(f"{verdict.checker}: ") for note in report.notes) and verdict.accepted:
            outcome = "would accept the tree with real data and full-length tests"
        console.out.print(Text(f"official {verdict.checker} {outcome}", "bold"))
        _show_lines(verdict.reasons, "reason")
        if verdict.warnings:
            console.out.print(Text(f"official {verdict.checker} also warns, without refusing the tree for it"))
            _show_lines(verdict.warnings, "warning")
    console.out.print(Text(last_line(report, rehearsal)))


def _show_lines(lines: tuple[str, ...], noun: str) -> None:
    for line in lines[:_MAX_LISTED_REASONS]:
        console.out.print(Text(f"  {line}"))
    if len(lines) > _MAX_LISTED_REASONS:
        console.out.print(Text(f"  and {count(len(lines) - _MAX_LISTED_REASONS, f'more {noun}')}"))


def facts(report: CheckReport, verdicts: list[CheckerVerdict], rehearsal: bool) -> dict[str, object]:
    """The findings for `--json`."""
    return {
        "round": report.round.name,
        "rehearsal": rehearsal,
        "packages": report.packages,
        "results": report.results,
        "without_digests": report.recorded.without_digests if report.recorded else 0,
        "problems": [asdict(problem) for problem in report.problems],
        "notes": report.notes,
        "official": [asdict(verdict) for verdict in verdicts],
    }
