"""`harness report`."""

from pathlib import Path
from typing import Annotated

import typer

from harness import paths
from harness.commands.options import RunsDir, Tree
from harness.errors import on_interrupt


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run folders, their names in build/runs, or folders of runs, such as build/runs itself.",
            show_default="the newest run",
        ),
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Show the newest N runs side by side.")] = None,
    format_: Annotated[str, typer.Option("--format", help="html, md, csv, json or parquet.")] = "html",
    output: Annotated[
        Path | None,
        typer.Option(help="The file to write.", show_default="build/report.html, build/runs.parquet; others to stdout"),
    ] = None,
    runs_dir: RunsDir = None,
    tree: Tree = None,
) -> None:
    """Show finished runs side by side, in one self-contained HTML file or as md, csv, json or parquet.

    The numbers come from LoadGen's logs. Ratios are relative to the first named run, or else to the oldest run.
    """
    from harness.registry import choose
    from harness.report.report import FORMATS, make
    from harness.results.finished import find

    chosen = choose("format", FORMATS, format_)
    with on_interrupt("nothing was written."):
        make(find(runs or [], last, runs_dir or paths.ROOT / "build" / "runs", tree), chosen, output)
