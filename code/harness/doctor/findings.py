"""What the checks of `harness doctor` find.

Everything that they import at once is in the standard library, in words that older Pythons understand, too: they must
be able to say that this Python is the wrong one.
"""

from __future__ import annotations

from typing import NamedTuple

GOOD, WARNING, BAD = "good", "warning", "bad"


class Finding(NamedTuple):
    """One line of the report."""

    level: str
    """`GOOD`; `WARNING` for what makes results worse or stops some runs only; `BAD` for what stops runs."""
    subject: str
    what: str
    cure: str = ""


def of_sentence(level: str, subject: str, sentence: str) -> Finding:
    """A finding from the message of an error, which ends with its cure behind the last colon."""
    what, separator, cure = sentence.rpartition(": ")
    return Finding(level, subject, what, cure) if separator else Finding(level, subject, sentence)
