"""The command line. It loads no engine and no LoadGen: only the process of a test does."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness import __version__, catalog, console
from harness.errors import ConfigError, HarnessError

if TYPE_CHECKING:
    from harness.config import RunSettings

app = typer.Typer(
    name="harness",
    help="Measure this CPU with MLPerf Inference: LoadGen drives BERT and ResNet50 on DeepSparse or ONNX Runtime.",
    epilog="Exit codes: 0 fine, 1 a run failed or is INVALID, 2 a command or setting is wrong, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_MeasurementsDir = Annotated[
    Path, typer.Option(help="Where tuned settings lie, by system.", show_default="measurements")
]


def _version(wanted: bool) -> None:
    if wanted:
        console.out.print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    model: Annotated[
        str | None,
        typer.Option(help="Name (see `harness models`) or path of an ONNX file.", show_default="embedded"),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="deepsparse, onnxruntime, null (computes nothing), or module:Class.",
            show_default="deepsparse if installed",
        ),
    ] = None,
    scenario: Annotated[
        str, typer.Option(help="LoadGen scenario: Offline, Server, SingleStream, MultiStream.")
    ] = "Offline",
    mode: Annotated[str, typer.Option(help="performance or accuracy.")] = "performance",
    dataset: Annotated[
        str | None,
        typer.Option(help="Name (see `harness data list`) or path.", show_default="full set if fetched, else sample"),
    ] = None,
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
    user_conf: Annotated[Path | None, typer.Option(help="LoadGen's user.conf.", show_default="the project's")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Option of engine or benchmark (see `harness options`)."),
    ] = None,
    runs_dir: Annotated[Path | None, typer.Option(help="Where runs are recorded.", show_default="build/runs")] = None,
    tree: Annotated[
        Path | None,
        typer.Option(help="Where results/ and compliance/ of official runs are.", show_default="the repository"),
    ] = None,
    tuned: Annotated[
        bool | None,
        typer.Option(
            "--tuned/--no-tuned",
            help="Use the settings that `harness tune` found, even those of another machine; or none.",
            show_default="if tuned here",
        ),
    ] = None,
    measurements_dir: _MeasurementsDir = catalog.ROOT / "measurements",
    timeline: Annotated[
        str,
        typer.Option(help="Who records queries and batches for reports: harness, loadgen (its trace) or off."),
    ] = "harness",
    stall_timeout: Annotated[float, typer.Option(help="Seconds without a finished batch that end a run.")] = 120.0,
) -> None:
    """Run one LoadGen test.

    Without --official it is a development run of about 20 seconds: it goes to build/runs and is not for submission.
    """
    from harness.config import make_settings
    from harness.run import run as run_test

    paths = {"user_conf": user_conf, "runs_dir": runs_dir, "tree": tree}
    settings = make_settings(
        model=model,
        engine=engine,
        scenario=scenario,
        mode=mode,
        options=_options(option or []),
        dataset=dataset,
        samples=samples,
        duration=duration,
        official=official,
        rehearsal=rehearsal,
        audit=compliance,
        command=shlex.join(["harness", *sys.argv[1:]]),
        force=force,
        system=system,
        stall_timeout=stall_timeout,
        measurements=measurements_dir,
        use_tuned=tuned,
        timeline=timeline,
        **{name: path for name, path in paths.items() if path is not None},
    )
    raise typer.Exit(run_test(settings))


@app.command()
def tune(
    model: Annotated[
        str | None,
        typer.Option(help="Name (see `harness models`) or path of an ONNX file.", show_default="embedded"),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="deepsparse, onnxruntime or module:Class.", show_default="deepsparse if installed"),
    ] = None,
    scenario: Annotated[
        str, typer.Option(help="LoadGen scenario: Offline, Server, SingleStream, MultiStream.")
    ] = "Offline",
    dataset: Annotated[
        str | None,
        typer.Option(help="Name (see `harness data list`) or path.", show_default="full set if fetched, else sample"),
    ] = None,
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
    measurements_dir: _MeasurementsDir = catalog.ROOT / "measurements",
    state_dir: Annotated[
        Path, typer.Option(help="Where measurements are kept until the end.", show_default="build/tune")
    ] = catalog.ROOT / "build" / "tune",
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure all anew, whatever is kept.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace settings of another model or engine.")] = False,
    stall_timeout: Annotated[float, typer.Option(help="Seconds without a finished batch that end a trial.")] = 120.0,
) -> None:
    """Find the settings that suit this machine best, and for Server the highest target_qps that is VALID.

    Every trial is a measurement in a process of its own. `harness run` then uses what was found by itself.
    """
    from harness.config import make_settings
    from harness.tuning.tune import tune as tune_settings

    def settings_of(options: Mapping[str, str]) -> RunSettings:
        return make_settings(
            model=model,
            engine=engine,
            scenario=scenario,
            mode="performance",
            options=options,
            dataset=dataset,
            samples=samples,
            system=system,
            stall_timeout=stall_timeout,
            **({"user_conf": user_conf} if user_conf else {}),
        )

    tune_settings(
        settings_of,
        _options(option or []),
        seconds=seconds,
        confirm=confirm_seconds,
        measurements=measurements_dir,
        state_dir=state_dir,
        fresh=fresh,
        force=force,
    )


models_app = typer.Typer(help="List, show, fetch, verify or build models.", rich_markup_mode="rich")
app.add_typer(models_app, name="models", invoke_without_command=True)

_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@models_app.callback()
def _models(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        models_list()


@models_app.command("list")
def models_list(as_json: _AsJson = False) -> None:
    """List the models that are known by name, and which are on this machine."""
    from harness.models.show import overview

    rows = overview()
    if as_json:
        console.out.print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table("name", "benchmark", "precision", "on this machine", "description", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    console.print_table(table)


@models_app.command("show")
def models_show(
    name: Annotated[str, typer.Argument(help="A model's name, or the path of an ONNX file.")], as_json: _AsJson = False
) -> None:
    """Show what a model is: its file, its graph, how sparse its weights are, and what its metadata say."""
    from harness.models.show import describe, rows

    facts = describe(name)
    if as_json:
        console.out.print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for row in rows(facts):
        table.add_row(*row)
    console.print_table(table)


@models_app.command("fetch")
def models_fetch(
    name: Annotated[str, typer.Argument(help="A model that is not shipped (see `harness models`).")],
    copy: Annotated[
        str | None,
        typer.Option("--from", metavar="PATH", help="Your copy: an ONNX file, a folder or an archive (PATH#MEMBER)."),
    ] = None,
) -> None:
    """Fetch a model into build/models, or take in your copy of it: resumed, verified, then known by its name."""
    from harness.models.sources import fetch
    from harness.models.verify import verdict

    model = fetch(name, copy)
    console.out.print(f"{name}: {model.path}, {verdict(model)}")


@models_app.command("verify")
def models_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models by name; default: all that are here.", show_default=False)
    ] = None,
) -> None:
    """Hash the models that are shipped or were fetched again, and read their graphs."""
    from harness.models.verify import verify

    good, problems = verify(names or [])
    for line in good:
        console.out.print(line)
    for line in problems:
        console.error(line)
    if problems:
        raise typer.Exit(1)


_Calibration = Annotated[
    str | None,
    typer.Option("--calibration", help="Data set by name or path, not one that is scored.", show_default="shipped"),
]


@models_app.command("build")
def models_build(
    name: Annotated[str, typer.Argument(help="A model whose graph can be built (see `harness models`).")],
    weights: Annotated[
        str,
        typer.Option(
            metavar="random|PATH",
            help="random: to measure speed, nothing it answers means anything. PATH: a checkpoint in safetensors.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="build/models/NAME-random.onnx or -built")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    dense: Annotated[bool, typer.Option("--dense", help="Leave a compressed model's compression out.")] = False,
    dataset: _Calibration = None,
    samples: Annotated[
        int | None, typer.Option(help="Samples to calibrate with.", show_default="256; 8 for random weights")
    ] = None,
) -> None:
    """Build a published model: its architecture with a checkpoint's or random weights, then its compression."""
    from harness.models.build import build

    path = build(name, weights, output, seed, dense=dense, dataset=dataset, samples=samples)
    console.out.print(f"{name}, {'random weights' if weights == 'random' else weights}: {path}")


