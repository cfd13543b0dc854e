"""`harness run` and `harness tune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from harness import paths
from harness.commands import options


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of `harness run`."""

    model: options.Model = None
    engine: options.Engine = None
    scenario: options.Scenario = "Offline"
    mode: Annotated[str, typer.Option(help="performance or accuracy.")] = "performance"
    dataset: options.Dataset = None
    samples: Annotated[
        int | None, typer.Option(help="Use only about the first N samples of the data set. Development only.")
    ] = None
    duration: Annotated[
        float | None,
        typer.Option(
            help="Minimum seconds of a performance run. Development only.",
            show_default="20, or as many as early stopping needs",
        ),
    ] = None
    official: Annotated[
        bool, typer.Option("--official", help="Apply the rules: 10 minutes, full data set; writes to results/.")
    ] = False
    rehearsal: Annotated[
        bool,
        typer.Option(
            "--rehearsal", help="As --official, with stand-ins for what is missing; writes to build/rehearsal."
        ),
    ] = False
    compliance: Annotated[
        str | None, typer.Option(metavar="TEST", help="Run compliance test TEST01 or TEST04 for an official result.")
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Replace an existing official result.")] = False
    system: Annotated[
        str | None,
        typer.Option(help="System name under results/, for official runs.", show_default="from the processor"),
    ] = None
    user_conf: options.UserConf = None
    option: options.Options = None
    runs_dir: options.RunsDir = None
    tree: options.Tree = None
    tuned: Annotated[
        bool | None,
        typer.Option(
            "--tuned/--no-tuned",
            help="Use settings found by `harness tune`, even those of another machine; or none.",
            show_default="if tuned here",
        ),
    ] = None
    measurements_dir: options.MeasurementsDir = paths.ROOT / "measurements"
    timeline: Annotated[
        str,
        typer.Option(help="Source of query and batch times in reports: harness, loadgen (its trace) or off."),
    ] = "harness"
    stall_timeout: options.StallTimeout = 120.0
    cluster: options.Cluster = None
    cluster_samples: options.ClusterSamples = "data"
    as_json: options.AsJson = False


@options.takes(RunOptions)
def run(asked: RunOptions) -> None:
    """Run one LoadGen test.

    Without --official, it is a development run of about 20 seconds, or as long as LoadGen needs to be sure of its
    percentile: recorded in build/runs, not for submission.
    """
    from harness.running.outdated import set_aside
    from harness.running.request import RunRequest, resolve
    from harness.running.run import run as run_test

    request = RunRequest(
        model=asked.model,
        engine=asked.engine,
        scenario=asked.scenario,
        mode=asked.mode,
        options=options.parse_options(asked.option or []),
        dataset=asked.dataset,
        samples=asked.samples,
        duration=asked.duration,
        official=asked.official,
        rehearsal=asked.rehearsal,
        audit=asked.compliance,
        force=asked.force,
        system=asked.system,
        user_conf=asked.user_conf,
        runs_dir=asked.runs_dir,
        tree=asked.tree,
        measurements=asked.measurements_dir,
        use_tuned=asked.tuned,
        timeline=asked.timeline,
        shown="json" if asked.as_json else "table",
        stall_timeout=asked.stall_timeout,
        cluster=asked.cluster,
        cluster_samples=asked.cluster_samples,
    )
    settings = resolve(request)
    if code := run_test(settings):
        raise typer.Exit(code)
    set_aside(settings)


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The options of `harness tune`."""

    model: options.Model = None
    engine: Annotated[
        str | None, typer.Option(help="The only engine to tune, as for `harness run`.", show_default="all installed")
    ] = None
    scenario: options.Scenario = "Offline"
    dataset: options.Dataset = None
    samples: Annotated[int | None, typer.Option(help="Use only about the first N samples of the data set.")] = None
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Fix an option instead of tuning it."),
    ] = None
    seconds: Annotated[float, typer.Option(min=0.5, help="Approximate seconds per measurement.")] = 6.0
    confirm_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds of the test that confirms Server's target_qps.")
    ] = 60.0
    system: Annotated[
        str | None, typer.Option(help="System name under measurements/.", show_default="from the processor")
    ] = None
    user_conf: Annotated[Path | None, typer.Option(help="The user.conf to extend.", show_default="the project's")] = (
        None
    )
    measurements_dir: options.MeasurementsDir = paths.ROOT / "measurements"
    state_dir: Annotated[
        Path, typer.Option(help="Folder for measurements until the tuning ends.", show_default="build/tune")
    ] = paths.ROOT / "build" / "tune"
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore saved measurements.")] = False
    force: Annotated[bool, typer.Option("--force", help="Replace settings of another model or engine.")] = False
    stall_timeout: Annotated[float, typer.Option(help="Stop a trial after so many seconds without a batch.")] = 120.0
    cluster: options.Cluster = None
    cluster_samples: options.ClusterSamples = "data"
    as_json: options.AsJson = False


@options.takes(TuneOptions)
def tune(asked: TuneOptions) -> None:
    """Find the best engine and settings for this machine, and for Server the highest VALID target_qps.

    Every trial is a measurement in its own process. `harness run` then uses the result automatically.
    """
    from harness.running.request import RunRequest
    from harness.tuning.tune import tune as tune_settings

    tune_settings(
        RunRequest(
            model=asked.model,
            engine=asked.engine,
            scenario=asked.scenario,
            options=options.parse_options(asked.option or []),
            dataset=asked.dataset,
            samples=asked.samples,
            system=asked.system,
            user_conf=asked.user_conf,
            stall_timeout=asked.stall_timeout,
            cluster=asked.cluster,
            cluster_samples=asked.cluster_samples,
        ),
        seconds=asked.seconds,
        confirm=asked.confirm_seconds,
        measurements=asked.measurements_dir,
        state_dir=asked.state_dir,
        fresh=asked.fresh,
        force=asked.force,
        as_json=asked.as_json,
    )
