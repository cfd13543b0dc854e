"""The commands for a submission: `harness campaign`, `compliance`, `system`, `package` and `check`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness import paths
from harness.commands import options
from harness.terminal import console
from harness.terminal.progress import working


@dataclass(frozen=True, kw_only=True)
class ComplianceOptions:
    """The options of `harness compliance run`, all of which `harness campaign` has as well."""

    model: options.Models = None
    scenario: options.Scenarios = None
    system: options.System = None
    system_type: options.SystemType = None
    engine: options.EngineOfModels = None
    dataset: options.FullDataset = None
    option: options.Options = None
    user_conf: options.UserConf = None
    infer: Annotated[
        bool,
        typer.Option(
            "--infer", help="Leave out tests whose results `harness package --infer` derives from those of others."
        ),
    ] = False
    rehearsal: options.Rehearsal = False
    duration: options.RehearsalDuration = None
    retry: options.Retry = False
    dry_run: options.DryRun = False
    tree: options.Tree = None
    runs_dir: options.RunsDir = None
    state_dir: options.StateDir = paths.ROOT / "build" / "campaign"
    measurements_dir: options.MeasurementsDir = paths.ROOT / "measurements"
    stall_timeout: options.StallTimeout = 120.0
    cluster: options.Cluster = None
    cluster_samples: options.ClusterSamples = "data"
    as_json: options.AsJson = False


@dataclass(frozen=True, kw_only=True)
class CampaignOptions(ComplianceOptions):
    """The options of `harness campaign`."""

    division: Annotated[str, typer.Option(help="open, or closed with its compliance tests.")] = "open"


@options.takes(CampaignOptions)
def campaign(asked: CampaignOptions) -> None:
    """Run all official tests of a submission: performance, accuracy and, in the closed division, compliance.

    It can be stopped at any moment; the same command then resumes. A finished test is repeated only if it is not valid,
    a log is missing, or its data set or the results that it was compared with have changed; a failed one only with
    --retry. Existing results of another model, engine or settings are an error: move them away.
    """
    _campaign(asked, asked.division)


def _campaign(asked: ComplianceOptions, division: str, only_compliance: bool = False) -> None:
    from harness.campaign.plan import CampaignRequest, plan
    from harness.descriptions.description import description_file, system_type_of
    from harness.settings.request import RunRequest

    run = RunRequest(
        engine=asked.engine,
        options=options.parse_options(asked.option or []),
        dataset=asked.dataset,
        duration=asked.duration,
        official=True,
        rehearsal=asked.rehearsal,
        system=asked.system,
        user_conf=asked.user_conf,
        runs_dir=asked.runs_dir,
        tree=asked.tree,
        measurements_dir=asked.measurements_dir,
        shown="nothing" if asked.as_json else "table",
        stall_timeout=asked.stall_timeout,
        cluster=asked.cluster,
        cluster_samples=asked.cluster_samples,
    )
    request = CampaignRequest(
        run=run,
        models=asked.model or (),
        division=division,
        system_type=asked.system_type or system_type_of(description_file(paths.ROOT / "systems", asked.system)),
        scenarios=asked.scenario or (),
        infer=asked.infer,
        retry=asked.retry,
        only_compliance=only_compliance,
        folder=asked.state_dir,
        as_json=asked.as_json,
    )
    planned = plan(request)
    if asked.dry_run:
        planned.look()
        planned.show()
        return
    raise typer.Exit(planned.run())


def package(
    division: Annotated[str, typer.Option(help="open or closed.")],
    submitter: Annotated[str, typer.Option(help="Your organisation, as registered with MLCommons.")],
    system: Annotated[
        list[str] | None,
        typer.Option("--system", help="May be repeated.", show_default="all with results"),
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="May be repeated.", show_default="all with results")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Name or path, or NAME@ENGINE; may be repeated.", show_default="all with results"),
    ] = None,
    round_name: Annotated[
        str | None, typer.Option("--round", help="Such as v6.1.", show_default="that of the runs")
    ] = None,
    rehearsal: options.Rehearsal = False,
    infer: Annotated[
        bool,
        typer.Option(
            "--infer",
            help="Add the results that the rules let you infer: Offline and MultiStream from SingleStream, Offline "
            "from MultiStream, bert-99 from bert-99.9.",
        ),
    ] = False,
    tree: options.Tree = None,
    output: Annotated[
        Path | None, typer.Option(help="The root of the submission.", show_default="build/submission")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make the submission directory and its tarball from official runs, then check it.

    Results that lack a test, or that the division does not accept, are left out and listed. Accuracy logs are truncated
    only in the package. The same runs give the same bytes.
    """
    from harness.submission.package import make
    from harness.submission.request import PackageRequest

    request = PackageRequest(
        division=division,
        submitter=submitter,
        systems=system or (),
        scenarios=scenario or (),
        models=model or (),
        tree=tree,
        output=output,
        round_name=round_name,
        rehearsal=rehearsal,
        infer=infer,
    )
    raise typer.Exit(make(request, as_json))


