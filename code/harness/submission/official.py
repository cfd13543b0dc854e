"""The two official checkers, run from a checkout of mlcommons/inference, with readable output.

They run in their own processes; none of their code is in this project. Their logs repeat each reason several times,
with timestamps, between hundreds of lines about passed checks: here every reason is one line, once.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.errors import ConfigError, MissingDependencyError
from harness.rules.rounds import Round

COMMIT = "b66003e10e2db4b8c36a448b0545ec90fcc6e9e9"
"""The commit of mlcommons/inference that the rules of this project were read from."""
SOURCE = "https://github.com/mlcommons/inference"
VARIABLE = "INFERENCE_REPO"
_TOOLS = Path("tools") / "submission"
_PACKAGE, _SCRIPT = "submission_checker", "submission_checker_old.py"
_TIMEOUT_S = 1800
_LINE = re.compile(r"\[\S+ \S+ \S+:\d+ (?P<level>[A-Z]+)\] (?P<text>.*)")
_NOISE = re.compile(
    r"There are multiple messages with key|Execution of check|is unknown$|^NoResults |^SUMMARY|checks Checks failed for"
    r"|^Some .* failed for"
)
"""Remarks, and summaries of other lines."""


@dataclass(frozen=True)
class CheckerVerdict:
    """The verdict of one checker on a tree."""

    checker: str
    accepted: bool | None
    """None if it was not run."""
    reasons: tuple[str, ...]


def find_checkout(named: Path | None, clone: bool) -> Path | None:
    """The checkout to use: the named one, that of INFERENCE_REPO, or a clone of the pinned commit.

    Raises:
        ConfigError: it does not exist, or lacks the checkers.
    """
    given = named or (Path(value) if (value := os.environ.get(VARIABLE)) and not clone else None)
    if given is None:
        return _clone(paths.ROOT / "build" / "inference") if clone else None
    if not (given / _TOOLS / _PACKAGE / "main.py").is_file() or not (given / _TOOLS / _SCRIPT).is_file():
        raise ConfigError(
            f"{given} does not contain {_TOOLS}/{_PACKAGE} and {_SCRIPT}: name a checkout of {SOURCE} at {COMMIT[:8]}."
        )
    return given.resolve()


def run_checkers(checkout: Path, root: Path, round_: Round, python: str = sys.executable) -> list[CheckerVerdict]:
    """Run both checkers on a tree with the given Python.

    Raises:
        MissingDependencyError: that Python lacks a package that they import.
        ConfigError: that Python cannot be run.
    """
    tools = checkout / _TOOLS
    verdicts = [_run(_PACKAGE, [python, "-m", f"{_PACKAGE}.main"], tools, root, round_)]
    return [*verdicts, _run(_SCRIPT, [python, str(tools / _SCRIPT)], tools, root, round_)]


def readable(output: str, root: Path) -> tuple[str, ...]:
    """The reasons in a checker's output: errors and warnings, each once, with paths below the root."""
    reasons: dict[str, None] = {}
    for line in output.splitlines():
        found = _LINE.fullmatch(line)
        if found is None or found["level"] not in ("ERROR", "WARNING") or _NOISE.search(found["text"]):
            continue
        text = found["text"].replace(f"{root}/", "").replace("//", "/").strip()
        if text:
            reasons.setdefault(_path_first(text))
    return tuple(reasons)


def _path_first(text: str) -> str:
    """'path: reason' if the message begins with the path."""
    path, separator, rest = text.partition(" ")
    path = path.rstrip(",:")
    return f"{path}: {rest}" if separator and "/" in path else text


def _run(checker: str, command: list[str], tools: Path, root: Path, round_: Round) -> CheckerVerdict:
    environment = {
        **os.environ,
        "PYTHONPATH": str(tools),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }
    with tempfile.TemporaryDirectory() as folder:  # they write their tables into the working directory
        given = ["--input", str(root.resolve()), "--version", round_.name, "--csv", str(Path(folder) / "summary.csv")]
        try:
            done = subprocess.run(
                [*command, *given],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return CheckerVerdict(checker, False, (f"it did not finish within {_TIMEOUT_S // 60} minutes",))
        except OSError as error:
            raise ConfigError(f"{command[0]} cannot be run: {error.strerror}; name a Python with --python.") from error
    output = done.stdout.decode("utf-8", "replace")
    if "argument --version: invalid choice" in output:
        return CheckerVerdict(checker, None, (f"it does not support {round_.name}",))
    reasons = readable(output, root.resolve())
    last = output.rstrip().rpartition("\n")[2]
    if missing := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", output):
        package = {"yaml": "pyyaml"}.get(missing[1], missing[1])
        raise MissingDependencyError(
            f"{checker} needs the package {package}, which {command[0]} does not have: name a Python that has it with "
            "--python."
        )
    if done.returncode and "Traceback (most recent call last)" in output:
        reasons = (*reasons, f"the checker crashed, so the tree is not accepted: {last}")
    elif done.returncode and not reasons:
        reasons = (f"exit code {done.returncode}: {last}",)
    return CheckerVerdict(checker, done.returncode == 0, reasons if done.returncode else ())


def _clone(folder: Path) -> Path:
    """The pinned commit without history; kept for later checks."""
    if (folder / _TOOLS / _SCRIPT).is_file() and _git(folder, ["rev-parse", "HEAD"]).strip() == COMMIT:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for command in (
        ["init", "--quiet"],
        ["config", "remote.origin.url", SOURCE],
        ["sparse-checkout", "set", str(_TOOLS), "compliance"],
        ["fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", COMMIT],
        ["checkout", "--quiet", "--force", COMMIT],
    ):
        _git(folder, command)
    return folder


def _git(folder: Path, arguments: Iterable[str]) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise MissingDependencyError("git is missing: install it, or name a checkout with --inference-repo.") from error
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise ConfigError(
            f"{SOURCE} could not be cloned into {folder} ({said}): name a checkout with --inference-repo."
        )
    return done.stdout
