"""Finds the official checkers' reasons against a rehearsal that come only from its stand-ins and short tests."""

import re
from collections.abc import Sequence
from dataclasses import replace

from harness.checking.check import CheckReport
from harness.checking.official import CheckerVerdict
from harness.rules.rehearsal import REHEARSAL_PREFIX

_CAUSE = re.compile(r"accuracy not met: expected=|Test duration less than 600s in user config")
_EFFECT = re.compile(
    r"accuracy not valid$|is OK but accuracy has issues$|has issues$|does not have all required scenarios, missing"
)
"""Lines that they log as a consequence of a cause. Our own check also reports scenarios that are really missing."""
_REMARK = re.compile(r"^accuracy_sample_count not found for model")
"""A line that they log for every tree."""
_PATH = re.compile(r"(?:closed|open)/[^\s:,]+")


def excuse(report: CheckReport, verdicts: Sequence[CheckerVerdict]) -> tuple[CheckReport, list[CheckerVerdict]]:
    """A rehearsal's report, with the excused reasons as further notes, and the verdicts without them."""
    notes, judged = list(report.notes), []
    for verdict in verdicts:
        excused = _excused(verdict.reasons)
        notes += [f"{verdict.checker}: {reason}" for reason in excused]
        left = tuple(each for each in verdict.reasons if each not in excused and not (excused and _REMARK.search(each)))
        accepted = True if excused and not left else verdict.accepted
        judged.append(replace(verdict, accepted=accepted, reasons=left))
    return replace(report, notes=tuple(notes)), judged


def _excused(reasons: Sequence[str]) -> list[str]:
    causes = {result for reason in reasons if _CAUSE.search(reason) and (result := _result(reason))}
    return [
        reason for reason in reasons if _result(reason) in causes and (_CAUSE.search(reason) or _EFFECT.search(reason))
    ]


def _result(reason: str) -> tuple[str, ...] | None:
    """Division, submitter, system and benchmark that a reason is about; None if it is not about a rehearsal."""
    path = _PATH.search(reason)
    parts = path[0].split("/") if path else []
    if len(parts) < 5 or not parts[3].startswith(REHEARSAL_PREFIX):
        return None
    return (*parts[:2], *parts[3:5])