@models_app.command("compress")
def models_compress(
    model: Annotated[str, typer.Argument(metavar="IN", help="The dense FP32 model: its name or path.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The ONNX file to write.")],
    sparsity: Annotated[float, typer.Option(help="Share of the inner layers' weights that become 0, below 1.")] = 0.0,
    block: Annotated[int, typer.Option(help="Neighbouring inputs of an output that are pruned together.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32, or int8 for weights and activations.")] = "fp32",
    method: Annotated[
        str, typer.Option(help="second-order (what is left is fitted to the data) or magnitude.")
    ] = "second-order",
    dataset: _Calibration = None,
    samples: Annotated[int, typer.Option(help="Samples to calibrate with.")] = 256,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers to leave alone, such as '*.layer.0.*'.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Relative output error from which on a matrix product stays in FP32.")
    ] = 0.05,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Benchmark option that the file does not tell itself."),
    ] = None,
) -> None:
    """Prune and quantise a model in one shot, from calibration data, without training.

    The result runs fast on both engines, says what was done to it, and comes with a report of each layer.
    """
    from harness.compress.compress import CompressSettings
    from harness.compress.files import compress_file, table
    from harness.config import validated

    values = {"sparsity": sparsity, "block": block, "precision": precision, "method": method}
    settings = validated(CompressSettings, {**values, "keep": tuple(keep or ()), "tolerance": tolerance})
    made = compress_file(model, output, settings, dataset, samples, _options(option or []))
    console.print_table(table(made.report))
    sizes = [f"{size / 2**20:.1f} MiB" for size in (made.dense_bytes, made.bytes, made.zipped_bytes)]
    console.out.print(f"{made.path}: {sizes[0]} before, {sizes[1]} now, {sizes[2]} after gzip")


_Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Name or path, or NAME@ENGINE; may be repeated.", show_default="embedded"),
]
_Scenarios = Annotated[
    list[str] | None,
    typer.Option("--scenario", help="May be repeated.", show_default="those that the closed division demands"),
]
_SystemType = Annotated[
    str | None,
    typer.Option(help="edge, datacenter, or datacenter,edge.", show_default="that of systems/SYSTEM.json, or edge"),
]
_Rehearsal = Annotated[
    bool, typer.Option("--rehearsal", help="Stand-ins for data, engine and weights; into build/rehearsal.")
]


@app.command()
def campaign(
    model: _Models = None,
    division: Annotated[str, typer.Option(help="open, or closed with its compliance tests.")] = "open",
    scenario: _Scenarios = None,
    system: Annotated[str | None, typer.Option(help="Name of the system.", show_default="from the processor")] = None,
    system_type: _SystemType = None,
    engine: Annotated[
        str | None, typer.Option(help="Of models without @ENGINE.", show_default="deepsparse if installed")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Name or path.", show_default="the full set")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Option of engine or benchmark (see `harness options`)."),
    ] = None,
    user_conf: Annotated[Path | None, typer.Option(help="LoadGen's user.conf.", show_default="the project's")] = None,
    rehearsal: _Rehearsal = False,
    duration: Annotated[
        float | None, typer.Option(help="Least seconds of each performance run. Rehearsals only.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run tests that failed once more.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is done and what is left.")] = False,
    tree: Annotated[
        Path | None, typer.Option(help="Where results/ and compliance/ are.", show_default="the repository")
    ] = None,
    runs_dir: Annotated[Path | None, typer.Option(help="Where runs are recorded.", show_default="build/runs")] = None,
    state_dir: Annotated[
        Path, typer.Option(help="Where the journal lies.", show_default="build/campaign")
    ] = catalog.ROOT / "build" / "campaign",
    measurements_dir: _MeasurementsDir = catalog.ROOT / "measurements",
    stall_timeout: Annotated[float, typer.Option(help="Seconds without a finished batch that end a run.")] = 120.0,
) -> None:
    """Run all official tests of a submission: performance, accuracy and, in the closed division, compliance.

    It can be ended at any moment; the same command then goes on. What is done is never run again, and what failed
    only with --retry.
    """
    _campaign(
        model, division, scenario, system, system_type, engine, dataset, option, user_conf, rehearsal, duration, retry,
        dry_run, tree, runs_dir, state_dir, measurements_dir, stall_timeout,
    )  # fmt: skip


