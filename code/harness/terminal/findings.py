"""Findings about a machine, or several: each line good, warning or bad, with a fix.

Only the standard library is imported, in syntax that older Pythons also understand: the doctor must be able to report
that this Python is unsuitable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

GOOD, WARNING, BAD = "good", "warning", "bad"
STYLES = {GOOD: "green", WARNING: "yellow", BAD: "bold red"}
"""The colour of a level, in rich's words."""


class Finding(NamedTuple):
    """One line of the report."""

    level: str
    """`GOOD`; `WARNING` if results are worse or only some runs fail; `BAD` if runs fail."""
    subject: str
    what: str
    cure: str = ""
    node: str | None = None
    """The node of a cluster that it is about, "" for all nodes together; None outside clusters."""


def finding_from_error(level: str, subject: str, sentence: str) -> Finding:
    """A finding from an error message that has its cure after the last colon."""
    what, separator, cure = sentence.rpartition(": ")
    return Finding(level, subject, what, cure) if separator else Finding(level, subject, sentence)


def blocked(found: Sequence[Finding]) -> bool:
    """Whether something blocks a run."""
    return any(finding.level == BAD for finding in found)


def as_json(found: Sequence[Finding]) -> dict[str, object]:
    """The findings as the commands print them with --json."""
    records = [{key: value for key, value in finding._asdict().items() if value is not None} for finding in found]
    return {"good": not blocked(found), "findings": records}


def lines(found: Sequence[Finding]) -> list[tuple[str, str]]:
    """Level and text of each line, in columns."""
    node = max((len(finding.node or "") for finding in found), default=0)
    subject = max((len(finding.subject) for finding in found), default=0)
    return [
        (
            f.level,
            ("" if f.node is None else f"{f.node:{node}}  ")
            + f"{f.subject:{subject}}  {f.what}"
            + (f" -> {f.cure}" if f.cure else ""),
        )
        for f in found
    ]


def summary(found: Sequence[Finding]) -> str:
    """The last line."""
    bad, warnings = (sum(finding.level == level for finding in found) for level in (BAD, WARNING))
    words = f"{warnings} warning{'' if warnings == 1 else 's'}"
    if bad:
        return f"{bad} bad, {words}: fix the errors first."
    return f"nothing blocks a run; {words}."
