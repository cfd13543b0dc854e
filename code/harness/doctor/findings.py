"""The findings of `harness doctor`.

Modules of the doctor import only the standard library at the top, and use syntax that older Pythons also understand:
the doctor must be able to report that this Python is unsuitable.
"""

from __future__ import annotations

from typing import NamedTuple

GOOD, WARNING, BAD = "good", "warning", "bad"


class Finding(NamedTuple):
    """One line of the report."""

    level: str
    """`GOOD`; `WARNING` if results are worse or only some runs fail; `BAD` if runs fail."""
    subject: str
    what: str
    cure: str = ""


def finding_from_error(level: str, subject: str, sentence: str) -> Finding:
    """A finding from an error message that has its cure after the last colon."""
    what, separator, cure = sentence.rpartition(": ")
    return Finding(level, subject, what, cure) if separator else Finding(level, subject, sentence)
