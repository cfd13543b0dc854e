"""The Containerfile's own steps, as far as they can be followed without a container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def steps() -> list[tuple[str, str]]:
    """Each instruction and its words."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Containerfile").read_text("utf-8")).replace("\\\n", " ")
    return [(words[0], words[1]) for line in text.splitlines() if (words := line.split(maxsplit=1))]


def left_out(folder: str, names: list[str]) -> set[str]:
    """What .dockerignore keeps out of the image, in a folder of the checkout."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    top = Path(folder) == ROOT
    return {
        name
        for name in names
        for pattern in patterns
        if (pattern.startswith("**/") and fnmatch(name, pattern[3:])) or (top and fnmatch(name, pattern))
    }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of the image after COPY."""
    assert ("COPY", ". .") in steps()
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("image") / "top", ignore=left_out, symlinks=True)


def test_the_steps_of_the_image_are_commands_of_the_shell():
    commands = [words for name, words in steps() if name == "RUN"]
    assert any("make setup" in words for words in commands)
    for words in commands:
        subprocess.run(["sh", "-n", "-c", words], check=True)


def test_set_up_finds_what_it_needs_in_the_image(image):
    planned = subprocess.run(["make", "-n", "setup"], cwd=image, capture_output=True, text=True, check=True)
    assert "tools/setup.sh" in planned.stdout
    assert (image / "code" / "bert" / "models.toml").is_file()
    for name in (".venv", ".git", "build"):
        assert not (image / name).exists()


def test_the_image_shows_the_targets_of_make(image):
    words = {name: re.findall(r'"([^"]+)"', words) for name, words in steps() if name in ("ENTRYPOINT", "CMD")}
    shown = subprocess.run([*words["ENTRYPOINT"], *words["CMD"]], cwd=image, capture_output=True, text=True, check=True)
    assert "run-offline" in shown.stdout
