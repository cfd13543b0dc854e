"""Every command, target and option that a message or a help topic advises exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from harness.cli import app
from harness.paths import ROOT

FILES = sorted((ROOT / "code").rglob("*.py")) + sorted((ROOT / "code/harness/commands/help").glob("*.md"))
FOREIGN = {"--help", "--cpuset-cpus", "--port", "--include-dashboard", "--disable-usage-stats", "--force-reinstall"}
"""Options that every command has, and those of other programs."""
SCRIPTS = (
    ROOT / "code/bert/accuracy.py",
    ROOT / "code/resnet50/accuracy.py",
    ROOT / "code/harness/compliance/verify.py",
)
"""Programs with a command line of their own."""


def _commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _commands(each, f"{path} {name}".strip())


COMMANDS = dict(_commands(typer.main.get_command(app)))
OPTIONS = {option for command in COMMANDS.values() for each in command.params for option in each.opts}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VARIABLES = set(re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _texts(path: Path) -> Iterator[str]:
    """Each string of a file, with ``{}`` for its values; docstrings, which no user reads, are left out."""
    if path.suffix == ".md":
        yield path.read_text()
        return
    tree = ast.parse(path.read_text())
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, owners)]
    skipped = {id(each.value) for body in bodies for each in body if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(each) for each in node.values}
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


@pytest.fixture(scope="module")
def texts() -> list[tuple[Path, str]]:
    found = [(path, text) for path in FILES for text in _texts(path)]
    assert len(found) > 1000
    return found


def test_advised_commands_exist_and_take_their_options(texts: list[tuple[Path, str]]) -> None:
    seen = 0
    for path, text in texts:
        for words in re.findall(r"`harness ([^`]*)`", text):
            parts = words.split()
            name = max((n for n in COMMANDS if parts[: len(n.split())] == n.split()), key=len)
            assert name, f"{path}: there is no command `harness {words}`"
            options = {option for each in COMMANDS[name].params for option in each.opts}
            used = {part for part in parts if part.startswith("--") and "{" not in part}
            assert used <= options, f"{path}: `harness {words}`"
            seen += 1
    assert seen > 20


def test_advised_make_targets_and_variables_exist(texts: list[tuple[Path, str]]) -> None:
    seen = 0
    for path, text in texts:
        for words in re.findall(r"`(?:[^`]*&& )?make ([^`]*)`", text):
            target, *pairs = words.split()
            assert target in TARGETS | {"{}"}, f"{path}: there is no target `make {target}`"
            names = {name for pair in pairs for name in re.findall(r"^([A-Z_]+)=", pair)}
            assert names <= VARIABLES, f"{path}: `make {words}`"
            seen += 1
    assert seen > 20


def test_advised_options_exist(texts: list[tuple[Path, str]]) -> None:
    scripts = {word for path in SCRIPTS for word in re.findall(r'add_argument\(\s*"(--[a-z-]+)"', path.read_text())}
    used = {option: path for path, text in texts for option in re.findall(r"(?<=[\w,;:] )--[a-z][a-z-]+", text)}
    assert len(used) > 25
    assert {option: path for option, path in used.items() if option not in OPTIONS | FOREIGN | scripts} == {}
