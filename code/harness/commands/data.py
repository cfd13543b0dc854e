"""`harness data` and `harness options`."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from harness.commands.options import AsJson
from harness.errors import on_interrupt
from harness.terminal import console


def options(as_json: AsJson = False) -> None:
    """List the options of `harness run --set NAME=VALUE`."""
    from harness.settings.options import options_help

    if as_json:
        console.print_json([dict(zip(("of", "name", "meaning"), row, strict=True)) for row in options_help()])
        return
    table = Table("of", "name", "meaning [default]", box=None, pad_edge=False)
    for row in options_help():
        table.add_row(*row)
    console.print_table(table)


data_app = typer.Typer(help="List and fetch data sets.", no_args_is_help=True, rich_markup_mode="rich")


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the data sets and their location."""
    from harness.catalog.datasets import overview

    rows = overview()
    if as_json:
        console.print_json([asdict(row) for row in rows])
        return
    table = Table("name", "benchmark", "samples", "on this machine", "description", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.name, row.benchmark, str(row.samples or ""), row.here, row.description)
    console.print_table(table)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str | None, typer.Argument(help="One data set; default: all.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the full data sets into build/data; downloads are checked by sha256 and can be resumed."""
    from harness.catalog.datasets import fetch

    with on_interrupt("data sets fetched so far are kept; the same command fetches the rest."):
        fetched = {}
        for key, path in fetch(name):
            fetched[key] = path
            if not as_json:
                console.out.print(f"{key}: {path}")
    if as_json:
        console.print_json(fetched)
