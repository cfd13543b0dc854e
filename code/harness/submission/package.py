"""From official runs in results/ and compliance/ to the directory that is sent in, and its tarball.

Nothing of the repository is changed: the full accuracy logs stay where they are, and the package holds them truncated,
beside the sha256 of the whole. The same runs and files give the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.errors import CheckFailed, ConfigError
from harness.host import console
from harness.host.files import locked
from harness.host.machine import default_system_name
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY, read_detail
from harness.paths import ROOT
from harness.results.layout import CONF, LAYOUTS, V6, VERIFY_ACCURACY, VERIFY_PERFORMANCE, Classic, Layout, Scene
from harness.results.record import Record, difference, read_record, reference, unlike
from harness.rules.audits import AUDITS
from harness.rules.rehearsal import REHEARSAL, REHEARSAL_PREFIX, REHEARSAL_TREE
from harness.rules.rounds import DIVISIONS, ROUNDS, Round, find_round, round_of
from harness.running.identity import code_digest
from harness.submission import description as system
from harness.submission import measurements
from harness.submission.check import examine
from harness.submission.run_check import count, facts, show

KEPT = 4096
"""Bytes that a truncated log keeps of its beginning, and of its end (the official truncate_accuracy_log.py)."""
_CUT = b"\n\n...\n\n"
_LARGEST = 50 * 2**20
"""Bytes of the largest file that a submission may hold (the official checker)."""
_PROJECT = ("code", "docs", "tools", "Makefile", "pyproject.toml", "requirements.lock", "requirements-deepsparse.lock",
            CONF, "LICENSE", "NOTICE", "README.md", "submission.md")  # fmt: skip
_LONGEST = 80  # characters of a name that many file systems, and the checkers' messages, bear
_ITSELF = ("resnet50", "efficientnet", "mobilenet")
"""A name that holds one of these is taken for ResNet50 by the checkers, as one with bert-99 is taken for BERT."""


@dataclass(frozen=True)
class Result:
    """The runs of one scenario."""

    scene: Scene
    records: dict[str, Record]
    """By test: performance, accuracy, and TEST01 and TEST04 where they were made."""
    told: dict[str, Any]
    """What a person says of the model."""

    @property
    def values(self) -> dict[str, str]:
        """The measurements."""
        return measurements.measurements(self.records["performance"], self.told)

    @property
    def performance(self) -> str:
        """The result, with its unit."""
        metric = self.records["performance"]["result"]["metric"]
        return f"{metric['value']:.6g} {metric['unit']}"

    @property
    def accuracy(self) -> str:
        """The scores."""
        scored = self.records["accuracy"]["result"]["accuracy"]
        return ", ".join(f"{name} {number:.3f} %" for name, number in scored.items())

    @property
    def implementation(self) -> str:
        """What the code's folder and the measurements file are named after: the engine."""
        return self.records["performance"]["engine"]["name"]


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
    if any(result.records["performance"].get("code") != code_digest() for result in results):
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