def _campaign(
    model: list[str] | None,
    division: str,
    scenario: list[str] | None,
    system: str | None,
    system_type: str | None,
    engine: str | None,
    dataset: str | None,
    option: list[str] | None,
    user_conf: Path | None,
    rehearsal: bool,
    duration: float | None,
    retry: bool,
    dry_run: bool,
    tree: Path | None,
    runs_dir: Path | None,
    state_dir: Path,
    measurements_dir: Path,
    stall_timeout: float,
    *,
    only_compliance: bool = False,
) -> None:
    from harness.campaign import plan
    from harness.config import make_settings
    from harness.submission.system import description_file, system_type_of

    paths = {"user_conf": user_conf, "runs_dir": runs_dir, "tree": tree}
    given = {name: path for name, path in paths.items() if path is not None}

    def settings_of(**test: str | None) -> RunSettings:
        return make_settings(
            **{**test, "engine": test["engine"] or engine},
            options=_options(option or []),
            dataset=dataset,
            duration=duration,
            official=True,
            rehearsal=rehearsal,
            command=_run_command(test, engine, system, dataset, option or [], rehearsal, duration),
            system=system,
            stall_timeout=stall_timeout,
            measurements=measurements_dir,
            **given,
        )

    planned = plan(
        settings_of,
        model or [""],
        division=division,
        system_type=system_type or system_type_of(description_file(catalog.ROOT / "systems", system)),
        scenarios=scenario or [],
        retry=retry,
        only_compliance=only_compliance,
        folder=state_dir,
    )
    if dry_run:
        planned.look()
        planned.show()
        return
    raise typer.Exit(planned.run())


def _run_command(
    test: Mapping[str, str | None],
    engine: str | None,
    system: str | None,
    dataset: str | None,
    options: list[str],
    rehearsal: bool,
    duration: float | None,
) -> str:
    """The `harness run` that makes the same test, for its record."""
    values = {
        "model": test["model"],
        "engine": test["engine"] or engine,
        "scenario": test["scenario"],
        "mode": test["mode"],
        "compliance": test["audit"],
        "system": system,
        "dataset": dataset,
        "duration": duration,
    }
    words = ["harness", "run", "--rehearsal" if rehearsal else "--official"]
    for name, value in values.items():
        words += [f"--{name}", str(value)] if value is not None else []
    for each in options:
        words += ["--set", each]
    return shlex.join(words)


@app.command()
def package(
    division: Annotated[str, typer.Option(help="open or closed.")],
    submitter: Annotated[str, typer.Option(help="Your organisation, as it is registered with MLCommons.")],
    system: Annotated[
        list[str] | None,
        typer.Option("--system", help="May be repeated.", show_default="from the processor"),
    ] = None,
    round_name: Annotated[
        str | None, typer.Option("--round", help="Such as v6.1.", show_default="that of the LoadGen that ran")
    ] = None,
    rehearsal: _Rehearsal = False,
    tree: Annotated[
        Path | None, typer.Option(help="Where results/ and compliance/ are.", show_default="the repository")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The root of the submission.", show_default="build/submission")
    ] = None,
) -> None:
    """Make the directory that is sent in, and its tarball, from the official runs of a system; then check it.

    Accuracy logs are truncated in the package only. The same runs give the same bytes.
    """
    from harness.submission.package import make

    raise typer.Exit(make(division, submitter, system or [], tree, output, round_name, rehearsal))


