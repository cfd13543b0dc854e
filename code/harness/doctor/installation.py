"""The checks of Python, packages, engines and LoadGen."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path

from harness import paths
from harness.terminal.findings import BAD, GOOD, WARNING, Finding

OLDEST, NEWEST = (3, 11), (3, 13)
RECREATE = paths.advice("`rm -rf .venv && make setup`", paths.SETUP)
_LICENCE = "its licence allows evaluation use only"
_IMPORT_SECONDS = 120


def python(version: tuple[int, ...] = sys.version_info[:3], executable: str = sys.executable) -> Iterator[Finding]:
    """Whether the project runs on this version of Python."""
    name = ".".join(map(str, version[:3]))
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        what = f"{name} ({executable}), but 3.11, 3.12 or 3.13 is needed"
        cure = "install 3.11, then run `rm -rf .venv && make setup PYTHON=/path/to/python3.11`"
        yield Finding(BAD, "Python", what, cure)
    else:
        yield Finding(GOOD, "Python", f"{name} ({executable})")
    if platform.system() != "Linux":
        yield Finding(BAD, "system", f"{platform.system()}, but Linux is needed", "use a Linux machine or container")


def required() -> Iterator[Finding]:
    """Whether the packages that an installed harness needs are installed, except those of its extras."""
    from importlib import metadata

    declared = [each for each in metadata.requires("mlperf-cpu-harness") or [] if "extra ==" not in each]
    names = sorted({re.split(r"[^A-Za-z0-9._-]", each)[0] for each in declared})
    yield from _missing([name for name in names if not _version(name)])
    if all(map(_version, names)):
        yield Finding(GOOD, "packages", f"all {len(names)} are installed")


def _missing(names: list[str]) -> Iterator[Finding]:
    if names:
        yield Finding(BAD, "packages", f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing", RECREATE)


def packages(top: Path) -> Iterator[Finding]:
    """Whether the dependencies in pyproject.toml are installed in the versions pinned by requirements.lock."""
    try:
        project = (top / "pyproject.toml").read_text(encoding="utf-8")
        lock = (top / "requirements.lock").read_text(encoding="utf-8")
    except OSError as error:
        yield Finding(WARNING, "packages", f"{error.filename} cannot be read", "fetch the repository again")
        return
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    names = sorted(set(re.findall(r'^\s+"([A-Za-z0-9_-]+)', listed[1], re.MULTILINE))) if listed else []
    pinned: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\;]+)", lock, re.MULTILINE):
        pinned.setdefault(_plain(name), set()).add(version)
    found = {name: _version(name) for name in names}
    missing = [name for name, version in found.items() if not version]
    other = [
        f"{name} {version} (pinned: {' or '.join(sorted(pinned[_plain(name)]))})"
        for name, version in found.items()
        if version and _plain(name) in pinned and version not in pinned[_plain(name)]
    ]
    if not names:
        yield Finding(WARNING, "packages", "pyproject.toml lists none", "fetch the repository again")
        return
    yield from _missing(missing)
    if other:
        yield Finding(WARNING, "packages", f"versions that differ from the pinned ones: {', '.join(other)}", RECREATE)
    if not missing and not other:
        yield Finding(GOOD, "packages", f"{len(names)} in their pinned versions")


def onnxruntime() -> Iterator[Finding]:
    """The engine that is always installed."""
    yield from _engine("onnxruntime", "ONNX Runtime", "onnxruntime")


def openvino() -> Iterator[Finding]:
    """The engine for dense models; without it, the others still run."""
    from harness.host.machine import computes_bf16

    precision = "bf16" if computes_bf16() else "f32: this processor has no bf16"
    for finding in _engine("openvino", "OpenVINO", "openvino", f"; computes FP32 models in {precision}"):
        yield finding if finding.level == GOOD else finding._replace(level=WARNING)


def deepsparse(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Finding]:
    """The optional engine for sparse models."""
    if has_deepsparse():
        yield from _engine("deepsparse", "DeepSparse", "deepsparse", f"; {_LICENCE}")
        return
    now = "sparse models run on another engine, more slowly"
    if tuple(version[:2]) != OLDEST:
        what = f"not installed, because it needs Python 3.11 and this is {version[0]}.{version[1]}; {now}; {_LICENCE}"
        cure = paths.advice("`rm -rf .venv && make setup PYTHON=python3.11`", "use Python 3.11")
        yield Finding(WARNING, "DeepSparse", what, cure)
    else:
        left_out = paths.advice("left out with DEEPSPARSE=0, or its installation failed; ", "")
        what = f"not installed: {left_out}{now}; {_LICENCE}"
        cure = paths.advice(RECREATE, "`pip install deepsparse==1.8.0`")
        yield Finding(WARNING, "DeepSparse", what, f"{cure}, if you may use it")


def has_deepsparse() -> bool:
    """Whether DeepSparse is installed."""
    try:
        return util.find_spec("deepsparse") is not None
    except ValueError:
        return False


def loadgen() -> Iterator[Finding]:
    """LoadGen, and the MLPerf round whose seeds and rules are built into it."""
    from harness.rules.rounds import ROUNDS, round_of_version

    version = _version("mlcommons-loadgen")
    if not version:
        yield Finding(BAD, "LoadGen", "not installed", RECREATE)
        return
    problem = _import_problem("mlperf_loadgen")
    if problem:
        yield Finding(BAD, "LoadGen", f"{version} cannot be imported ({problem})", RECREATE)
        return
    found = round_of_version(version)
    if found is None:
        what = f"{version} is older than {ROUNDS[0].name}, the first round that this harness knows"
        yield Finding(WARNING, "LoadGen", what, RECREATE)
    elif tuple(map(int, re.findall(r"\d+", version)[:2])) > ROUNDS[-1].first[:2]:
        what = f"{version} is newer than {ROUNDS[-1].name}, the last round that this harness knows"
        yield Finding(WARNING, "LoadGen", what, RECREATE)
    else:
        yield Finding(GOOD, "LoadGen", f"{version}, with the seeds and rules of round {found.name}")


def _engine(package: str, title: str, module: str, more: str = "") -> Iterator[Finding]:
    version = _version(package)
    if not version:
        yield Finding(BAD, title, "not installed", RECREATE)
    elif problem := _import_problem(module):
        yield Finding(BAD, title, f"{version} cannot be imported ({problem})", RECREATE)
    else:
        yield Finding(GOOD, title, f"{version}{more}")


def _import_problem(module: str) -> str:
    """Why a module cannot be imported, "" if it can; tried in a child process, as native code may crash."""
    try:
        done = subprocess.run(
            # OpenVINO sends usage data when it is imported, unless its telemetry package cannot be imported.
            [sys.executable, "-c", f"import sys; sys.modules['openvino_telemetry'] = None; import {module}"],
            # A run does not import modules from the current folder.
            env={**os.environ, "NM_DISABLE_ANALYTICS": "1", "PYTHONSAFEPATH": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {_IMPORT_SECONDS} s"
    if done.returncode < 0:
        return f"it crashes with signal {-done.returncode}"
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it fails"]
    return lines[-1][:200] if done.returncode else ""


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return ""


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