def _results(source: Classic, systems: list[str], division: str, rehearsal: bool) -> tuple[list[Result], list[str]]:
    """The runs of these systems, and what keeps them out of a submission, a sentence each."""
    scenes = [scene for scene in source.scenes() if scene.system in systems]
    for name in systems:
        if not any(scene.system == name for scene in scenes):
            there = ", ".join(sorted({scene.system for scene in source.scenes()})) or "none"
            raise ConfigError(
                f"there are no official results of system {name} in {source.root / 'results'} (there are: {there}): "
                "make them with `make submission`, or give SYSTEM=."
            )
    results, problems = [], []
    for scene in scenes:
        records: dict[str, Record] = {}
        folders = {"performance": source.performance(scene), "accuracy": source.accuracy(scene)}
        if division == "closed":
            folders |= {test: source.compliance(scene, test) / "performance" / "run_1" for test in AUDITS}
        for test, folder in folders.items():
            record = read_record(folder)
            if record is not None:
                records[test] = record
                problems += _unfit(folder, record, rehearsal)
            elif folder.exists():
                problems.append(f"{folder} has no record (run.json): only runs of this harness can be packaged.")
            elif not test.startswith("TEST"):
                problems.append(f"{folder} is missing: make {scene.scenario}'s {test} run with `make submission`.")
        for test, record in records.items():
            first = records.get("performance", record)
            if other := difference(first, record["identity"]) or unlike(first, record):
                problems.append(
                    f"{folders[test]} was run with another {other} than the performance run: run one of them again."
                )
            if test.startswith("TEST") and record.get("reference") != reference(source.results(scene), test):
                problems.append(
                    f"{folders[test]} was compared with results that have been replaced since: run {test} again."
                )
        if not {"performance", "accuracy"} <= records.keys():
            continue
        told_at = source.root / "measurements" / scene.system / scene.benchmark / measurements.TOLD
        told = measurements.read_told(told_at)
        problems += [f"{told_at}: {words}." for words in measurements.contradictions(records["performance"], told)]
        result = Result(scene, records, told)
        problems += _untold(result, told_at)
        if division == "closed":
            problems += _not_closed(result, told_at, rehearsal)
        results.append(result)
    return results, problems


def _system(path: Path, name: str, rehearsal: bool) -> dict[str, Any]:
    """A system description; of a rehearsal that of the real system, or what this machine tells, marked as what it is.

    Raises:
        ConfigError: it cannot be read, or there is none.
    """
    if not rehearsal:
        if not path.is_file():
            raise ConfigError(f"{path} is missing: make it with `harness system init --system {name}`, and fill it in.")
        return system.read_system(path)
    real = ROOT / "systems" / f"{name.removeprefix(REHEARSAL_PREFIX)}.json"
    values = system.read_system(real) if real.is_file() else system.describe_machine()
    known = name if "system_name" in system.unfilled(values) else values["system_name"]
    values |= {"system_name": f"REHEARSAL on {known}", "sw_notes": REHEARSAL}
    defaults = {"status": "available", "system_type": "edge"}
    for field in system.unfilled(values):
        values[field] = defaults.get(field, "REHEARSAL")
    return values


def _unfit(folder: Path, record: Record, rehearsal: bool) -> Iterator[str]:
    """Why a run may not be packaged."""
    if not record.get("valid"):
        yield f"{folder} is no valid run: run it again."
    if record["rehearsal"] != rehearsal:
        kind = "is a rehearsal" if record["rehearsal"] else "is a measurement, and this a rehearsal"
        yield f"{folder} {kind}: the two are never packaged together."
    elif not rehearsal and not record["for_submission"]:
        yield f"{folder} is a development run: run it with --official."
    if not rehearsal and record["model"]["caveat"]:
        yield f"{folder} was made with {record['model']['caveat']}: it is no result."


def _untold(result: Result, path: Path) -> Iterator[str]:
    missing = measurements.unknown(result.values)
    if missing:
        model = result.records["performance"]["model"]
        example = json.dumps({"sha256": model["sha256"], **dict.fromkeys(missing, "...")})
        name = model["name"]
        yield f"model {name} does not tell its {', '.join(missing)}: write {example} to {path}."


def _not_closed(result: Result, path: Path, rehearsal: bool) -> Iterator[str]:
    """Why a result does not belong into the closed division."""
    model = result.records["performance"]["model"]
    if not rehearsal and not (model["equivalent"] or result.told.get(measurements.EQUIVALENT)):
        yield (
            f"{result.scene.benchmark}: the closed division takes the reference model only, and {model['name']} is not "
            f'known to be that: use DIVISION=open, or write {{"{measurements.EQUIVALENT}": true}} to {path} if it is.'
        )


