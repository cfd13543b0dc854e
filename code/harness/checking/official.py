"""The two official checkers, run from a checkout of mlcommons/inference, with readable output.

They run in their own processes; none of their code is in this project. Their logs repeat each reason several times,
with timestamps, between hundreds of lines about passed checks: here each reason is one line, and warnings are listed
separately.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
LOG, TABLE = "checker.log", "summary.csv"
"""The files kept for each checker, in a folder with its name."""
_NOISE = re.compile(
    r"There are multiple messages with key|accuracy_sample_count not found for model"
    r"|Execution of check|is unknown$|^NoResults |^SUMMARY|checks Checks failed for"
    r"|^Some .* failed for"
)
"""Remarks, and summaries of other lines."""
_REFUSED = re.compile(r"^closed/.*accuracy not met")
"""A warning that is a reason for refusal, since the closed division has a target."""


@dataclass(frozen=True)
class CheckerVerdict:
    """The verdict of one checker on a tree."""

    checker: str
    accepted: bool | None
    """None if it was not run."""
    reasons: tuple[str, ...]
    """Why it does not accept the tree."""
    warnings: tuple[str, ...] = ()
    """Warnings that do not make it refuse the tree."""


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


def run_checkers(
    checkout: Path, root: Path, round_: Round, python: str = sys.executable, keep: Path | None = None
) -> list[CheckerVerdict]:
    """Run both checkers on a tree with the given Python; ``keep`` receives a folder for each, with its log and table.

    Raises:
        MissingDependencyError: that Python lacks a package that they import.
        ConfigError: that Python cannot be run, or ``keep`` cannot be written.
    """
    tools = checkout / _TOOLS
    commands = {_PACKAGE: [python, "-m", f"{_PACKAGE}.main"], _SCRIPT: [python, str(tools / _SCRIPT)]}
    verdicts = []
    for checker, command in commands.items():
        with _working_folder(keep and checker_folder(keep, checker)) as folder:
            verdicts.append(_run(checker, command, tools, root, round_, folder))
    return verdicts


def checker_folder(keep: Path, checker: str) -> Path:
    """The folder of a checker's log and table."""
    return keep / checker.removesuffix(".py")


@contextmanager
def _working_folder(folder: Path | None) -> Iterator[Path]:
    """An empty working folder, to which a checker writes its table: ``folder``, or one that is removed afterwards."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}): check its permissions.") from error
    yield folder


def errors_and_warnings(output: str, root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The errors and the warnings in a checker's output, each once, with paths below the root."""
    found: dict[str, dict[str, None]] = {"ERROR": {}, "WARNING": {}}
    for line in output.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or match["level"] not in found or _NOISE.search(match["text"]):
            continue
        text = _path_first(match["text"].replace(f"{root}/", "").replace("//", "/").strip())
        if text:
            found["ERROR" if _REFUSED.search(text) else match["level"]].setdefault(text)
    return tuple(found["ERROR"]), tuple(found["WARNING"])


def _path_first(text: str) -> str:
    """'path: reason' if the message begins with the path."""
    path, separator, rest = text.partition(" ")
    path = path.rstrip(",:")
    return f"{path}: {rest}" if separator and "/" in path else text


def _run(checker: str, command: list[str], tools: Path, root: Path, round_: Round, folder: Path) -> CheckerVerdict:
    environment = {
        **os.environ,
        "PYTHONPATH": str(tools),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }
    given = ["--input", str(root.resolve()), "--version", round_.name, "--csv", str(folder / TABLE)]
    log = folder / LOG
    try:
        with log.open("wb") as file:
            done = subprocess.run(
                [*command, *given],
                cwd=folder,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_S,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return CheckerVerdict(checker, False, (f"it did not finish within {_TIMEOUT_S // 60} minutes",))
    except OSError as error:
        raise ConfigError(f"{command[0]} cannot be run: {error.strerror}; name a Python with --python.") from error
    return _verdict(checker, command[0], done.returncode, log.read_text("utf-8", "replace"), root, round_)


def _verdict(checker: str, python: str, code: int, output: str, root: Path, round_: Round) -> CheckerVerdict:
    """The verdict that a checker's exit code and output express."""
    if "argument --version: invalid choice" in output:
        return CheckerVerdict(checker, None, (f"it does not support {round_.name}",))
    if missing := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", output):
        package = {"yaml": "pyyaml"}.get(missing[1], missing[1])
        raise MissingDependencyError(
            f"{checker} needs the package {package}, which {python} does not have: name a Python that has it with "
            "--python."
        )
    reasons, warnings = errors_and_warnings(output, root.resolve())
    if code == 0:
        return CheckerVerdict(checker, True, (), (*reasons, *warnings))
    last = output.rstrip().rpartition("\n")[2]
    if "Traceback (most recent call last)" in output:
        reasons = (*reasons, f"the checker crashed, so the tree is not accepted: {last}")
    elif not reasons:
        reasons, warnings = warnings or (f"exit code {code}: {last}",), ()
    return CheckerVerdict(checker, False, reasons, warnings)


def _clone(folder: Path) -> Path:
    """Clone the pinned commit without history, unless an earlier check did."""
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
    except subprocess.TimeoutExpired as error:
        raise _not_cloned(folder, f"it took more than {_TIMEOUT_S // 60} minutes") from error
    if done.returncode:
        raise _not_cloned(folder, done.stderr.strip().rpartition("\n")[2])
    return done.stdout


def _not_cloned(folder: Path, reason: str) -> ConfigError:
    return ConfigError(f"{SOURCE} could not be cloned into {folder} ({reason}): name a checkout with --inference-repo.")
