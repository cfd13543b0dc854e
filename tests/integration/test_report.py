"""Reports of runs made by the real LoadGen: their numbers, and how a browser shows them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from harness.engines.profiler import NodeTotal, ProfiledNode
from harness.loadgen.logs import DETAIL
from harness.registry import SCENARIOS
from harness.results.profile import PROFILE
from harness.running.profile import summary
from harness.scenarios.base import find_scenario
from harness.settings import tuned
from harness.task.shape import Shape

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def report(runs: Path, *args: object) -> str:
    command = [sys.executable, "-m", "harness.cli", "report", "--runs-dir", runs, *args]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logged(folder: Path) -> dict:
    """The values in LoadGen's log, read independently of the harness."""
    values = {}
    for line in (folder / DETAIL).read_text("utf-8").splitlines():
        found = re.fullmatch(r':::MLLOG \{"key": "([^"]+)", "value": (.*?), "time_ms": .*', line)
        if found:
            values[found[1]] = json.loads(found[2])
    return values


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One run of each scenario."""
    top = tmp_path_factory.mktemp("report")
    (top / "empty.conf").touch()
    for scenario in SCENARIOS:
        command = [sys.executable, "-m", "harness.cli", "run", "--engine", "null", "--scenario", scenario]
        command += ["--duration", "1.5", "--dataset", "sample", "--user-conf", "empty.conf", "--runs-dir", "runs"]
        command += ["--no-tuned", "--set", "delay_us=200"]
        done = subprocess.run(command, cwd=top, capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 1), done.stderr
    for folder in (top / "runs").iterdir():
        add_more(folder, top / "tuned")
    return top / "runs"


def add_more(folder: Path, place: Path) -> None:
    """What not every run has: a profile, and in Server the tests of a tuning."""
    node = ProfiledNode("/bert/encoder/layer.10/attention/self/query/MatMul_quant", "MatMulIntegerToFloat")
    made = summary({node: NodeTotal(0.5, 4)}, "some engine 1.0", 1, 2, [Shape(8, 64)])
    (folder / PROFILE).write_text(made.model_dump_json())
    record = json.loads((folder / "run.json").read_text())
    if record["scenario"] != "Server":
        return
    rates = [
        {"rate": 1000 + 99.5 * n, "seconds": 6, "held": n < 4, "valid": n == 2, "p99_ms": 4.5 * 3**n, "queries": 9999}
        for n in range(6)
    ]
    tuned.write(
        place,
        tuned.Tuned(
            model=record["model"]["name"],
            model_sha256=record["identity"]["model_sha256"],
            dataset=record["dataset"]["name"],
            dataset_sha256=record["dataset"]["sha256"],
            engine="null",
            scenario="Server",
            options={"streams": "2"},
            key="target_qps",
            value=1199.0,
            score=1199.0,
            unit="queries/s",
            default_score=1000.0,
            rates=[tuned.Rate.model_validate({**rate, "samples_per_second": None}) for rate in rates],
            machine=tuned.Machine.here(),
            harness="0",
            time="2026-11-25T11:00:00+0000",
        ),
        "",
    )
    (folder / "run.json").write_text(json.dumps({**record, "tuned": str(place / tuned.FILE)}))


@pytest.fixture(scope="module")
def made(runs) -> Path:
    """The page with all runs."""
    report(runs, "--last", 4, "--output", runs.parent / "report.html")
    return runs.parent / "report.html"


@pytest.mark.parametrize("scenario", ["Offline", "Server", "SingleStream"])
def test_two_runs_with_the_same_settings_differ_in_none(harness, scenario):
    for _ in range(2):
        run = harness.run("--engine", "onnxruntime", "--scenario", scenario, "--duration", 0.5, "--no-tuned")
        assert run.code in (0, 1), run.err
    command = [sys.executable, "-m", "harness.cli", "compare", "--json", "--runs-dir", harness.runs]
    found = subprocess.run([*command, *(path.name for path in run.kept)], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    # What the harness chooses by measurement is a setting of that run.
    chosen = {"engine.max_batch", "engine.max_tokens", "engine.streams", "engine.threads", "shapes"}
    differences = json.loads(found.stdout)["differences"].keys() - chosen
    assert not differences - ({"loadgen.effective_target_qps"} if scenario == "Server" else set())


def test_the_numbers_are_those_of_loadgens_logs(runs, made):
    folders = sorted(runs.iterdir())
    assert len(folders) == 4
    parsed = json.loads(report(runs, *folders, "--format", "json"))
    rows = list(csv.DictReader(io.StringIO(report(runs, *folders, "--format", "csv"))))
    sections = made.read_text("utf-8").split('<section id="run-')[1:]
    for folder, run, row, section in zip(folders, parsed, rows, sections, strict=True):
        values, scenario = logged(folder), run["scenario"]
        assert run["run"] == folder.name
        assert run["verdict"] == row["verdict"] == values["result_validity"]
        kind = "per_query_latency" if scenario == "MultiStream" else "latency"
        result = values[find_scenario(scenario).result_key]
        if scenario.endswith("Stream"):
            # With too few queries LoadGen makes no estimate, and the observed percentile is used instead.
            percentile = "90.00" if scenario == "SingleStream" else "99.00"
            result = (result or values[f"result_{percentile}_percentile_{kind}_ns"]) / 1e6
        assert run["metric"]["value"] == float(row["metric.value"]) == result
        assert f"<b>{result:,.2f} {run['metric']['unit']}</b>" in section
        for percentile in ("50.00", "90.00", "99.00", "99.90"):
            latency = values[f"result_{percentile}_percentile_{kind}_ns"] / 1e6
            assert run["latency_ms"][percentile] == float(row[f"latency_ms.{percentile}"]) == latency
            assert scenario == "Offline" or f"<td>{latency:,.2f} ms</td>" in section
        bound = values["effective_target_latency_ns"] / 1e6
        assert run["bound_ms"] == (bound if scenario == "Server" else None)
        assert ("bound 130 ms" in section) == (scenario == "Server")
        assert run["loadgen"]["effective_min_duration_ms"] == values["effective_min_duration_ms"]
        for reason in run["reasons"]:
            assert reason in unescape(section)
        assert section.count("<svg") == {"Offline": 4, "Server": 7}.get(scenario, 6)
        assert ("Rate against latency" in section) == (scenario == "Server")
        assert "Time by operator" in section
        assert "Development run: not for submission." in section


MEASURE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe id="frame" src="report.html" style="border:0;width:{width}px;height:900px"></iframe><pre id="said"></pre>
<script>
frame.onload = () => {{
  const top = frame.contentDocument.documentElement, inner = frame.contentWindow;
  for (const each of frame.contentDocument.querySelectorAll("details")) each.open = true;
  const outside = [...frame.contentDocument.querySelectorAll("svg")].filter(
    svg => svg.getBoundingClientRect().right > inner.innerWidth).length;
  const boxes = [...frame.contentDocument.querySelectorAll("section, table:not(.wide), figure, h1, h2")].filter(
    box => box.getBoundingClientRect().right > inner.innerWidth).length;
  said.textContent = JSON.stringify({{
    scroll: top.scrollWidth, inner: inner.innerWidth, outside, boxes,
    dark: inner.matchMedia("(prefers-color-scheme: dark)").matches,
    paper: inner.getComputedStyle(frame.contentDocument.body).backgroundColor,
    letters: Math.min(...[...frame.contentDocument.querySelectorAll("svg text")].map(
      text => [text.getScreenCTM(), parseFloat(inner.getComputedStyle(text).fontSize)]).map(
      ([at, size]) => size * Math.hypot(at.a, at.b))),
    ink: inner.getComputedStyle(frame.contentDocument.querySelector("svg text")).fill,
    line: inner.getComputedStyle(frame.contentDocument.querySelector("svg [style*='fill: var(--first)']")).fill,
  }});
}};
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 360, 320])
def test_a_browser_shows_all_of_it(made, tmp_path, width, scheme):
    shutil.copyfile(made, tmp_path / "report.html")
    # A browser window is never as narrow as a phone's screen, but a frame can be.
    (tmp_path / "measure.html").write_text(MEASURE.format(width=width), "utf-8")
    flags = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
    flags += " disable-sync allow-file-access-from-files enable-logging=stderr virtual-time-budget=10000 dump-dom"
    flags += f" window-size=1400,1000 blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    done = subprocess.run(
        [
            str(CHROMIUM),
            *(f"--{flag}" for flag in flags.split()),
            f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "measure.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="said">(\{.*?\})</pre>', done.stdout)
    assert found, done.stdout[-2000:] + done.stderr
    seen = json.loads(unescape(found[1]))
    assert seen["inner"] == width
    assert seen["scroll"] <= width
    assert (seen["outside"], seen["boxes"]) == (0, 0)
    assert seen["letters"] > (8.5 if width == 320 else 10)  # a scrollbar takes 15 pixels here
    assert seen["dark"] == (scheme == "dark")
    assert (seen["paper"] == "rgb(255, 255, 255)") == (scheme == "light")
    assert (seen["ink"] == "rgb(28, 33, 38)") == (scheme == "light")
    assert (seen["line"] == "rgb(31, 111, 181)") == (scheme == "light")
