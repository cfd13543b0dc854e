"""`harness run` and `harness tune`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness import paths
from harness.commands import options
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.settings.runfile import SweepPoint


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of `harness run`; None leaves the choice to the run file or the default."""

    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A run file: these options in TOML; lists become a sweep.", show_default=False
        ),
    ] = None
    model: options.Model = None
    engine: options.Engine = None
    scenario: Annotated[
        str | None,
        typer.Option(help="LoadGen scenario: Offline, Server, SingleStream, MultiStream.", show_default="Offline"),
    ] = None
    mode: Annotated[str | None, typer.Option(help="performance or accuracy.", show_default="performance")] = None
    dataset: options.Dataset = None
    samples: Annotated[
        int | None, typer.Option(help="Use only about the first N samples of the data set. Development only.")
    ] = None
    duration: Annotated[
        float | None,
        typer.Option(
            help="Minimum duration of a performance run in seconds. Development runs and rehearsals only.",
            show_default="20, or as many as early stopping needs",
        ),
    ] = None
    official: Annotated[
        bool | None, typer.Option("--official", help="Apply the rules: 10 minutes, full data set; writes to results/.")
    ] = None
    rehearsal: Annotated[
        bool | None,
        typer.Option(
            "--rehearsal", help="Like --official, with stand-ins for anything missing; writes to build/rehearsal."
        ),
    ] = None
    compliance: Annotated[
        str | None, typer.Option(metavar="TEST", help="Run compliance test TEST01 or TEST04 for an official result.")
    ] = None
    force: Annotated[bool | None, typer.Option("--force", help="Replace an existing official result.")] = None
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
    measurements_dir: Annotated[
        Path | None, typer.Option(help="Folder of tuned settings, by system.", show_default="measurements")
    ] = None
    timeline: Annotated[
        str | None,
        typer.Option(
            help="Source of query and batch times in reports: harness, loadgen (its trace) or off.",
            show_default="harness",
        ),
    ] = None
    profile: Annotated[
        bool | None,
        typer.Option("--profile", help="Profile the operators after the test (onnxruntime and openvino only)."),
    ] = None
    stall_timeout: Annotated[
        float | None,
        typer.Option(help="Stop a run after this many seconds without a finished batch.", show_default="120"),
    ] = None
    cluster: options.Cluster = None
    cluster_samples: Annotated[
        str | None,
        typer.Option(
            metavar="data|indices",
            help="What is sent to the nodes: samples, or only their numbers (ask the working group before submitting).",
            show_default="data",
        ),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the tests of FILE and their state.")] = False
    retry: Annotated[bool, typer.Option("--retry", help="Repeat failed and INVALID tests of FILE.")] = False
    fresh: Annotated[bool, typer.Option("--fresh", help="Repeat all tests of FILE.")] = False
    as_json: options.AsJson = False


@options.takes(RunOptions)
def run(asked: RunOptions) -> None:
    """Run one LoadGen test, or all tests of a run file.

    Without --official, this is a development run of about 20 seconds, or as long as LoadGen needs to be sure of its
    percentile: recorded in build/runs, not for submission. With FILE, options on the command line replace those of the
    file, and an interrupted sweep continues; `harness help runfile` shows such a file.
    """
    from harness.running.alone import run_alone
    from harness.settings.request import RunRequest, resolve
    from harness.settings.runfile import KEYS, read, request_of

    values = {key: getattr(asked, key.replace("-", "_")) for key in KEYS}
    given = {
        key: str(value) if isinstance(value, Path) else value for key, value in values.items() if value is not None
    }
    set_here = options.parse_options(asked.option or [])

    def complete(request: RunRequest) -> RunRequest:
        measurements = request.measurements_dir or paths.ROOT / "measurements"
        return replace(request, measurements_dir=measurements, shown="json" if asked.as_json else "table")

    if asked.file is None:
        if asked.dry_run or asked.retry or asked.fresh:
            raise ConfigError("--dry-run, --retry and --fresh need a run file: give one, or omit them.")
        raise typer.Exit(run_alone(resolve(complete(request_of(given, set_here)))).code)
    points = [replace(point, request=complete(point.request)) for point in read(asked.file, given, set_here)]
    if len(points) == 1 and not asked.dry_run:
        if asked.retry or asked.fresh:
            raise ConfigError(
                f"--retry and --fresh are for sweeps: {asked.file} has one test, which always runs again."
            )
        raise typer.Exit(run_alone(resolve(points[0].request)).code)
    raise typer.Exit(_sweep(asked.file, points, asked))


def _sweep(file: Path, points: Sequence[SweepPoint], asked: RunOptions) -> int:
    """Run or show the tests of a file; returns the exit code."""
    from harness.sweep.sweep import Sweep

    sweep = Sweep.of(file, points)
    sweep.look(asked.retry, asked.fresh)
    code = 0 if asked.dry_run else sweep.run()
    sweep.show(asked.as_json)
    return code


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
        float,
        typer.Option(
            min=1,
            help="Minimum duration in seconds of a test that confirms Server's target_qps; longer if LoadGen needs it.",
        ),
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
    stall_timeout: Annotated[
        float, typer.Option(help="Stop a trial after this many seconds without a finished batch.")
    ] = 120.0
    cluster: options.Cluster = None
    cluster_samples: options.ClusterSamples = "data"
    as_json: options.AsJson = False


@options.takes(TuneOptions)
def tune(asked: TuneOptions) -> None:
    """Find the best engine and settings for this machine, and for Server the highest VALID target_qps.

    Every trial is a measurement in its own process. `harness run` then uses the result automatically.
    """
    from harness.settings.request import RunRequest
    from harness.tuning.tune import TuneRequest
    from harness.tuning.tune import tune as tune_settings

    run = RunRequest(
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
    )
    request = TuneRequest(
        run=run,
        seconds=asked.seconds,
        confirm=asked.confirm_seconds,
        measurements=asked.measurements_dir,
        state_dir=asked.state_dir,
        fresh=asked.fresh,
        force=asked.force,
    )
    tune_settings(request, as_json=asked.as_json)
