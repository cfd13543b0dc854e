"""sha256 of a recorded test's files, to find files that were edited afterwards."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from harness.files.digest import sha256_of
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY
from harness.results.layout import BASELINE, COMPLIANCE, CONF, SCORES, VERIFY_ACCURACY, VERIFY_PERFORMANCE
from harness.results.record import Record

_BESIDE = (SUMMARY, DETAIL, ACCURACY, SCORES, CONF)
"""Files next to run.json."""
_OF_A_TEST = (VERIFY_ACCURACY, VERIFY_PERFORMANCE, *(f"accuracy/{n}" for n in (ACCURACY, SCORES, BASELINE, COMPLIANCE)))
"""Files of a compliance test, below the folder that holds performance/run_1."""


def with_digests(record: Record, folder: Path) -> dict[str, JsonValue]:
    """The content of run.json, with the digests of the test's files; ``folder`` contains its logs.

    A file that cannot be read gets no digest: nothing may prevent a finished test from being recorded.
    """
    found = {name: _digest(path) for name, path in _files(record, folder).items()}
    return {**record.values(), "digests": {name: digest for name, digest in found.items() if digest}}


def edited(record: Record, folder: Path) -> list[Path]:
    """The files that have changed since the record was written; empty if it has no digests (older versions)."""
    if record.digests is None:
        return []
    return [path for name, path in _files(record, folder).items() if _digest(path) != record.digests.get(name)]


def _files(record: Record, folder: Path) -> Mapping[str, Path]:
    """The files of a test, by their names in the record."""
    files = {name: folder / name for name in _BESIDE}
    if record.audit and folder.name == "run_1":
        files |= {name: folder.parents[1] / name for name in _OF_A_TEST}
    return files


def _digest(path: Path) -> str | None:
    """sha256 of a file; None if it does not exist, "" if it cannot be read."""
    try:
        return sha256_of(path) if path.exists() else None
    except OSError:
        return ""
