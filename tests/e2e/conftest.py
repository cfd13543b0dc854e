"""A copy of the repository for a test: the project's code with manifests that the test may change."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Clone:
    """A copy of the code, run with the Python of the tests."""

    def __init__(self, top: Path) -> None:
        self.top = top
        shutil.copytree(ROOT / "code", top / "code", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.copy(ROOT / "user.conf", top)
        for folder in ("systems", "measurements", "results", "compliance"):
            (top / folder).mkdir()
            shutil.copy(ROOT / folder / "README.md", top / folder)
        self.manifest = top / "code" / "bert" / "datasets.toml"

    def harness(self, *args: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "harness.cli", *map(str, args)],
            cwd=self.top,
            env={**os.environ, "PYTHONPATH": str(self.top / "code")},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def stand_in(self, name: str, content: bytes, url: str) -> None:
        """Make ``content``, to be fetched from ``url``, the file of that name in the manifest."""
        text = self.manifest.read_text("utf-8")
        found = re.search(rf'(?ms)^\["?{re.escape(name)}"?\]$.*?(?=^\[|\Z)', text)
        table = found[0]
        table = re.sub(r"(?s)urls = \[.*?\]", f"urls = {json.dumps([url])}", table)
        table = re.sub(r"sha256 = .*", f'sha256 = "{hashlib.sha256(content).hexdigest()}"', table)
        table = re.sub(r"size = .*", f"size = {len(content)}", table)
        table = re.sub(r"(samples|shipped) = .*\n", "", table)
        self.manifest.write_text(text[: found.start()] + table + text[found.end() :], "utf-8")

    def official_size(self, samples: int) -> None:
        """Make this many samples the size of the full data set, so that a rehearsal is short."""
        for benchmark, full in (("bert", 10833), ("resnet50", 50000)):
            manifest = self.top / "code" / benchmark / "datasets.toml"
            text = manifest.read_text("utf-8")
            assert f"samples = {full}" in text
            manifest.write_text(text.replace(f"samples = {full}", f"samples = {samples}"), "utf-8")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "clone")


@pytest.fixture
def server(tmp_path: Path):
    """A folder and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()
