"""`harness compare`."""

from typing import Annotated

import typer

from harness import paths
from harness.commands.options import AsJson, RunsDir


def compare(
    a: Annotated[str, typer.Argument(help="A run: its folder, or its name in build/runs; repeats with commas.")],
    b: Annotated[str, typer.Argument(help="What is compared with it.")],
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what differs between two runs, and whether one is faster beyond the noise.

    Repeats tell the noise best: A1,A2,A3 B1,B2,B3. Of single runs it is taken from what varies within each.
    """
    from harness.report.compare import show

    show(a, b, runs_dir or paths.ROOT / "build" / "runs", as_json)
