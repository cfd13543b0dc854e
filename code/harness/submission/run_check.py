"""`harness check`: what our own check and the official ones found, printed."""

from __future__ import annotations

import sys
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from rich.text import Text

from harness.host import console
from harness.rules.rounds import find_round
from harness.submission.check import CheckReport, examine
from harness.submission.official import Verdict, find_checkout, run_checkers

_SHOWN = 40
"""Reasons of an official checker that are printed; one broken file can give it hundreds."""


def run_check(
    root: Path,
    round_name: str | None,
    rehearsal: bool,
    checkout: Path | None = None,
    clone: bool = False,
    python: str = sys.executable,
    as_json: bool = False,
) -> int:
    """Check a tree and print what was found; returns the exit code.

    ``as_json`` prints it as JSON.

    Raises:
        ConfigError: there is no such tree, round, checkout or Python.
    """
    with console.working("checking"):
        repository = find_checkout(checkout, clone)
        report = examine(root, find_round(round_name) if round_name else None, rehearsal)
        verdicts = run_checkers(repository, root, report.round, python) if repository else []
    if as_json:
        console.print_json(facts(report, verdicts, rehearsal))
    else:
        show(report, verdicts, rehearsal)
    good = not report.problems and all(verdict.accepted is not False for verdict in verdicts)
    return 0 if good else 1


def last_line(report: CheckReport, rehearsal: bool = False) -> str:
    """The sum of what our own check found."""
    nature = " It is a rehearsal, and no submission." if rehearsal else ""
    if report.problems:
        files = len({problem.path for problem in report.problems})
        return f"{count(len(report.problems), 'problem')} in {count(files, 'file')} ({report.round.name}).{nature}"
    whose = " and ".join(report.packages)
    return f"no problem found: {count(report.results, 'result')} of {whose} for {report.round.name}.{nature}"


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "result"), count(1200, "problem")
    ('1 result', '1,200 problems')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def show(report: CheckReport, verdicts: list[Verdict], rehearsal: bool) -> None:
    """Print what was found."""
    for path, problems in groupby(report.problems, key=lambda problem: problem.path):
        console.out.print(Text(path, "bold"))
        for problem in problems:
            console.out.print(Text.assemble(f"  {problem.what} \N{EN DASH} ", (problem.cure, "green")))
    for verdict in verdicts:
        said = {True: "accepts the tree", False: "does not accept the tree", None: "was not run"}[verdict.accepted]
        console.out.print(Text(f"official {verdict.checker} {said}", "bold"))
        for reason in verdict.reasons[:_SHOWN]:
            console.out.print(Text(f"  {reason}"))
        if len(verdict.reasons) > _SHOWN:
            console.out.print(Text(f"  and {len(verdict.reasons) - _SHOWN} reasons more"))
    console.out.print(Text(last_line(report, rehearsal)))


def facts(report: CheckReport, verdicts: list[Verdict], rehearsal: bool) -> dict[str, object]:
    """What was found, as `--json` prints it."""
    return {
        "round": report.round.name,
        "rehearsal": rehearsal,
        "packages": report.packages,
        "results": report.results,
        "problems": [asdict(problem) for problem in report.problems],
        "official": [asdict(verdict) for verdict in verdicts],
    }
