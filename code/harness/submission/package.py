"""From official runs in results/ and compliance/ to the directory that is sent in, and its tarball.

Nothing of the repository is changed: the full accuracy logs stay where they are, and the package holds them truncated,
beside the sha256 of the whole. The same runs and files give the same bytes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.errors import CheckFailed, ConfigError
from harness.host import console
from harness.host.files import locked
from harness.host.machine import default_system_name
from harness.paths import ROOT
from harness.results.layout import LAYOUTS, Classic
from harness.rules.rehearsal import REHEARSAL_PREFIX, REHEARSAL_TREE
from harness.rules.rounds import DIVISIONS, Round
from harness.running.identity import code_digest
from harness.submission import description as system
from harness.submission.check import examine
from harness.submission.run_check import count, facts, show
from harness.submission.select import Result, _results, _round, _system
from harness.submission.write import _check_sizes, _tar, _text, _write

_LONGEST = 80  # characters of a name that many file systems, and the checkers' messages, bear


@dataclass(frozen=True)
class Packaged:
    """What was made."""

    folder: Path
    """<division>/<submitter> below the root that the checkers are given."""
    root: Path
    round: Round
    results: list[Result]
    tarball: Path
    sha256: str


def package(
    *,
    division: str,
    submitter: str,
    systems: list[str],
    tree: Path,
    output: Path,
    round_name: str | None,
    rehearsal: bool,
) -> Packaged:
    """Write <output>/<division>/<submitter> in one step, and <output>-<submitter>.tar.gz with all its divisions.

    Raises:
        ConfigError: a name is wrong, or there are no runs of the system.
        CheckFailed: the runs cannot make a submission; the message tells everything that is wrong with them.
    """
    if division not in DIVISIONS:
        raise ConfigError(f"the division is {' or '.join(DIVISIONS)}, not '{division}'.")
    if not submitter:
        raise ConfigError("the submitter is missing: give the name of your organisation with --submitter (SUBMITTER=).")
    if not submitter.strip() or not all(c.isalnum() or c in "._-" for c in submitter) or submitter.startswith("."):
        raise ConfigError(f"'{submitter}' is no name of a submitter: use letters, digits, '.', '_' and '-'.")
    if rehearsal:
        submitter = submitter if submitter.startswith(REHEARSAL_PREFIX) else REHEARSAL_PREFIX + submitter
    output, source = output.resolve(), Classic(tree)
    for name in (submitter, *systems):
        if len(name) > _LONGEST:
            raise ConfigError(f"'{name[:20]}...' is too long a name: use {_LONGEST} characters at most.")
    results, problems = _results(source, systems, division, rehearsal)
    found = _round(source, results, round_name)
    described = {name: _system(source.system_file(name), name, rehearsal) for name in systems}
    for name, values in described.items():
        values |= {"division": division, "submitter": submitter}
        if missing := system.unfilled(values):
            problems.append(
                f"{source.system_file(name)} lacks {', '.join(missing)}: fill it in, or run `harness system init "
                f"--system {name}` first."
            )
    if problems:
        raise CheckFailed("\n".join(dict.fromkeys(problems)))
    if any(result.records["performance"].code != code_digest() for result in results):
        console.warn(
            "the code has changed since some of these results were run, and the package holds it as it is now."
        )
    with locked(output.with_name(f".{output.name}.lock"), "another package is being made here: wait for it."):
        return _make(output, source, results, described, division, submitter, found, rehearsal)


def _make(
    output: Path,
    source: Classic,
    results: list[Result],
    described: dict[str, dict[str, Any]],
    division: str,
    submitter: str,
    found: Round,
    rehearsal: bool,
) -> Packaged:
    """Write what was found fit, and put it in its place in one step."""
    target = output / division / submitter
    old, staging = output / f".{division}-{submitter}.old", output / f".{division}-{submitter}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        if old.exists() and not target.exists():
            old.rename(target)
        lost = {path.stem for path in (target / "systems").glob("*.json")} - described.keys()
        if lost:
            raise ConfigError(
                f"the package that is there has results of {', '.join(sorted(lost))}, too: name all systems, or remove "
                f"{target} first."
            )
        target_layout = LAYOUTS[found.layout](staging)
        _write(target_layout, source, results, division, submitter, rehearsal)
        for name, values in described.items():
            _text(target_layout.system_file(name), json.dumps(values, indent=4, ensure_ascii=False) + "\n")
        _check_sizes(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        staging.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        tarball = output.with_name(f"{output.name}-{submitter}.tar.gz")
        digest = _tar(output, submitter, tarball)
    except OSError as error:
        raise ConfigError(f"the package cannot be made in {output}: {error.filename}: {error.strerror}.") from error
    except UnicodeError as error:
        raise ConfigError(f"the package cannot be made: a file of the results is no UTF-8 text ({error}).") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Packaged(target, output, found, results, tarball, digest)


def make(
    division: str,
    submitter: str,
    systems: list[str],
    tree: Path | None,
    output: Path | None,
    round_name: str | None,
    rehearsal: bool,
    as_json: bool = False,
) -> int:
    """`package` with the places that are left open; prints what was made, and what our own check says of it.

    ``as_json`` prints both as JSON.

    Returns:
        0, or 1 when the check finds problems.
    """
    prefixed = [s if s.startswith(REHEARSAL_PREFIX) or not rehearsal else REHEARSAL_PREFIX + s for s in systems]
    default = REHEARSAL_PREFIX + default_system_name() if rehearsal else default_system_name()
    with console.working("packing the submission"):
        made = package(
            division=division,
            submitter=submitter,
            systems=prefixed or [default],
            tree=tree or (REHEARSAL_TREE if rehearsal else ROOT),
            output=output or ROOT / "build" / ("rehearsal-submission" if rehearsal else "submission"),
            round_name=round_name,
            rehearsal=rehearsal,
        )
    with console.working("checking"):
        report = examine(made.root, made.round, rehearsal)
    code = 1 if report.problems else 0
    if as_json:
        results = [
            {**asdict(result.scene), "result": result.performance, "accuracy": result.accuracy}
            for result in made.results
        ]
        about = {"folder": made.folder, "division": division, "tarball": made.tarball, "sha256": made.sha256}
        console.print_json({**about, "results": results, "check": facts(report, [], rehearsal)})
        return code
    table = Table("system", "benchmark", "scenario", "result", "accuracy", box=None, pad_edge=False)
    for result in made.results:
        scene = result.scene
        table.add_row(scene.system, scene.benchmark, scene.scenario, result.performance, result.accuracy)
    console.print_table(table)
    console.out.print(f"{made.folder}: {count(len(made.results), 'result')} for {made.round.name}, {division} division")
    console.out.print(f"{made.tarball}: sha256 {made.sha256}")
    show(report, [], rehearsal)
    return code
