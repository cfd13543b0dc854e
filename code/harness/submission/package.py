"""Turns official runs in results/ and compliance/ into the directory to submit, and its tarball.

The repository is not changed: the full accuracy logs stay in place, and the package holds truncated ones with the
sha256 of the full log. The same runs and files give the same bytes.
"""

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from harness.checking.check import examine
from harness.checking.run_check import count, facts, show
from harness.errors import CheckFailed, ConfigError
from harness.files.disk import locked, replace_folder, restore
from harness.results.layout import CALIBRATION, LAYOUTS, MAPPING, Layout
from harness.rules.rounds import DIVISIONS, Round
from harness.settings.identity import code_digest
from harness.submission.infer import infer
from harness.submission.request import PackageRequest, Submission, resolve
from harness.submission.select import ScenarioRuns, round_of_runs, select_runs
from harness.submission.sources import Source, engine_sources, project_sources, untracked
from harness.submission.systems import describe_systems
from harness.submission.write import check_sizes, write_package, write_tarball
from harness.terminal import console
from harness.terminal.progress import working

_MAX_LISTED_FILES = 10
"""Maximum files to name in a message."""


@dataclass(frozen=True)
class Packaged:
    """A package that was made."""

    submission: Submission
    folder: Path
    """<division>/<submitter> below the root."""
    round: Round
    results: list[ScenarioRuns]
    tarball: Path
    sha256: str
    left_out: list[str]
    """Why other results are not in it, one sentence each."""

    @property
    def root(self) -> Path:
        """The root of the tree, for the checkers."""
        return self.submission.output


def package(request: PackageRequest) -> Packaged:
    """Write <output>/<division>/<submitter> in one step, and <output>-<submitter>.tar.gz with all divisions.

    Raises:
        ConfigError: a name is wrong, or a system has no runs.
        CheckFailed: the runs do not make a submission; the message lists every problem.
    """
    submission = resolve(request)
    selected = select_runs(submission)
    results = selected.runs
    systems, wrong = describe_systems(submission, results)
    engines, missing = engine_sources(results)
    problems = list(dict.fromkeys(selected.problems + wrong + missing))
    if problems or not results:
        raise CheckFailed("\n".join([*problems, *selected.left_out]))
    for sentence in selected.left_out:
        console.warn(f"left out: {sentence}")
    found = round_of_runs(submission, results)
    if without := sum(record.digests is None for result in results for record in result.records):
        old = f"{count(without, 'test')} recorded by an older version"
        console.note(f"{old}, without digests: edits of their files since then cannot be found.")
    if any(result.performance.code != code_digest() for result in results):
        console.warn("the code has changed since some of these tests ran; the package holds the current code.")
    if submission.infer:
        results = infer(submission, found, results, systems)
        systems = {name: values for name, values in systems.items() if any(r.scene.system == name for r in results)}
    if not results:
        raise CheckFailed("\n".join(["nothing is left to package.", *selected.left_out]))
    code = [*project_sources(results), *engines]
    _warn_untracked(code)
    output = submission.output
    with locked(output.with_name(f".{output.name}.lock"), f"another process is packaging to {output}"):
        try:
            folder = _write(submission, found, results, systems, code)
            tarball = output.with_name(f"{output.name}-{submission.submitter}.tar.gz")
            digest = write_tarball(output, submission.submitter, tarball)
        except OSError as error:
            cure = "free some space, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise ConfigError(
                f"the package cannot be written to {output} ({error.filename}: {error.strerror}): {cure}choose another "
                "folder with --output."
            ) from error
        except UnicodeError as error:
            raise ConfigError(f"cannot write the package: a result file is not UTF-8 text ({error}).") from error
    return Packaged(submission, folder, found, results, tarball, digest, selected.left_out)


