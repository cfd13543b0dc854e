"""`harness export`."""

import os
from typing import Annotated

import typer

from harness import paths
from harness.commands.options import AsJson, RunsDir, Tree
from harness.errors import on_interrupt

export_app = typer.Typer(help="Put finished runs into other tools.", no_args_is_help=True)


@export_app.command("mlflow")
def export_mlflow(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run folders, their names in build/runs, or folders of runs.", show_default="all of build/runs"
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="MLflow's store: file:FOLDER, or http://HOST:PORT of a server.",
            show_default="MLFLOW_TRACKING_URI, else build/mlruns",
        ),
    ] = None,
    experiment: Annotated[
        str, typer.Option(metavar="NAME", help="The experiment, created if it does not exist.")
    ] = "mlperf",
    runs_dir: RunsDir = None,
    tree: Tree = None,
    as_json: AsJson = False,
) -> None:
    """Add finished runs to MLflow, with params, metrics, tags and LoadGen's summary; a run is added only once.

    This needs MLflow: `make setup MLFLOW=1`.
    """
    from harness.report.tracking import export
    from harness.results.finished import find
    from harness.terminal import console

    above = runs_dir or paths.ROOT / "build" / "runs"
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or (paths.ROOT / "build" / "mlruns").resolve().as_uri()
    with on_interrupt("the runs that were added stay in MLflow; the same command adds the others."):
        done = export(find(runs or [str(above)], None, above, tree), uri, experiment)
    if as_json:
        console.print_json({"added": done.added, "known": done.known, "experiment": experiment, "tracking_uri": uri})
    else:
        console.out.print(
            f"{len(done.added)} runs added, {done.known} already exported: experiment {experiment} in {uri}"
        )