def check(
    root: Annotated[
        Path | None,
        typer.Argument(
            help="The tree that holds <division>/<submitter>, or results/.", show_default="build/submission"
        ),
    ] = None,
    round_: Annotated[
        str | None, typer.Option("--round", help="Such as v6.1.", show_default="that of the logs")
    ] = None,
    rehearsal: Annotated[
        bool,
        typer.Option(
            "--rehearsal",
            help="Accept the marks of a rehearsal; report as notes what only real data and full tests can change.",
        ),
    ] = False,
    inference_repo: Annotated[
        Path | None,
        typer.Option(
            help="A checkout of mlcommons/inference: also run its two checkers.", show_default="$INFERENCE_REPO"
        ),
    ] = None,
    official: Annotated[
        bool,
        typer.Option("--official", help="Clone the pinned commit of mlcommons/inference and run its two checkers."),
    ] = False,
    python: Annotated[
        str, typer.Option(help="The Python for the official checkers.", show_default="this one")
    ] = sys.executable,
    as_json: options.AsJson = False,
) -> None:
    """Check a packaged submission: list each problem with its file, the reason and the fix.

    For results that are not packaged, such as those in this repository (`harness check .`), it checks only that no file
    was edited after its test.
    """
    from harness.checking.run_check import CheckRequest, run_check

    request = CheckRequest(
        root=root,
        round_name=round_,
        rehearsal=rehearsal,
        checkout=inference_repo,
        clone=official,
        python=python,
    )
    raise typer.Exit(run_check(request, as_json))


compliance_app = typer.Typer(
    help="The compliance tests of the closed division.", no_args_is_help=True, rich_markup_mode="rich"
)


@compliance_app.command("run")
@options.takes(ComplianceOptions)
def compliance_run(asked: ComplianceOptions) -> None:
    """Run and verify the compliance tests of existing official results: TEST01, and TEST04 for ResNet50.

    This is the last part of `harness campaign --division closed`; pass the settings of the official runs.
    """
    _campaign(asked, "closed", only_compliance=True)


@compliance_app.command("verify")
def compliance_verify(
    test: Annotated[str, typer.Argument(metavar="TEST", help="TEST01 or TEST04.")],
    results: Annotated[
        Path, typer.Option(help="The scenario's results, such as results/SYSTEM/resnet50/Offline: the submitted runs.")
    ],
    folder: Annotated[Path, typer.Option("--test", help="The test's folder, with performance/run_1.")],
    benchmark: Annotated[
        str | None, typer.Option(help="bert-99, bert-99.9 or resnet50.", show_default="the folder above RESULTS")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Name or path of the data set that scores TEST01.", show_default="full set if fetched"),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Type of a response's first element, as TEST01 reads it: int32, int64, float32 or byte.")
    ] = "int32",
    as_json: options.AsJson = False,
) -> None:
    """Verify a compliance test of any submitter from its logs, and arrange its folder in the official form.

    Verify before logs are truncated for submission. The exit code is 1 if the test fails.
    """
    from harness.compliance.folder import check_subject, verify
    from harness.compliance.score import allowed_delta, scorer
    from harness.compliance.verify import FAIL, PASS

    name = benchmark or results.absolute().parent.name
    check_subject(test, results, folder)
    verdicts = verify(test, results, folder, scorer(name, dataset), delta=allowed_delta(name), dtype=dtype)
    parts = {"performance": verdicts.performance, "accuracy": verdicts.accuracy, "accuracy delta": verdicts.delta}
    if as_json:
        passed = {part.replace(" ", "_"): verdict and verdict.passed for part, verdict in parts.items()}
        about = {"test": test.upper(), "passed": verdicts.passed, "parts": passed}
        console.print_json({**about, "reasons": verdicts.reasons, "remarks": verdicts.remarks})
    for part, verdict in parts.items():
        if verdict and not as_json:
            console.out.print(f"{test.upper()} {part}: {PASS if verdict.passed else FAIL}")
    for remark in verdicts.remarks:
        console.warn(remark)
    for reason in verdicts.reasons:
        console.error(reason)
    if not verdicts.passed:
        raise typer.Exit(1)


system_app = typer.Typer(help="Describe the measured system.", no_args_is_help=True, rich_markup_mode="rich")


@system_app.command("init")
def system_init(
    system: Annotated[
        str | None, typer.Option(help="System name, as in results/.", show_default="from the processor")
    ] = None,
    submitter: Annotated[str | None, typer.Option(help="The organisation.")] = None,
    division: Annotated[str | None, typer.Option(help="closed or open.")] = None,
    system_type: Annotated[str | None, typer.Option(help="edge, datacenter, or datacenter,edge.")] = None,
    status: Annotated[str | None, typer.Option(help="available, preview or rdi.")] = None,
    field: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field, replacing any value.")
    ] = None,
    systems_dir: Annotated[
        Path, typer.Option(help="Folder of the system descriptions.", show_default="systems")
    ] = paths.ROOT / "systems",
    cluster: options.Cluster = None,
    as_json: options.AsJson = False,
) -> None:
    """Write systems/SYSTEM.json from this machine, and list the fields that a person must fill in.

    When run again it keeps values that a person wrote, and reports where they differ from the machine.
    """
    from harness.descriptions.description import (
        description_file,
        init_system,
        machines_of,
        parse_fields,
        unfilled,
        wanted,
    )
    from harness.machines import hosts

    path = description_file(systems_dir, system)
    facts = {"submitter": submitter, "division": division, "system_type": system_type, "status": status}
    given = machines_of(hosts.read(cluster)) if cluster else {}
    given |= parse_fields(field or []) | {name: value for name, value in facts.items() if value is not None}
    with working("examining this machine"):
        values, disagreements = init_system(path, given)
    for sentence in disagreements:
        console.warn(sentence)
    missing = unfilled(values)
    if as_json:
        console.print_json({"path": path, "values": values, "missing": {name: wanted(name) for name in missing}})
        return
    console.out.print(str(path))
    if missing:
        table = Table("to fill in", "value", box=None, pad_edge=False)
        for name in missing:
            table.add_row(name, wanted(name))
        console.print_table(table)
    else:
        console.out.print("all fields are filled in")
