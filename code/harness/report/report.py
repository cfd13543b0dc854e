"""`harness report`: writes a report of runs to a file or to stdout."""

from collections.abc import Sequence
from pathlib import Path

from harness.host import console
from harness.host.files import write_text
from harness.report import text
from harness.results.finished import Finished

FORMATS = ("html", "md", "csv", "json")


def make(runs: Sequence[Finished], form: str, output: Path | None) -> None:
    """Write a report to a file and print its name, or print the report to stdout.

    Raises:
        ConfigError: the file cannot be written.
    """
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
