"""The floor plan: a folder imports only from lower floors, and folders of one floor do not import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FLOORS = (
    ("errors", "paths"),
    ("terminal", "validation"),
    ("files", "host"),
    ("graph", "registry"),
    ("engines", "compress", "catalog", "loadgen", "rules"),
    ("task",),
    ("models", "scheduling"),
    ("scenarios",),
    ("results",),
    ("compliance", "settings"),
    ("cluster",),
    ("machines",),
    ("descriptions", "preparing"),
    ("running", "trainable"),
    ("checking", "doctor", "report", "training", "tuning"),
    ("submission",),
    ("campaign", "sweep"),
    ("bert", "resnet50"),
    ("api", "commands"),
    ("cli",),
    ("benchmarks", "tools"),
)
"""From the ground up."""
LEVEL = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted(path for top in ("code", "benchmarks", "tools") for path in (ROOT / top).rglob("*.py"))


def room_of(module: str) -> str:
    """The folder, or the single file, that a module of the project belongs to; "" for one of another project."""
    parts = module.split(".")
    if parts[0] == "harness":
        return parts[1] if len(parts) > 1 and parts[1] in LEVEL else ""
    return parts[0] if parts[0] in LEVEL else ""


def imports(source: str) -> Iterator[str]:
    """Every module that a file imports, wherever in it; of ``from harness import x`` harness.x."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(module: str, source: str) -> list[str]:
    """The imports of a file that do not run downwards."""
    mine = room_of(module)
    targets = {room_of(name) for name in imports(source)} - {"", mine}
    return sorted(room for room in targets if LEVEL[room] >= LEVEL[mine])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_downwards(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = ".".join(parts[1:] if parts[0] == "code" else parts)
    if module != "harness.__init__":
        assert room_of(module), f"{path} has no floor"
        assert upward(module, path.read_text("utf-8")) == []


def test_an_import_that_runs_up_or_across_is_found():
    assert upward("harness.task.sut", "def f():\n    from harness.scheduling.base import Work") == ["scheduling"]
    assert upward("harness.engines.base", "from harness import catalog, errors") == ["catalog"]
    assert upward("harness.running.run", "import harness.results.record, bert.task") == ["bert"]


def test_the_top_of_the_harness_holds_eight_files():
    files = {path.name for path in (ROOT / "code" / "harness").iterdir() if path.is_file()}
    others = {"api.py", "cli.py", "errors.py", "graph.py", "paths.py", "registry.py", "validation.py"}
    assert files == {"__init__.py", *others}


def test_each_folder_of_tests_has_the_name_of_what_it_tests():
    folders = {path.name for path in (ROOT / "tests/unit/harness").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders - {path.name for path in (ROOT / "code" / "harness").iterdir()} == set()
