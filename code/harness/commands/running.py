"""`harness run` and `harness tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness import paths
from harness.commands.options import (
    AsJson,
    Dataset,
    Engine,
    MeasurementsDir,
    Model,
    Options,
    RunsDir,
    Scenario,
    StallTimeout,
    Tree,
    UserConf,
    parse_options,
)


def run(
    model: Model = None,
    engine: Engine = None,
    scenario: Scenario = "Offline",
    mode: Annotated[str, typer.Option(help="performance or accuracy.")] = "performance",
    dataset: Dataset = None,
    samples: Annotated[
        int | None, typer.Option(help="Use only about the first N samples of the data set. Development only.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(help="Minimum seconds of a performance run. Development only.", show_default="20"),
    ] = None,
    official: Annotated[
        bool, typer.Option("--official", help="Apply the rules: 10 minutes, full data set; writes to results/.")
    ] = False,
    rehearsal: Annotated[
        bool,
        typer.Option(
            "--rehearsal", help="As --official, with stand-ins for what is missing; writes to build/rehearsal."
        ),
    ] = False,
    compliance: Annotated[
        str | None, typer.Option(metavar="TEST", help="Run compliance test TEST01 or TEST04 for an official result.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing official result.")] = False,
    system: Annotated[
        str | None,
        typer.Option(help="System name under results/, for official runs.", show_default="from the processor"),
    ] = None,
    user_conf: UserConf = None,
    option: Options = None,
    runs_dir: RunsDir = None,
    tree: Tree = None,
    tuned: Annotated[
        bool | None,
        typer.Option(
            "--tuned/--no-tuned",
            help="Use settings found by `harness tune`, even those of another machine; or none.",
            show_default="if tuned here",
        ),
    ] = None,
    measurements_dir: MeasurementsDir = paths.ROOT / "measurements",
    timeline: Annotated[
        str,
        typer.Option(help="Source of query and batch times in reports: harness, loadgen (its trace) or off."),
    ] = "harness",
    stall_timeout: StallTimeout = 120.0,
    as_json: AsJson = False,
) -> None:
    """Run one LoadGen test.

    Without --official, it is a development run of about 20 seconds: recorded in build/runs, not for submission.
    """
    from harness.running.request import RunRequest, resolve
    from harness.running.run import run as run_test

    request = RunRequest(
        model=model,
        engine=engine,
        scenario=scenario,
        mode=mode,
        options=parse_options(option or []),
        dataset=dataset,
        samples=samples,
        duration=duration,
        official=official,
        rehearsal=rehearsal,
        audit=compliance,
        force=force,
        system=system,
        user_conf=user_conf,
        runs_dir=runs_dir,
        tree=tree,
        measurements=measurements_dir,
        use_tuned=tuned,
        timeline=timeline,
        shown="json" if as_json else "table",
        stall_timeout=stall_timeout,
    )
    raise typer.Exit(run_test(resolve(request)))


def tune(
    model: Model = None,
    engine: Engine = None,
    scenario: Scenario = "Offline",
    dataset: Dataset = None,
    samples: Annotated[int | None, typer.Option(help="Use only about the first N samples of the data set.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Fix an option instead of tuning it."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Approximate seconds per measurement.")] = 6.0,
    confirm_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds of the test that confirms Server's target_qps.")
    ] = 60.0,
    system: Annotated[
        str | None, typer.Option(help="System name under measurements/.", show_default="from the processor")
    ] = None,
    user_conf: Annotated[
        Path | None, typer.Option(help="The user.conf to extend.", show_default="the project's")
    ] = None,
    measurements_dir: MeasurementsDir = paths.ROOT / "measurements",
    state_dir: Annotated[
        Path, typer.Option(help="Folder for measurements until the tuning ends.", show_default="build/tune")
    ] = paths.ROOT / "build" / "tune",
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore saved measurements.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace settings of another model or engine.")] = False,
    stall_timeout: Annotated[float, typer.Option(help="Stop a trial after so many seconds without a batch.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Find the best settings for this machine, and for Server the highest VALID target_qps.

    Every trial is a measurement in its own process. `harness run` then uses the result automatically.
    """
    from harness.running.request import RunRequest
    from harness.tuning.tune import tune as tune_settings

    tune_settings(
        RunRequest(
            model=model,
            engine=engine,
            scenario=scenario,
            options=parse_options(option or []),
            dataset=dataset,
            samples=samples,
            system=system,
            user_conf=user_conf,
            stall_timeout=stall_timeout,
        ),
        seconds=seconds,
        confirm=confirm_seconds,
        measurements=measurements_dir,
        state_dir=state_dir,
        fresh=fresh,
        force=force,
        as_json=as_json,
    )
