"""`harness check` of our own results/ and compliance/: every file must be unchanged since its test was recorded."""

from dataclasses import dataclass
from pathlib import Path

from harness.checking.tree import Problem, printable
from harness.errors import ConfigError
from harness.results.digests import edited
from harness.results.layout import RUN
from harness.results.record import read_record
from harness.rules.rounds import DIVISIONS

RECORDED = ("results", "compliance")
"""The folders of our own official runs."""


def edited_since(path: Path) -> str:
    """The problem with a file that differs from the recorded one."""
    return f"it was {'edited' if path.exists() else 'removed'} after the run: its sha256 is not the one in {RUN}"


CURE = "restore the original file, or run the test again"


@dataclass(frozen=True)
class Recorded:
    """The findings on recorded tests."""

    problems: tuple[Problem, ...]
    without_digests: int
    """The number of tests recorded by an older version, whose files cannot be checked."""
    rehearsal: bool
    """Whether one of them is a rehearsal."""


def find_recorded(root: Path) -> list[Path]:
    """The folders of the records in results/ and compliance/; empty if ``root`` holds a submission instead."""
    if any((root / division).is_dir() for division in DIVISIONS):
        return []
    return sorted(path.parent for tree in RECORDED for path in (root / tree).rglob(RUN) if path.is_file())


def check_recorded(root: Path, folders: list[Path]) -> Recorded:
    """The findings on the tests whose records are in these folders."""
    problems, without, rehearsal = [], 0, False
    for folder in folders:
        where = printable(folder.relative_to(root).as_posix(), 400)
        try:
            record = read_record(folder)
        except ConfigError as error:
            problems.append(Problem(f"{where}/{RUN}", str(error).rstrip("."), CURE))
            continue
        if record is None:
            continue
        without += record.digests is None
        rehearsal |= record.rehearsal
        if not record.valid:
            problems.append(Problem(where, "it is not a valid run", "run it again"))
        for path in edited(record, folder):
            problems.append(Problem(printable(path.relative_to(root).as_posix(), 400), edited_since(path), CURE))
    return Recorded(tuple(problems), without, rehearsal)
