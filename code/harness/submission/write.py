"""Writes the directory of a submission and its tarball."""

import gzip
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from harness.errors import CheckFailed
from harness.files.digest import sha256_of
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY
from harness.paths import ROOT
from harness.results.layout import CONF, MAPPING, README, RUN_1, SCORES, VERIFY_ACCURACY, VERIFY_PERFORMANCE, Layout
from harness.rules.limits import CUT_MARK, KEPT_BYTES, LARGEST_FILE
from harness.rules.rehearsal import REHEARSAL
from harness.rules.rounds import DIVISIONS, RULES, recognise
from harness.submission.documents import calibration, readme
from harness.submission.request import Submission
from harness.submission.select import ScenarioRuns
from harness.submission.sources import Source


def write_package(
    target: Layout,
    submission: Submission,
    results: Sequence[ScenarioRuns],
    systems: Mapping[str, object],
    code: Sequence[Source],
) -> None:
    """Write the contents of <division>/<submitter>; ``systems`` are the descriptions by system.

    Raises:
        CheckFailed: a log was changed after it was scored.
        OSError: a file cannot be read or written.
        UnicodeDecodeError: accuracy.txt is not UTF-8.
    """
    for layout in (target, target.copies) if target.copies else (target,):
        for result in results:
            _write_result(layout, submission, result)
    for benchmark, implementation in {(result.scene.benchmark, result.implementation) for result in results}:
        for source in code:
            _copy(source.path, target.root / target.code / benchmark / implementation / source.place)
    if target.copies:
        _text(target.root / target.copies.code / README, f"The code is in [{target.code}](../{target.code}).\n")
    _write_calibration(target.calibration, submission, results)
    mapping = {
        result.scene.benchmark: _mapped(result.performance.model.benchmark)
        for result in results
        if recognise(result.scene.benchmark) is None
    }
    if mapping and not submission.closed:
        _text(target.root / MAPPING, json.dumps(mapping, indent=2, sort_keys=True) + "\n")
    _text(target.root / README, _readme(submission, results))
    for name, values in systems.items():
        _text(target.system_file(name), json.dumps(values, indent=4, ensure_ascii=False) + "\n")


def _write_result(target: Layout, submission: Submission, result: ScenarioRuns) -> None:
    scene, measured, source = result.scene, result.measured, submission.source
    _copy_logs(source.performance(measured), target.performance(scene))
    _copy_logs(source.accuracy(measured), target.accuracy(scene))
    _write_accuracy(source.accuracy(measured), target.accuracy(scene))
    for test in result.audits:
        _write_audit(source.compliance(measured, test), target.compliance(scene, test))
    values = json.dumps(result.values, indent=2, ensure_ascii=False)
    _text(target.measurements_file(scene, result.implementation), f"{values}\n")
    folder = target.measurements(scene)
    _copy(source.performance(measured) / CONF, folder / CONF)
    _text(folder / README, readme(scene, result.records, result.values, result.inferred_from))


def _write_audit(source: Path, target: Path) -> None:
    _copy_logs(source / RUN_1, target / RUN_1)
    for name in (VERIFY_ACCURACY, VERIFY_PERFORMANCE):
        if (source / name).exists():
            _copy(source / name, target / name)
    accuracy = source / "accuracy"
    if accuracy.is_dir():
        for file in sorted(accuracy.iterdir()):
            if file.name not in (ACCURACY, SCORES):
                _copy(file, target / "accuracy" / file.name)
        _write_accuracy(accuracy, target / "accuracy")


def _copy_logs(source: Path, target: Path) -> None:
    for name in (SUMMARY, DETAIL):
        _copy(source / name, target / name)


def _write_accuracy(source: Path, target: Path) -> None:
    """Write accuracy.txt and the truncated accuracy log; accuracy.txt must hold the hash of the full log.

    Raises:
        CheckFailed: it holds another hash: the log was changed after it was scored.
    """
    log = (source / ACCURACY).read_bytes()
    text = (source / SCORES).read_text("utf-8")
    line = f"hash={sha256(log).hexdigest()}"
    hashes = [each for each in text.splitlines() if each.startswith("hash=")]
    if hashes != [line]:
        raise CheckFailed(f"{source / ACCURACY} is not the log that was scored (its sha256 differs): run it again.")
    _text(target / SCORES, text)
    _bytes(target / ACCURACY, truncated(log))


def truncated(log: bytes) -> bytes:
    """An accuracy log as a submission holds it: the first and last `KEPT_BYTES` bytes."""
    return log if len(log) < 2 * KEPT_BYTES + len(CUT_MARK) else log[:KEPT_BYTES] + CUT_MARK + log[-KEPT_BYTES:]


def _write_calibration(path: Path, submission: Submission, results: Sequence[ScenarioRuns]) -> None:
    """Write the submitter's calibration.md, or one made from the records, if the division or a model needs one."""
    if not submission.closed and not any("calibration" in result.performance.model.metadata for result in results):
        return
    mine = ROOT / "calibration.md"
    if mine.is_file():
        _copy(mine, path)
    else:
        _text(path, calibration(result.performance for result in results))


def _mapped(benchmark: str) -> str:
    """The name of a benchmark of `registry.BENCHMARKS` in model_mapping.json."""
    return next(rules.mapped for rules in RULES.values() if rules.model == benchmark)


def check_sizes(folder: Path) -> None:
    """Check that no file is too large for a submission; CheckFailed names it."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            limit = f"{LARGEST_FILE >> 20} MiB, the limit of a submission"
            raise CheckFailed(f"{path.relative_to(folder)} is larger than {limit}: make it smaller.")


def _readme(submission: Submission, results: Sequence[ScenarioRuns]) -> str:
    lines = [f"# {submission.submitter}: MLPerf Inference, {submission.division} division", ""]
    if submission.rehearsal:
        lines += [f"**{REHEARSAL}**", ""]
    lines += ["| system | benchmark | scenario | model | engine | result | accuracy |", "|---|---|---|---|---|---|---|"]
    for result in results:
        scene, record = result.scene, result.performance
        lines.append(
            f"| {scene.system} | {scene.benchmark} | {scene.scenario} | {record.model.name} | {record.engine.title} | "
            f"{result.metric}{_inferred(result)} | {result.scores} |"
        )
    lines += [
        "",
        "The exact command, model, settings and versions of every row are in the README.md beside its measurements. "
        "The code of each benchmark is the complete project; its `submission.md` shows how to make this submission.",
    ]
    return "\n".join(lines) + "\n"


def _inferred(result: ScenarioRuns) -> str:
    return f" (inferred from {result.inferred_from})" if result.inferred_from else ""


def write_tarball(root: Path, submitter: str, path: Path) -> str:
    """Write the tarball of a submitter's divisions and return its sha256; the same files give the same bytes.

    Raises:
        OSError: a file cannot be read or written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        # Without the name and the time that gzip would write into its header.
        with (
            partial.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for division in DIVISIONS:
                for file in sorted((root / division / submitter).rglob("*")):
                    if file.is_file():
                        _add(tar, file, file.relative_to(root).as_posix())
        digest = sha256_of(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return digest


def _add(tar: tarfile.TarFile, file: Path, name: str) -> None:
    """Add a file without its time and owner."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = file.stat().st_size, 0o644
    with file.open("rb") as opened:
        tar.addfile(info, opened)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _text(path: Path, text: str) -> None:
    _bytes(path, text.encode())


def _bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
