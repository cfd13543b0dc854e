"""Writing the directory of a submission and its tarball."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from harness.errors import CheckFailed
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY
from harness.paths import ROOT
from harness.results.layout import CONF, V6, VERIFY_ACCURACY, VERIFY_PERFORMANCE, Classic, Layout
from harness.rules.rehearsal import REHEARSAL
from harness.rules.rounds import DIVISIONS
from harness.submission import measurements
from harness.submission.select import Result

KEPT = 4096
"""Bytes that a truncated log keeps of its beginning, and of its end (the official truncate_accuracy_log.py)."""
_CUT = b"\n\n...\n\n"
_LARGEST = 50 * 2**20
"""Bytes of the largest file that a submission may hold (the official checker)."""
_PROJECT = ("code", "docs", "tools", "Makefile", "pyproject.toml", "requirements.lock", "requirements-deepsparse.lock",
            CONF, "LICENSE", "NOTICE", "README.md", "submission.md")  # fmt: skip
_ITSELF = ("resnet50", "efficientnet", "mobilenet")
"""A name that holds one of these is taken for ResNet50 by the checkers, as one with bert-99 is taken for BERT."""


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
    if division == "closed" or any("calibration" in r.records["performance"].model.metadata for r in results):
        mine = ROOT / "calibration.md"
        if mine.is_file():
            _copy(mine, target.calibration)
        else:
            _text(target.calibration, measurements.calibration(r.records["performance"] for r in results))
    mapping = {
        result.scene.benchmark: "resnet" if result.records["performance"].model.benchmark == "resnet50" else "bert-99"
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
    used = {result.records["performance"].model.sha256 for result in results}
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
        scene = result.scene
        lines.append(
            f"| {scene.system} | {scene.benchmark} | {scene.scenario} | {record.model.name} | {record.engine.title} | "
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
