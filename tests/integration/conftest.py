"""Runs of the real LoadGen, each in its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Run:
    code: int
    out: str
    err: str
    seconds: float
    runs: Path

    @property
    def kept(self) -> list[Path]:
        """The files that the run left, including hidden ones."""
        return sorted(self.runs.iterdir()) if self.runs.exists() else []

    @property
    def folder(self) -> Path:
        assert len(self.kept) == 1, self.kept
        return self.kept[0]

    @property
    def record(self) -> dict:
        return json.loads((self.folder / "run.json").read_text())


class Harness:
    """The command line, with its output below a temporary folder."""

    def __init__(self, tmp_path: Path, dataset: Path) -> None:
        self.runs = tmp_path / "runs"
        self.dataset = dataset
        self.tmp_path = tmp_path

    def start(self, *args: object, preexec_fn=None, stdout=subprocess.PIPE, verbose=False) -> subprocess.Popen:
        given = [str(arg) for arg in args]
        if "--dataset" not in given:
            given += ["--dataset", str(self.dataset)]
        if "--user-conf" not in given:
            conf = self.tmp_path / "empty.conf"
            conf.touch()
            given += ["--user-conf", str(conf)]
        command = [
            sys.executable,
            "-m",
            "harness.cli",
            *(["-v"] if verbose else []),
            "run",
            "--runs-dir",
            str(self.runs),
            *given,
        ]
        here = str(Path(__file__).parent)
        return subprocess.Popen(
            command,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.tmp_path,
            env={**os.environ, "PYTHONPATH": here},
            start_new_session=True,
            preexec_fn=preexec_fn,
        )

    def run(self, *args: object, limit: float = 120, **options) -> Run:
        start = time.monotonic()
        process = self.start(*args, **options)
        return self.finish(process, start, limit)

    def finish(self, process: subprocess.Popen, start: float, limit: float = 60) -> Run:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"the run did not end within {limit} s\n{out}\n{err}")
        return Run(process.returncode, out, err, time.monotonic() - start, self.runs)


@pytest.fixture
def harness(tmp_path: Path, small_squad: Path) -> Harness:
    return Harness(tmp_path, small_squad)