@app.command()
def check(
    root: Annotated[
        Path | None, typer.Argument(help="The tree, with <division>/<submitter>.", show_default="build/submission")
    ] = None,
    round_: Annotated[
        str | None, typer.Option("--round", help="Such as v6.1.", show_default="that of the logs")
    ] = None,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Let the marks of a rehearsal pass, and nothing else.")
    ] = False,
    inference_repo: Annotated[
        Path | None,
        typer.Option(
            help="A checkout of mlcommons/inference: its two checkers run, too.", show_default="$INFERENCE_REPO"
        ),
    ] = None,
    official: Annotated[
        bool, typer.Option("--official", help="Clone the pinned commit of mlcommons/inference for that.")
    ] = False,
    python: Annotated[
        str, typer.Option(help="The Python for the official checkers.", show_default="this one")
    ] = sys.executable,
    as_json: _AsJson = False,
) -> None:
    """Check a packaged submission: each problem with its file, the reason and the cure."""
    from harness.submission.report import run_check

    root = root or catalog.ROOT / "build" / ("rehearsal-submission" if rehearsal else "submission")
    raise typer.Exit(run_check(root, round_, rehearsal, inference_repo, official, python, as_json))


@app.command()
def options() -> None:
    """List what `harness run --set NAME=VALUE` can set."""
    from harness.config import options_help

    table = Table("of", "name", "meaning [default]", box=None, pad_edge=False)
    for row in options_help():
        table.add_row(*row)
    console.print_table(table)


data_app = typer.Typer(help="List and fetch data sets.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(data_app, name="data")


@data_app.command("list")
def data_list() -> None:
    """List the data sets and where each is."""
    from harness.registry import BENCHMARKS

    table = Table("name", "benchmark", "samples", "on this machine", "description", box=None, pad_edge=False)
    for benchmark in BENCHMARKS:
        for name, entry in catalog.datasets(benchmark).items():
            path = catalog.location(benchmark, entry)
            if path is None or (entry.variable and not path.exists()):
                here = f"no: set {entry.variable}"
            else:
                here = str(path) if path.exists() else "no: run `make data`"
            table.add_row(name, benchmark, str(entry.samples or ""), here, entry.description)
    console.print_table(table)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str | None, typer.Argument(help="One data set; default: all.", show_default=False)] = None,
) -> None:
    """Fetch the full data sets into build/data: sha256-checked, resumed where a download broke off."""
    from harness.datasets import fetch

    fetch(name)


compliance_app = typer.Typer(
    help="The compliance tests of the closed division.", no_args_is_help=True, rich_markup_mode="rich"
)
app.add_typer(compliance_app, name="compliance")


@compliance_app.command("run")
def compliance_run(
    model: _Models = None,
    scenario: _Scenarios = None,
    system: Annotated[str | None, typer.Option(help="Name of the system.", show_default="from the processor")] = None,
    system_type: _SystemType = None,
    engine: Annotated[
        str | None, typer.Option(help="Of models without @ENGINE.", show_default="deepsparse if installed")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Name or path.", show_default="the full set")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="As in the official runs.")
    ] = None,
    rehearsal: _Rehearsal = False,
    duration: Annotated[float | None, typer.Option(help="Least seconds of each run. Rehearsals only.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run tests that failed once more.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is done and what is left.")] = False,
    measurements_dir: _MeasurementsDir = catalog.ROOT / "measurements",
) -> None:
    """Run and verify the compliance tests of official results that are there: TEST01, and TEST04 for ResNet50.

    It is the part of `harness campaign --division closed` that comes last.
    """
    state = catalog.ROOT / "build" / "campaign"
    _campaign(
        model, "closed", scenario, system, system_type, engine, dataset, option, None, rehearsal, duration, retry,
        dry_run, None, None, state, measurements_dir, 120.0, only_compliance=True,
    )  # fmt: skip


