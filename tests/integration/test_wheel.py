"""The wheel in an environment of its own: no checkout, and data below the user's cache."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import __version__
from harness.settings.identity import code_digest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # building packs two models


@dataclass(frozen=True)
class Installed:
    wheel: Path
    command: Path
    top: Path

    @property
    def project(self) -> Path:
        """The folder in the user's cache."""
        return self.top / "cache" / "mlperf-cpu-harness"

    def harness(self, *args: object) -> subprocess.CompletedProcess[str]:
        """Run a command of the installed package in an empty folder."""
        (self.top / "elsewhere").mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [str(self.command), *map(str, args)],
            cwd=self.top / "elsewhere",
            env={**environment, "HOME": str(self.top / "home"), "XDG_CACHE_HOME": str(self.top / "cache")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel that `make wheel` builds, in a new environment that finds its dependencies in that of the tests."""
    for package in ("pip", "setuptools"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the wheel cannot be built without {package}")
    top = tmp_path_factory.mktemp("wheel")
    subprocess.run(["sh", str(ROOT / "tools" / "wheel.sh"), sys.prefix, str(top / "dist")], check=True)
    (wheel,) = (top / "dist").iterdir()
    venv.create(top / "venv", with_pip=False)
    python = top / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True)
    (packages,) = (top / "venv").glob("lib/python*/site-packages")
    # A path in a .pth file is only searched: the .pth of the tests' editable installation is not read there.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (top / "home").mkdir()
    return Installed(wheel, top / "venv" / "bin" / "harness", top)


def test_the_wheel_contains_every_file_that_the_code_may_read(installed):
    code = ROOT / "code"
    unwanted = ("__pycache__", ".egg-info")
    wanted = {
        path.relative_to(code).as_posix()
        for path in code.rglob("*")
        if path.is_file() and path.name != "README.md" and not any(word in str(path) for word in unwanted)
    }
    with zipfile.ZipFile(installed.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = [name for name in archive.namelist() if name.endswith(("/LICENSE", "/NOTICE"))]
    assert names == wanted
    assert len(about) == 2
    assert installed.wheel.name == f"mlperf_cpu_harness-{__version__}-py3-none-any.whl"


def test_a_run_and_its_report_outside_a_checkout(installed):
    done = installed.harness("run", "--mode", "accuracy", "--engine", "onnxruntime", "--samples", 20, "--json")
    assert done.returncode == 0, done.stderr
    (folder,) = (installed.project / "build" / "runs").iterdir()
    assert (folder / "mlperf_log_accuracy.json").is_file()
    record = json.loads((folder / "run.json").read_text())
    assert record["result"]["accuracy"]["F1"] > 50
    assert record["code"] == code_digest(), "the installed code is not that of the checkout"
    for name in ("elsewhere", "home"):
        assert list((installed.top / name).rglob("*")) == [], f"something was written to the {name} folder"
    report = installed.harness("report")
    assert report.returncode == 0, report.stderr
    assert "<html" in (installed.project / "build" / "report.html").read_text()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("--version", __version__),
        ("models", "efficientnet-lite0-int8"),
        ("models verify", "minilm-l6-squad-int8"),
        ("models train --list", "obert-large-int8"),
        ("data list", "run `harness data fetch`"),
        ("help offline", "Offline"),
        ("options", "max_batch"),
    ],
)
def test_a_command_that_needs_no_checkout(installed, command, shown):
    done = installed.harness(*command.split())
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_the_doctor_advises_what_works_without_make(installed):
    done = installed.harness("doctor", "--json")
    findings = json.loads(done.stdout)["findings"]
    assert [found["level"] for found in findings if found["subject"] == "packages"] == ["good"]
    assert not [found for found in findings if "make " in found["cure"]]


@pytest.mark.parametrize(
    "command",
    ["run --official", "run --rehearsal", "campaign --dry-run", "package --division open --submitter acme"],
)
def test_a_submission_needs_a_checkout_and_says_so(installed, command):
    done = installed.harness(*command.split())
    assert done.returncode == 2
    assert "needs a checkout of the repository" in done.stderr
    assert "Traceback" not in done.stderr