def _round(source: Layout, results: list[Result], wanted: str | None) -> Round:
    """The round whose seeds all runs have.

    Raises:
        ConfigError: the runs are of other rounds.
    """
    rounds: dict[Round, Path] = {}
    for result in results:
        folders = [("performance", source.performance(result.scene)), ("accuracy", source.accuracy(result.scene))]
        folders += [
            ("performance", source.compliance(result.scene, test) / "performance" / "run_1")
            for test in result.records
            if test.startswith("TEST")
        ]
        for mode, folder in folders:
            values = read_detail(folder, mode).values
            found = round_of(values)
            if found is None:
                raise ConfigError(f"{folder} was run with seeds of no round that is known ({_names()}).")
            rounds.setdefault(found, folder)
    chosen = find_round(wanted) if wanted else next(iter(rounds), ROUNDS[-1])
    for found, folder in rounds.items():
        if found != chosen:
            version = ".".join(map(str, chosen.first))
            raise ConfigError(
                f"{folder} was run with the seeds of {found.name}, and a submission to {chosen.name} needs its own: "
                f"install LoadGen {version} or a later one of that round, and run everything again."
            )
    return chosen


def _names() -> str:
    return ", ".join(each.name for each in ROUNDS)


def _write(
    target: Layout, source: Classic, results: list[Result], division: str, submitter: str, rehearsal: bool
) -> None:
    # The newer of the official checkers reads the classic layout, and the older one, as it is today, looks for all of a
    # result in its folder of results/ whatever the round: there it finds copies.
    layouts = [target] if isinstance(target, V6) else [target, V6(target.root)]
    for layout in layouts:
        for result in results:
            _write_result(layout, source, result)
    for benchmark, implementation in {(result.scene.benchmark, result.implementation) for result in results}:
        _write_code(target.root / target.code / benchmark / implementation, results)
    for layout in layouts[1:]:
        _text(target.root / layout.code / "README.md", f"The code is in [{target.code}](../{target.code}).\n")
    if division == "closed" or any("calibration" in r.records["performance"]["model"]["metadata"] for r in results):
        mine = ROOT / "calibration.md"
        if mine.is_file():
            _copy(mine, target.calibration)
        else:
            _text(target.calibration, measurements.calibration(r.records["performance"] for r in results))
    mapping = {
        result.scene.benchmark: "resnet"
        if result.records["performance"]["model"]["benchmark"] == "resnet50"
        else "bert-99"
        for result in results
        if not any(word in result.scene.benchmark for word in (*_ITSELF, "bert-99"))
    }
    if division == "open" and mapping:
        _text(target.root / "model_mapping.json", json.dumps(mapping, indent=2, sort_keys=True) + "\n")
    _text(target.root / "README.md", _readme(results, division, submitter, rehearsal))


def _write_result(target: Layout, source: Classic, result: Result) -> None:
    scene = result.scene
    for folder, new in (
        (source.performance(scene), target.performance(scene)),
        (source.accuracy(scene), target.accuracy(scene)),
    ):
        for file in (SUMMARY, DETAIL):
            _copy(folder / file, new / file)
    _write_accuracy(source.accuracy(scene), target.accuracy(scene))
    for test in (test for test in result.records if test.startswith("TEST")):
        folder, new = source.compliance(scene, test), target.compliance(scene, test)
        for file in (SUMMARY, DETAIL):
            _copy(folder / "performance" / "run_1" / file, new / "performance" / "run_1" / file)
        for file in (VERIFY_ACCURACY, VERIFY_PERFORMANCE):
            if (folder / file).exists():
                _copy(folder / file, new / file)
        if (folder / "accuracy").is_dir():
            for file in sorted((folder / "accuracy").iterdir()):
                if file.name not in (ACCURACY, "accuracy.txt"):
                    _copy(file, new / "accuracy" / file.name)
            _write_accuracy(folder / "accuracy", new / "accuracy")
    folder = target.measurements(scene)
    _text(
        target.measurements_file(scene, result.implementation),
        json.dumps(result.values, indent=2, ensure_ascii=False) + "\n",
    )
    _copy(source.performance(scene) / CONF, folder / CONF)
    _text(folder / "README.md", measurements.readme(scene, result.records, result.values))