@compliance_app.command("verify")
def compliance_verify(
    test: Annotated[str, typer.Argument(metavar="TEST", help="TEST01 or TEST04.")],
    results: Annotated[
        Path, typer.Option(help="The scenario's results, such as results/SYSTEM/resnet50/Offline: the submitted runs.")
    ],
    folder: Annotated[Path, typer.Option("--test", help="The test's folder, which holds performance/run_1.")],
    benchmark: Annotated[
        str | None, typer.Option(help="bert-99, bert-99.9 or resnet50.", show_default="the folder above RESULTS")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set by name or path, which scores TEST01.", show_default="full set if fetched"),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="What TEST01 reads the first element of a response as: int32, int64, float32 or byte.")
    ] = "int32",
) -> None:
    """Verify a compliance test from its logs, of any submitter, and arrange its folder in the official form.

    Do it before logs are truncated for submission. The exit code is 1 if the test was not passed.
    """
    from harness.compliance.files import verify
    from harness.compliance.score import allowed_delta, scorer
    from harness.compliance.verify import FAIL, PASS

    name = benchmark or results.absolute().parent.name
    verdicts = verify(test, results, folder, scorer(name, dataset), delta=allowed_delta(name), dtype=dtype)
    parts = {"performance": verdicts.performance, "accuracy": verdicts.accuracy, "accuracy delta": verdicts.delta}
    for part, verdict in parts.items():
        if verdict:
            console.out.print(f"{test.upper()} {part}: {PASS if verdict.passed else FAIL}")
    for remark in verdicts.remarks:
        console.warn(remark)
    for reason in verdicts.reasons:
        console.error(reason)
    if not verdicts.passed:
        raise typer.Exit(1)


system_app = typer.Typer(help="Describe the system that is measured.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(system_app, name="system")


@system_app.command("init")
def system_init(
    system: Annotated[
        str | None, typer.Option(help="Name of the file, as under results/.", show_default="from the processor")
    ] = None,
    submitter: Annotated[str | None, typer.Option(help="The organisation.")] = None,
    division: Annotated[str | None, typer.Option(help="closed or open.")] = None,
    system_type: Annotated[str | None, typer.Option(help="edge, datacenter, or datacenter,edge.")] = None,
    status: Annotated[str | None, typer.Option(help="available, preview or rdi.")] = None,
    field: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Value of a field, whatever was there.")
    ] = None,
    systems_dir: Annotated[
        Path, typer.Option(help="Where system descriptions lie.", show_default="systems")
    ] = catalog.ROOT / "systems",
) -> None:
    """Write systems/SYSTEM.json from this machine, and list what a person must add.

    Run again, it keeps what a person wrote, and says where that and the machine disagree.
    """
    from harness.submission.system import description_file, init_system, parse_fields, unfilled, wanted

    path = description_file(systems_dir, system)
    options = {"submitter": submitter, "division": division, "system_type": system_type, "status": status}
    given = parse_fields(field or []) | {name: value for name, value in options.items() if value is not None}
    values, disagreements = init_system(path, given)
    for sentence in disagreements:
        console.warn(sentence)
    console.out.print(str(path))
    missing = unfilled(values)
    if missing:
        table = Table("to fill in", "with", box=None, pad_edge=False)
        for name in missing:
            table.add_row(name, wanted(name))
        console.print_table(table)


def _options(pairs: list[str]) -> dict[str, str]:
    values = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {pair}: write NAME=VALUE, such as --set threads=2.")
        values[name.strip().replace("-", "_")] = value.strip()
    return values


def main() -> None:
    """Run the command line; what a user did wrong becomes one line and an exit code."""
    try:
        app()
    except HarnessError as error:
        console.error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.error("interrupted.")
        sys.exit(130)


if __name__ == "__main__":
    main()
