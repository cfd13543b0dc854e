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
        typer.Argument(help="Folders of runs, or their names in build/runs.", show_default="the newest run"),
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="The newest N runs, side by side.")] = None,
    format_: Annotated[str, typer.Option("--format", help="html, md, csv or json.")] = "html",
    output: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="build/report.html; others to stdout")
    ] = None,
    runs_dir: RunsDir = None,
    tree: Tree = None,
) -> None:
    """Show finished runs, side by side, in one HTML file that needs no network, or as md, csv or json.

    The numbers are those of LoadGen's logs. Ratios are to the first run that is named, or to the oldest.
    """
    from harness.registry import choose
    from harness.report.report import FORMATS, make
    from harness.results.finished import find

    chosen = choose("format", FORMATS, format_)
    if chosen == "html":
        output = output or paths.ROOT / "build" / "report.html"
    with on_interrupt("nothing was written."):
        make(find(runs or [], last, runs_dir or paths.ROOT / "build" / "runs", tree), chosen, output)
