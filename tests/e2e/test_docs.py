"""What the documents ask an engineer to write and to type, done in a clone and undone again."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import onnx
import pytest
import typer

from harness.cli import app

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def blocks(document: str) -> dict[str, str]:
    """The fenced blocks by what stands behind the language; those without are commands."""
    text = (ROOT / "docs" / document).read_text("utf-8")
    found = re.findall(r"```(\w*) ?([^\n]*)\n(.*?)```", text, re.DOTALL)
    return {place or "commands": content for _, place, content in found}


def run_commands(clone, text: str) -> list[str]:
    outputs = []
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == ".venv/bin/harness"
        done = clone.harness(*words[1:])
        for _ in range(3):  # a test of two seconds may be INVALID on a machine that is busy with something else
            if "INVALID" not in done.stdout:
                break
            done = clone.harness(*words[1:])
        assert done.returncode == 0, (line, done.stderr)
        outputs.append(done.stdout)
    return outputs


def state(clone) -> dict[str, bytes]:
    code = clone.top / "code"
    return {str(p): p.read_bytes() for p in code.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def documents() -> list[Path]:
    """Every document of the project, except the topics of `harness help`, which a unit test reads."""
    found = {
        path for pattern in ("*.md", "docs/*.md", "*/README.md", "code/*/README.md") for path in ROOT.glob(pattern)
    }
    return sorted(path for path in found if not path.relative_to(ROOT).parts[0].startswith((".", "build")))


def commands() -> list[tuple[str, str]]:
    """Every line of a block without a language in the documents that begins like a command."""
    found = []
    for path in documents():
        for block in re.findall(r"```\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(path.name, line) for line in lines if line.startswith(("make ", ".venv/bin/"))]
    return found


@pytest.mark.parametrize(("document", "line"), commands())
def test_a_command_in_a_document_is_one(document, line):
    """Most need data, models or hours, so only their words are checked here."""
    words = shlex.split(line.replace("<", "").replace(">", ""), comments=True)
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        known = [*re.findall(r"(?m)^([A-Z_]+) \??=", MAKEFILE), "INFERENCE_REPO"]
        for word in words[1:]:
            if "=" in word:
                assert word.partition("=")[0] in known, word
        for recipe in done.stdout.replace("\\\n", " ").splitlines():
            if recipe.startswith((".venv/bin/harness", ".venv/bin/python")):
                check_program(shlex.split(recipe))
        return
    check_program(words)


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_files_that_a_document_names_exist(document):
    text = re.sub(r"(?s)```.*?```", "", document.read_text("utf-8"))
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (document.parent / link).exists()] == []
    named = re.findall(r"`((?:code|docs|tests|tools|benchmarks)/[\w./-]+)`", text)
    if document.name == "CONTRIBUTING.md":
        rooms = re.findall(
            r"`((?!code/|tests/)[a-z]+(?:/[\w./]*|\.py))`", text.partition("## Where")[2].partition("Outside")[0]
        )
        assert len(rooms) > 30
        named += [f"code/harness/{room}" for room in rooms]
    assert [name for name in named if not (ROOT / name).exists()] == []


def check_program(words: list[str]) -> None:
    """A command of the harness with options that it has, or a module that exists."""
    if not words[0].endswith("/harness"):
        assert words[:2] == [".venv/bin/python", "-m"], words
        assert importlib.util.find_spec(words[2]), words
        return
    group, rest = typer.main.get_command(app), words[1:]
    while hasattr(group, "commands"):
        if not rest:
            assert group.invoke_without_command
            return
        group, rest = group.commands[rest[0]], rest[1:]
    options = {name: option for option in group.params for name in option.opts + option.secondary_opts}
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in {*options, "-v", "--log-file", "--help"}, word


def test_an_engine_is_added_as_the_document_says(clone):
    before = state(clone)
    parts = blocks("add-an-engine.md")
    engine = clone.top / "code/harness/engines/toy.py"
    engine.write_text(parts["code/harness/engines/toy.py"], "utf-8")
    registry = clone.top / "code/harness/registry.py"
    text = registry.read_text("utf-8")
    registry.write_text(
        text.replace("ENGINES = {\n", "ENGINES = {\n" + parts["code/harness/registry.py ENGINES"]), "utf-8"
    )
    options, performance, accuracy = run_commands(clone, parts["commands"])
    assert re.search(r"toy +threads +int: threads of one batch \[1\]", options)
    assert "VALID" in performance
    same = clone.harness("run", "--engine", "onnxruntime", "--samples", 40, "--mode", "accuracy").stdout
    score = re.compile(r"F1 +[\d.]+ %")
    assert score.search(accuracy)[0].split() == score.search(same)[0].split()
    engine.unlink()
    registry.write_text(text, "utf-8")
    assert state(clone) == before


def test_a_model_is_added_as_the_document_says(clone):
    before = state(clone)
    parts = blocks("add-a-model.md")
    data = clone.top / "code/bert/data"
    content = (data / "minilm-l6-squad-int8.onnx").read_bytes()
    # A file of its own, since a model is known by its content: the name of the graph is changed.
    graph = onnx.load_from_string(content)
    graph.graph.name = "toy"
    content = graph.SerializeToString()
    (data / "toy-qa.onnx").write_bytes(content)
    manifest = clone.top / "code/bert/models.toml"
    text = manifest.read_text("utf-8")
    table = parts["code/bert/models.toml"].replace("@sha256@", hashlib.sha256(content).hexdigest())
    manifest.write_text(f"{text}\n{table}", "utf-8")
    shown, performance, accuracy = run_commands(clone, parts["commands"])
    assert "toy-qa" in shown
    assert "VALID" in performance
    assert "F1" in accuracy
    (data / "toy-qa.onnx").unlink()
    manifest.write_text(text, "utf-8")
    assert state(clone) == before