def _warn_untracked(code: Sequence[Source]) -> None:
    """Warn of files that the package publishes although git does not track them."""
    if files := untracked(code):
        shown = ", ".join(map(str, files[:_MAX_LISTED_FILES])) + (
            f" and {len(files) - _MAX_LISTED_FILES} more" if files[_MAX_LISTED_FILES:] else ""
        )
        console.warn(f"the package holds {count(len(files), 'file')} that git does not track: {shown}.")


def _write(
    submission: Submission,
    found: Round,
    results: list[ScenarioRuns],
    systems: Mapping[str, object],
    code: Sequence[Source],
) -> Path:
    """Write the package beside its place, and move it there in one step.

    Returns:
        Its folder.
    """
    output, name = submission.output, f".{submission.division}-{submission.submitter}"
    target = output / submission.division / submission.submitter
    old, staging = output / f"{name}.old", output / f"{name}.partial"
    for division in DIVISIONS:
        for left in output.glob(f".{division}-*.partial"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    try:
        restore(target, old)
        layout = LAYOUTS[found.layout]
        _check_nothing_lost(layout(target), results)
        write_package(layout(staging), submission, results, systems, code)
        _carry_over(target, staging)
        check_sizes(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(staging, target, old)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _carry_over(old: Path, new: Path) -> None:
    """Copy what a person added to the package: documents, documentation/, and the systems' nameplate power."""
    added = [path for path in sorted(old.glob("[!.]*")) if path.is_file() and path.name not in (CALIBRATION, MAPPING)]
    added += [path for path in sorted(old.glob("documentation/**/*")) if path.is_file() and path.name != CALIBRATION]
    added += [path for path in sorted(old.glob("systems/*_power.yaml")) if path.is_file()]
    kept = [place for path in added if not (new / (place := path.relative_to(old))).exists()]
    for place in kept:
        (new / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(old / place, new / place)
    if kept:
        console.note(f"kept from the package that this one replaces: {', '.join(map(str, kept))}")


def _check_nothing_lost(old: Layout, results: Sequence[ScenarioRuns]) -> None:
    """Check that the new package has all results of the old one.

    Raises:
        ConfigError: a result would be lost.
    """
    written = {result.scene for result in results}
    lost = [" ".join((scene.system, scene.benchmark, scene.scenario)) for scene in old.scenes() if scene not in written]
    if lost:
        raise ConfigError(
            f"the existing package also has results of {', '.join(lost)}: package them too (SYSTEM=, SCENARIOS=, "
            f"MODELS=), or remove {old.root} first."
        )


def make(request: PackageRequest, as_json: bool = False) -> int:
    """`package`, then print the package and the findings of our own check; ``as_json`` prints both as JSON.

    Returns:
        0, or 1 when the check finds problems.
    """
    with working("packaging the submission"):
        made = package(request)
    with working("checking"):
        report = examine(made.root, made.round, request.rehearsal)
    if as_json:
        results = [
            {**asdict(result.scene), "result": result.metric, "accuracy": result.scores, **_inferred(result)}
            for result in made.results
        ]
        about = {"folder": made.folder, "division": request.division, "tarball": made.tarball, "sha256": made.sha256}
        about["left_out"] = made.left_out
        console.print_json({**about, "results": results, "check": facts(report, [], request.rehearsal)})
    else:
        _show(made)
        show(report, [], request.rehearsal)
    return 1 if report.problems else 0


def _inferred(result: ScenarioRuns) -> dict[str, str]:
    return {"inferred_from": result.inferred_from} if result.inferred_from else {}


def _show(made: Packaged) -> None:
    table = Table("system", "benchmark", "scenario", "result", "accuracy", box=None, pad_edge=False)
    for result in made.results:
        scene = result.scene
        metric = result.metric + (f" (from {result.inferred_from})" if result.inferred_from else "")
        table.add_row(scene.system, scene.benchmark, scene.scenario, metric, result.scores)
    console.print_table(table)
    results, division = count(len(made.results), "result"), made.submission.division
    console.out.print(f"{made.folder}: {results} for {made.round.name}, {division} division")
    console.out.print(f"{made.tarball}: sha256 {made.sha256}")