def _write_accuracy(source: Path, target: Path) -> None:
    """accuracy.txt, and the accuracy log truncated; accuracy.txt must hold the hash of the whole.

    Raises:
        CheckFailed: it holds another hash: the log was changed after it was scored.
    """
    log = (source / ACCURACY).read_bytes()
    text = (source / "accuracy.txt").read_text("utf-8")
    line = f"hash={sha256(log).hexdigest()}"
    hashes = [each for each in text.splitlines() if each.startswith("hash=")]
    if hashes != [line]:
        raise CheckFailed(f"{source / ACCURACY} is not the log that was scored (its sha256 differs): run it again.")
    _text(target / "accuracy.txt", text)
    _bytes(target / ACCURACY, truncated(log))


def truncated(log: bytes) -> bytes:
    """An accuracy log as a submission holds it: its first and last `KEPT` bytes."""
    return log if len(log) < 2 * KEPT + len(_CUT) else log[:KEPT] + _CUT + log[-KEPT:]


def _write_code(folder: Path, results: list[Result]) -> None:
    """This project as it is, with those of its models that were run; without tests, caches and hidden files."""
    used = {result.records["performance"]["model"]["sha256"] for result in results}
    for path in _project_files():
        if path.suffix == ".onnx" and sha256(path.read_bytes()).hexdigest() not in used:
            continue
        _copy(path, folder / path.relative_to(ROOT))


def _project_files() -> Iterator[Path]:
    for name in _PROJECT:
        top = ROOT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            parts = path.relative_to(ROOT).parts
            unwanted = any(p.startswith(".") or p == "__pycache__" or p.endswith(".egg-info") for p in parts)
            if path.is_file() and not path.is_symlink() and not unwanted and path.suffix != ".pyc":
                yield path


def _check_sizes(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > _LARGEST:
            raise CheckFailed(f"{path.relative_to(folder)} has more than 50 MB, which no submission may hold.")


def _readme(results: list[Result], division: str, submitter: str, rehearsal: bool) -> str:
    lines = [f"# {submitter}: MLPerf Inference, {division} division", ""]
    if rehearsal:
        lines += [f"**{REHEARSAL}**", ""]
    lines += ["| system | benchmark | scenario | model | engine | result | accuracy |", "|---|---|---|---|---|---|---|"]
    for result in results:
        record = result.records["performance"]
        engine = f"{record['engine']['name']} {record['engine'].get('version') or ''}".rstrip()
        scene = result.scene
        lines.append(
            f"| {scene.system} | {scene.benchmark} | {scene.scenario} | {record['model']['name']} | {engine} | "
            f"{result.performance} | {result.accuracy} |"
        )
    lines += [
        "",
        "The exact command, model, settings and versions of every row are in the README.md beside its measurements. "
        "The code of each benchmark is the whole project; its `submission.md` tells the way from a clone to here.",
    ]
    return "\n".join(lines) + "\n"


def _tar(root: Path, submitter: str, path: Path) -> str:
    """Write the tarball of a submitter's divisions, the same bytes for the same files; return its sha256."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for division in DIVISIONS:
            for file in sorted((root / division / submitter).rglob("*")):
                if file.is_file():
                    info = tarfile.TarInfo(file.relative_to(root).as_posix())
                    info.size, info.mode = file.stat().st_size, 0o644
                    with file.open("rb") as content:
                        tar.addfile(info, content)
    content = gzip.compress(buffer.getvalue(), mtime=0)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
    return sha256(content).hexdigest()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _text(path: Path, text: str) -> None:
    _bytes(path, text.encode())


def _bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
