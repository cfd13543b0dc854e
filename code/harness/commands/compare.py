"""`harness compare`."""

from typing import Annotated

import typer

from harness import paths
from harness.commands.options import AsJson, RunsDir
from harness.errors import CheckFailed, ConfigError


def compare(
    a: Annotated[str, typer.Argument(help="A run: its folder or name in build/runs; separate repeats with commas.")],
    b: Annotated[str, typer.Argument(help="The run or repeats to compare with it.")],
    runs_dir: RunsDir = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit with 1 if B is INVALID, slower beyond the noise, or less accurate.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two runs, and whether one is faster beyond the noise.

    Repeats give the best noise estimate: A1,A2,A3 B1,B2,B3. For single runs it comes from the variation within each.
    """
    from harness.report.compare import show

    found = show(a, b, runs_dir or paths.ROOT / "build" / "runs", as_json)
    if gate and found.not_comparable:
        raise ConfigError(f"--gate has nothing to decide: {found.not_comparable}. Name runs of the same kind.")
    if gate and found.worse:
        raise CheckFailed(f"B is worse than A: {found.worse}.")
