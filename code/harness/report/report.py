"""`harness report`: writes a report of runs to a file or to stdout."""

from collections.abc import Sequence
from pathlib import Path

from harness import paths
from harness.errors import ConfigError
from harness.files.disk import write_bytes, write_text
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY, TRACE
from harness.report import text
from harness.report.parquet import as_parquet
from harness.results.finished import Finished
from harness.results.layout import CONF, RUN, SCORES
from harness.results.profile import PROFILE
from harness.results.timeline import TIMELINE
from harness.settings.runfile import RUNFILE
from harness.terminal import console

FORMATS = ("html", "md", "csv", "json", "parquet")
TO_FILES = {"html": "report.html", "parquet": "runs.parquet"}
"""The formats that are always written to a file, with the default file name in build/."""
_RUN_FILES = (RUN, CONF, RUNFILE, SCORES, PROFILE, TIMELINE, SUMMARY, DETAIL, ACCURACY, TRACE)


def make(runs: Sequence[Finished], form: str, output: Path | None) -> None:
    """Write a report to a file and print its path, or print the report to stdout.

    Raises:
        ConfigError: the file cannot be written, or belongs to a run.
        MissingDependencyError: a package for this format is not installed.
    """
    output = output or (paths.ROOT / "build" / TO_FILES[form] if form in TO_FILES else None)
    if output and output.name in _RUN_FILES and (output.parent / RUN).exists():
        raise ConfigError(f"{output} is a file of a run, which a report must not replace: choose another --output.")
    if form == "parquet" and output:
        write_bytes(output, as_parquet(runs))
        console.out.print(str(output))
        return
    content = _content(form, runs)
    if output is None:
        console.out.print(content, end="")
        return
    write_text(output, content)
    console.out.print(str(output))


def _content(form: str, runs: Sequence[Finished]) -> str:
    if form == "html":
        from harness.report.page import page  # matplotlib is slow to load

        return page(runs)
    return {"md": text.as_markdown, "csv": text.as_csv, "json": text.as_json}[form](runs)
