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
        typer.Option(help="Least seconds of a performance run. Development only.", show_default="20"),
    ] = None,
    official: Annotated[
        bool, typer.Option("--official", help="Apply the rules: 10 minutes, full data set, into results/.")
    ] = False,
    rehearsal: Annotated[
        bool,
        typer.Option("--rehearsal", help="As --official with stand-ins for what is missing, into build/rehearsal."),
    ] = False,
    compliance: Annotated[
        str | None, typer.Option(metavar="TEST", help="Run compliance test TEST01 or TEST04 of an official result.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an official result that is there.")] = False,
    system: Annotated[
        str | None,
        typer.Option(help="Name under results/ of an official run.", show_default="from the processor"),
    ] = None,
    user_conf: UserConf = None,
    option: Options = None,
    runs_dir: RunsDir = None,
    tree: Tree = None,
    tuned: Annotated[
        bool | None,
        typer.Option(
            "--tuned/--no-tuned",
            help="Use the settings that `harness tune` found, even those of another machine; or none.",
            show_default="if tuned here",
        ),
    ] = None,
    measurements_dir: MeasurementsDir = paths.ROOT / "measurements",
    timeline: Annotated[
        str,
        typer.Option(help="Who records queries and batches for reports: harness, loadgen (its trace) or off."),
    ] = "harness",
    stall_timeout: StallTimeout = 120.0,
    as_json: AsJson = False,
) -> None:
    """Run one LoadGen test.

    Without --official it is a development run of about 20 seconds: it goes to build/runs and is not for submission.
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
        typer.Option("--set", metavar="NAME=VALUE", help="What is set is kept, and not tuned."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="About how long each measurement takes.")] = 6.0,
    confirm_seconds: Annotated[
        float, typer.Option(min=1, help="How long the test is that confirms Server's target_qps.")
    ] = 60.0,
    system: Annotated[
        str | None, typer.Option(help="Name under measurements/.", show_default="from the processor")
    ] = None,
    user_conf: Annotated[
        Path | None, typer.Option(help="The user.conf to add to.", show_default="the project's")
    ] = None,
    measurements_dir: MeasurementsDir = paths.ROOT / "measurements",
    state_dir: Annotated[
        Path, typer.Option(help="Where measurements are kept until the end.", show_default="build/tune")
    ] = paths.ROOT / "build" / "tune",
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure all anew, whatever is kept.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace settings of another model or engine.")] = False,
    stall_timeout: Annotated[float, typer.Option(help="Seconds without a finished batch that end a trial.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Find the settings that suit this machine best, and for Server the highest target_qps that is VALID.

    Every trial is a measurement in a process of its own. `harness run` then uses what was found by itself.
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
