"""Reports of made-up runs: records, logs and timelines like those that the harness and LoadGen leave."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from finished import found, rated, run_folder
from typer.testing import CliRunner

from harness import paths
from harness.catalog import manifests
from harness.cli import app
from harness.errors import ConfigError, HarnessError, MissingDependencyError
from harness.report import facts, text
from harness.report.noise import spread
from harness.report.page import page
from harness.report.plots import bars, plots
from harness.report.published import published
from harness.report.report import make
from harness.results import finished as data
from harness.results.finished import find, names


def harness(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="harness")


class _Page(HTMLParser):
    """The ids, links and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.tags = Counter(), [], Counter()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value] += 1
            if name in ("href", "src", "xlink:href"):
                self.links.append(value)


def test_the_newest_run_is_the_default_and_last_lists_the_oldest_first(tmp_path):
    for second in (12, 10, 11):
        run_folder(tmp_path / "runs", second=second)
    (tmp_path / "runs" / ".20990101T000000-x.1.partial").mkdir()
    runs = tmp_path / "runs"
    assert [name[13:15] for name in names(runs)] == ["10", "11", "12"]
    assert [run.name[13:15] for run in found(runs)] == ["12"]
    assert [run.name[13:15] for run in found(runs, last=2)] == ["11", "12"]


def test_a_run_that_cannot_be_read_stops_a_report_only_where_it_was_named(tmp_path):
    runs = tmp_path / "runs"
    good, cut, broken, other = (run_folder(runs, second=second) for second in (10, 11, 12, 13))
    (cut / "mlperf_log_detail.txt").write_text("")
    (broken / "run.json").write_text("{")
    (other / "run.json").write_text(
        (other / "run.json").read_text().replace('"scenario": "Server"', '"scenario": "Burst"')
    )
    (other / "mlperf_log_detail.txt").unlink()
    done = harness("report", "--format", "json", "--runs-dir", runs)
    assert [run["run"] for run in json.loads(done.stdout)] == [good.name]
    assert "unknown scenario 'Burst'" in done.stderr
    for folder in (cut, broken):
        assert f"skipped: {folder}" in done.stderr or f"skipped: the log in {folder}" in done.stderr
        named = harness("report", folder.name, "--runs-dir", runs)
        assert isinstance(named.exception, HarnessError)
    assert [run.name for run in found(runs, last=4)] == [good.name]
    (good / "run.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"no run in .* can be read: make one with"):
        found(runs)


def test_a_run_is_found_by_name_by_path_and_below_results(tmp_path):
    folder = run_folder(tmp_path / "runs")
    official = run_folder(tmp_path / "tree/results/sys/bert-99/Offline", name="performance", timeline=False)
    runs = folder.parent
    assert found(runs, folder.name)[0].name == found(runs, str(folder))[0].name == folder.name
    for given in (official, official.relative_to(tmp_path / "tree")):
        assert found(runs, str(given))[0].name == "results/sys/bert-99/Offline/performance"


def test_a_report_does_not_replace_a_file_of_a_run(tmp_path):
    run = run_folder(tmp_path)
    before = (run / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="is a file of a run"):
        make(find([str(run)], None, tmp_path), "json", run / "run.json")
    assert (run / "run.json").read_bytes() == before
    make(find([str(run)], None, tmp_path), "json", run / "report.json")
    assert (run / "report.json").exists()


def test_the_logs_and_the_timeline_of_an_official_run_find_each_other(tmp_path):
    folder = run_folder(tmp_path / "runs")
    official = tmp_path / "tree/results/sys/bert-99/Server/performance/run_1"
    official.mkdir(parents=True)
    (official / "run.json").write_bytes((folder / "run.json").read_bytes())
    for log in folder.glob("mlperf_log_*"):
        log.rename(official / log.name)
    for given in (folder, official):
        [run] = found(folder.parent, str(given))
        assert run.values["result_validity"] == "VALID"
        assert run.timeline.queries == 3000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there is no finished run in"),
        (["20261125"], ": there are none to choose from."),
        (["a", "--last", "2"], "--last cannot be combined with names of runs: omit one of them."),
        (["--format", "pdf"], "unknown format 'pdf'"),
        (["."], "contains no run.json: give the folder of a finished run."),
    ],
)
def test_an_error_is_one_sentence(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    done = harness("report", *args, "--runs-dir", tmp_path)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("model.path", None),
        ("mode", "fast"),
        ("reasons", 7),
        ("result.batches", "many"),
        ("result.padded_to_real", float("nan")),
        ("machine.memory_bytes", "much"),
        ("benchmark_settings", []),
        ("time", 20261125),
    ],
)
def test_a_record_of_another_form_is_one_sentence(tmp_path, where, value):
    folder = run_folder(tmp_path / "runs")
    record = inner = rated(folder)
    *above, last = where.split(".")
    for key in above:
        inner = inner[key]
    inner[last] = value
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        ConfigError, match=re.escape(f"is not a record of this harness, or one of an older version ({where})")
    ):
        found(folder.parent, folder.name)


@pytest.mark.slow
def test_the_page_is_complete_self_contained_and_reproducible(tmp_path):
    for second, scenario in enumerate(("Server", "SingleStream", "MultiStream", "Offline")):
        run_folder(tmp_path / "runs", second=10 + second, scenario=scenario)
    runs = found(tmp_path / "runs", last=4)
    made = page(runs)
    assert made == page(runs)
    parsed = _Page(made)
    assert max(parsed.ids.values()) == 1
    assert "script" not in parsed.tags
    assert parsed.tags["svg"] == 3 * 6 + 4
    inner = [link for link in parsed.links if link != "data:,"]
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in inner), inner
    assert all(name in parsed.ids for name in re.findall(r"url\(#(.*?)\)", made))
    assert not re.search(r"#0102\w\w|font-family|font: |<metadata|<\?xml", made.partition("</style>")[2])


@pytest.mark.slow
def test_notices_and_reasons_are_shown_and_a_record_is_escaped(tmp_path):
    folder = run_folder(
        tmp_path / "runs",
        valid=False,
        reasons=["the latency bound was missed: lower target_qps"],
        notice="REHEARSAL with stand-ins, not a measurement: not for submission. Model <b>x</b>: random weights.",
    )
    made = page(found(folder.parent))
    assert "INVALID" in made
    assert "the latency bound was missed: lower target_qps" in made
    assert '<p class="notice">REHEARSAL with stand-ins' in made
    assert "Model &lt;b&gt;x&lt;/b&gt;: random weights." in made
    assert "above the bound" not in made
    markdown = text.as_markdown(found(folder.parent))
    assert "> REHEARSAL" in markdown
    assert r"Model \<b>x\</b>: random weights." in markdown
    assert "- because the latency bound was missed" in markdown


@pytest.mark.slow
def test_paths_begin_at_the_repository_or_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/some body")
    folder = run_folder(tmp_path / "runs")
    record = rated(folder)
    record["model"]["path"] = "/home/some body/models/small.onnx"
    record["benchmark_settings"] = {
        "vocab": f"{paths.ROOT}/code/bert/data/vocab.txt",
        "other": "/mnt/home/some body",
    }
    record["engine"]["library"] = "/home/some bodyguard/x"
    (folder / "run.json").write_text(json.dumps(record))
    runs = found(folder.parent)
    shown = json.loads(text.as_json(runs))[0]
    assert shown["model"]["path"] == "~/models/small.onnx"
    assert shown["benchmark_settings"] == {"vocab": "code/bert/data/vocab.txt", "other": "/mnt/home/some body"}
    assert shown["engine"]["library"] == "/home/some bodyguard/x"
    for made in (page(runs), text.as_json(runs), text.as_csv(runs), text.as_markdown(runs)):
        assert str(paths.ROOT) not in made


def test_ratios_are_to_the_first_run_of_the_same_kind(tmp_path):
    runs = tmp_path / "runs"
    run_folder(runs, second=10, rate=100.0)
    run_folder(runs, second=11, rate=150.0)
    run_folder(runs, second=12, scenario="SingleStream")
    run_folder(runs, second=13, scenario="SingleStream")
    rows = {row.name: row for row in facts.side_by_side(found(runs, last=4))}
    assert [(cell.text, cell.ratio) for cell in rows["throughput"].cells] == [
        ("100.00 samples/s", ""),
        ("150.00 samples/s", "\N{MULTIPLICATION SIGN} 1.500"),
        ("-", ""),
        ("-", ""),
    ]
    ratios = [cell.ratio for cell in rows["latency observed, median"].cells]
    assert ratios == ["", "\N{MULTIPLICATION SIGN} 1.000", "", "\N{MULTIPLICATION SIGN} 1.000"]
    parsed = json.loads(text.as_json(found(runs, last=4)))
    assert [run["ratio_to_first"] for run in parsed] == [1.0, 1.5, 1.0, 1.0]


def test_a_server_that_missed_its_bound_has_no_ratio_of_throughput(tmp_path):
    runs = tmp_path / "runs"
    run_folder(runs, second=10, rate=100.0)
    run_folder(runs, second=11, rate=900.0, valid=False)
    rows = {row.name: row for row in facts.side_by_side(found(runs, last=2))}
    assert rows["throughput"].cells[1] == facts.Cell("900.00 samples/s")
    assert rows["latency observed, median"].cells[1].ratio == "\N{MULTIPLICATION SIGN} 1.000"
    assert json.loads(text.as_json(found(runs, last=2)))[1]["ratio_to_first"] is None


def test_a_disturbed_run_says_so_in_every_format_and_its_ratios_are_marked(tmp_path):
    runs = tmp_path / "runs"
    run_folder(runs, second=10, scenario="Offline", rate=100.0, others=0.05)
    run_folder(runs, second=11, scenario="Offline", rate=63.6, others=0.64)
    run_folder(runs, second=12, scenario="Server")  # an older record, without the use of the cores
    three = found(runs, last=3)
    words = "other processes used 0.64 of 2 cores during the test"
    rows = {row.name: row for row in facts.side_by_side(three)}
    assert [cell.text for cell in rows["disturbed"].cells] == ["-", words, "-"]
    assert [cell.compared for cell in rows["throughput"].cells] == ["", "\N{MULTIPLICATION SIGN} 0.636 (disturbed)", ""]
    assert [run["disturbed"] is not None for run in json.loads(text.as_json(three))] == [False, True, False]
    made = page(three)
    whole = f"{words}: the result is worse than this machine can do"
    assert f'<p class="notice">O{whole[1:]}.</p>' in made
    assert re.findall(r'<b class="(\w+)">VALID', made) == ["good", "doubtful", "good"]
    assert re.findall(r'<td class="verdict (\w+)">', made) == ["good", "doubtful", "good"]
    assert '<span class="doubtful">\N{MULTIPLICATION SIGN} 0.636 (disturbed)</span>' in made
    shown = text.as_markdown(three)
    assert f"> {whole}" in shown
    assert "63.60 samples/s (\N{MULTIPLICATION SIGN} 0.636, disturbed)" in shown
    assert whole in text.as_csv(three)


def test_ratios_to_a_disturbed_run_are_marked_and_an_accuracy_run_is_not_disturbed(tmp_path):
    runs = tmp_path / "runs"
    run_folder(runs, second=10, scenario="Offline", rate=50.0, others=0.64)
    run_folder(runs, second=11, scenario="Offline", rate=100.0, others=0.0)
    run_folder(runs, second=12, scenario="Offline", mode="accuracy", accuracy={"F1": 88.0}, others=1.9)
    rows = {row.name: row for row in facts.side_by_side(found(runs, last=3))}
    assert rows["throughput"].cells[1].compared == "\N{MULTIPLICATION SIGN} 2.000 (disturbed)"
    assert [cell.text != "-" for cell in rows["disturbed"].cells] == [True, False, False]


def test_a_small_ratio_keeps_its_digits(tmp_path):
    runs = tmp_path / "runs"
    run_folder(runs, second=10, scenario="Offline", rate=120_000.0)
    run_folder(runs, second=11, scenario="Offline", rate=56.0)
    rows = {row.name: row for row in facts.side_by_side(found(runs, last=2))}
    assert rows["throughput"].cells[1].ratio == "\N{MULTIPLICATION SIGN} 0.000467"


def test_many_runs_are_split_into_tables_that_fit_on_paper(tmp_path):
    for second in range(10, 22):
        run_folder(tmp_path / "runs", second=second, valid=second % 2 == 0, timeline=False)
    made = page(found(tmp_path / "runs", last=12))
    rows = re.findall(r'<tr><th scope="row">result</th>(.*?)</tr>', made)
    assert [row.count("<td") for row in rows] == [5, 5, 2]
    assert re.findall(r"good|bad", "".join(rows)) == ["good", "bad"] * 6


def test_csv_has_a_row_for_each_run_with_the_numbers_of_json(tmp_path):
    runs = tmp_path / "runs"
    run_folder(runs, second=10)
    run_folder(runs, second=11, scenario="MultiStream")
    chosen = found(runs, last=2)
    rows = list(csv.DictReader(io.StringIO(text.as_csv(chosen))))
    for row, run in zip(rows, json.loads(text.as_json(chosen)), strict=True):
        assert row["run"] == run["run"]
        assert float(row["metric.value"]) == run["metric"]["value"]
        assert float(row["latency_ms.99.00"]) == run["latency_ms"]["99.00"]
        assert row["accuracy"] == ""


def test_csv_has_no_column_for_an_inner_table_that_a_run_lacks(tmp_path):
    runs = tmp_path / "runs"
    run_folder(runs, second=10)
    run_folder(runs, second=11, timeline=False)
    run_folder(runs, second=12, scenario="Offline", mode="accuracy", accuracy={"F1": 89.0, "exact match": 80.0})
    [head, *_] = csv.reader(io.StringIO(text.as_csv(found(runs, last=3))))
    assert {"cores_busy.process", "accuracy.F1", "metric.value"} < set(head)
    assert not {"cores_busy", "accuracy", "metric"} & set(head)


def test_a_run_without_a_timeline_is_not_looked_for_among_the_others(tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    for second in range(10, 40):
        run_folder(runs, second=second, timeline=second % 2 == 0, queries=10)
    read, calls = data.read_record, []
    monkeypatch.setattr(data, "read_record", lambda folder: calls.append(folder) or read(folder))
    found(runs, last=30)
    assert len(calls) == 30


def test_a_run_of_a_published_model_is_shown_with_the_published_result(tmp_path):
    names = list(manifests.published())
    run_folder(tmp_path / "runs", second=10, scenario="Offline", rate=10.0, model=names[1])
    run_folder(tmp_path / "runs", second=11, scenario="Offline", rate=20.0, built=names[2], caveat="random weights")
    run_folder(tmp_path / "runs", second=12, scenario="Server", model=names[1])
    run_folder(tmp_path / "runs", second=13, scenario="Offline", built=names[2], compressed=False)
    rows = published(found(tmp_path / "runs", last=4))
    assert len(rows) == 6
    assert [len(row.reached) for row in rows] == [0, 1, 1, 0, 0, 0]
    assert rows[1].reached[0].text == "10.00 samples/s"
    assert rows[1].reached[0].ratio == f"{10 / 1367.14:.3g}"
    assert rows[2].reached[0].remark == "null, random weights"


@pytest.mark.slow
def test_an_accuracy_run_without_a_score_has_a_report(tmp_path):
    run_folder(tmp_path / "runs", scenario="Offline", mode="accuracy", model=list(manifests.published())[1])
    runs = found(tmp_path / "runs")
    assert not any(row.reached for row in published(runs))
    assert "complete" in page(runs)


@pytest.mark.slow
def test_an_accuracy_run_shows_its_scores_and_no_speed(tmp_path):
    folder = run_folder(tmp_path / "runs", scenario="Offline", mode="accuracy", accuracy={"F1": 89.0701})
    [run] = found(folder.parent)
    assert run.verdict == "complete"
    assert [facts.metric_text(metric) for metric in run.metrics] == ["89.070 %"]
    assert "89.070 %" in page([run])
    assert json.loads(text.as_json([run]))[0]["accuracy"] == {"F1": 89.0701}


@pytest.mark.slow
@pytest.mark.parametrize("timeline", ["none", "broken", "one query"])
def test_a_run_with_little_to_draw_has_a_page(tmp_path, timeline):
    folder = run_folder(tmp_path / "runs", timeline=timeline == "one query", queries=1)
    if timeline == "broken":
        (folder / "timeline.npz").write_bytes(b"PK")
    made = page(found(folder.parent))
    assert ("<svg" in made) == (timeline == "one query")
    assert ("This run has no timeline" in made) == (timeline != "one query")


@pytest.mark.slow
@pytest.mark.parametrize("queries", [14, 57])
def test_no_label_is_cut_off(tmp_path, queries):
    run_folder(tmp_path / "runs", queries=queries)  # for these counts, the ticks change once the labels have space
    [run] = found(tmp_path / "runs")
    for plot in plots(run, "a"):
        for left, words in re.findall(r'rotate\(-90 ([-\d.]+) [-\d.]+\)"[^>]*>([^<]*)<', plot.svg):
            assert float(left) > 8, words


@pytest.mark.slow
def test_without_logs_the_numbers_are_those_of_the_record(tmp_path):
    folder = run_folder(tmp_path / "runs", rate=321.0)
    for log in folder.glob("mlperf_log_*"):
        log.unlink()
    made = page(found(folder.parent))
    assert "321.00 samples/s" in made
    assert "logs no longer exist" in made


@pytest.mark.slow
def test_html_goes_to_a_file_and_the_rest_to_stdout(tmp_path):
    folder = run_folder(tmp_path / "runs")
    output = tmp_path / "new" / "page.html"
    done = harness("report", folder, "--output", output, "--runs-dir", folder.parent)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{output}\n"
    assert output.read_text("utf-8").startswith("<!DOCTYPE html>")
    done = harness("report", folder, "--format", "json", "--runs-dir", folder.parent)
    assert json.loads(done.stdout)[0]["run"] == folder.name


@pytest.mark.slow
def test_a_full_disk_behind_stdout_is_one_sentence(tmp_path):
    folder = run_folder(tmp_path / "runs")
    command = [sys.executable, "-m", "harness.cli", "report", folder, "--format", "json", "--runs-dir", folder.parent]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device: stdout.\n"
    assert done.stderr.count("\n") == 1


def test_throughput_over_time_adds_up(tmp_path):
    folder = run_folder(tmp_path / "runs")
    timeline = found(folder.parent)[0].timeline
    assert np.isclose(timeline.done.sum(), rated(folder)["result"]["samples"])


def test_throughput_of_samples_of_several_lengths_is_drawn_in_tokens(tmp_path):
    folder = run_folder(tmp_path / "runs", scenario="Offline")
    run = found(folder.parent)[0]
    assert np.isclose(run.timeline.done_cost.sum(), 50 * rated(folder)["result"]["samples"])
    drawn = {plot.title: plot for plot in plots(run, "a")}["Throughput over time"]
    assert drawn.caption.startswith("Tokens answered per second")
    assert ">tokens/s<" in drawn.svg
    older = dataclasses.replace(run, timeline=dataclasses.replace(run.timeline, done_cost=None))
    assert ">samples/s<" in {plot.title: plot for plot in plots(older, "a")}["Throughput over time"].svg


def test_results_are_compared_as_bars_within_a_kind_only(tmp_path):
    runs = tmp_path / "runs"
    for second, scenario in ((10, "Offline"), (11, "Server"), (12, "Offline"), (13, "SingleStream")):
        run_folder(runs, second=second, scenario=scenario, valid=second != 12)
    four = found(runs, last=4)
    assert facts.kinds(four) == [[0, 2], [1], [3]]
    chart = bars([four[0], four[2]], [1, 3], "k")
    assert chart.caption.startswith("samples/s; pale: INVALID or disturbed; lines: 95 % interval")
    assert all(f">{label}<" in chart.svg for label in ("1.", "3."))
    assert chart.svg.count("opacity: 0.3") == 1
    assert bars([four[1]], [2], "k") is None
    made = page(four)
    assert re.findall(r'<h3 id="kind-\d">(.*?)</h3>', made) == [
        "bert, Offline performance",
        "bert, Server performance",
        "bert, SingleStream performance",
    ]
    assert made.count("95 % interval") == 1 + made.count('aria-label="Throughput: samples/s; pale')


def test_the_interval_of_a_run_surrounds_its_result_and_a_given_rate_has_none(tmp_path):
    runs = tmp_path / "runs"
    for second, scenario in ((10, "Offline"), (11, "Server"), (12, "SingleStream")):
        run_folder(runs, second=second, scenario=scenario)
    spreads = [spread(run.scenario, run.timeline) for run in found(runs, last=3)]
    assert spreads[1] is None
    assert all(0.5 < low <= 1 <= high < 2 for low, high in (spreads[0], spreads[2]))


def test_a_disturbed_run_says_so_above_its_number_and_command_and_machine_are_open(tmp_path):
    run_folder(tmp_path / "runs", scenario="Offline", others=0.64)
    made = page(found(tmp_path / "runs"))
    assert made.index("Other processes used 0.64 of 2 cores") < made.index('<div class="metrics">')
    assert '<pre class="command">harness run --scenario Offline</pre>' in made
    folded = made[made.index("<details>") :]
    assert "some CPU" in made
    assert "some CPU" not in folded
    assert "package: numpy" in folded


def test_samples_per_core_and_joule(tmp_path):
    folder = run_folder(tmp_path / "runs", scenario="Offline")
    rows = dict(facts.facts(found(tmp_path / "runs")[0]))
    assert rows["per core"] == "750.00 samples/s"  # 3,000 in 2 s on 2 cores
    assert "energy" not in rows
    record = rated(folder)
    record["result"]["energy"] = {"joules": 120.0, "seconds": 2.0, "zones": ["package-0", "dram"]}
    (folder / "run.json").write_text(json.dumps(record))
    run = found(tmp_path / "runs")[0]
    assert dict(facts.facts(run))["energy"] == "60.0 W, 25 samples/J (package-0, dram)"
    assert json.loads(text.as_json([run]))[0]["energy"]["joules"] == 120
    both = {row.name: row.cells[0].text for row in facts.side_by_side([run, run])}
    assert (both["power"], both["samples per joule"]) == ("60.0 W", "25")


def test_the_deviation_from_onnx_runtime_is_shown(tmp_path):
    folder = run_folder(tmp_path / "runs", mode="accuracy", accuracy={"F1": 80.0})
    assert "deviation from ONNX Runtime" not in dict(facts.facts(found(tmp_path / "runs")[0]))
    record = json.loads((folder / "run.json").read_text())
    record["agreement"] = {"with": "onnxruntime", "differences": [[16, 1, 0.04], [64, 1, 0.43]]}
    (folder / "run.json").write_text(json.dumps(record))
    [run] = found(tmp_path / "runs")
    assert json.loads(text.as_json([run]))[0]["agreement"] == record["agreement"]
    shown = dict(facts.facts(run))
    times = "\N{MULTIPLICATION SIGN}"
    expected = f"up to 43.00%, in batches of 64{times}1, more than rounding explains"
    assert shown["deviation from ONNX Runtime"] == expected
    record["agreement"]["differences"].append([])
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"\(agreement\.differences\.2\)"):
        found(tmp_path / "runs", folder.name)


def test_what_changes_a_score_is_shown_with_its_source_and_with_the_doubts(tmp_path):
    folder = run_folder(tmp_path / "runs", mode="accuracy", accuracy={"top-1": 37.5})
    run_folder(tmp_path / "runs", second=11)
    record = json.loads((folder / "run.json").read_text())
    record["choices"] = [
        {"name": "preprocessing", "value": "mlperf", "source": "assumed"},
        {"name": "label offset", "value": "0", "source": "from the graph"},
    ]
    record["doubts"] = ["it is at chance."]
    (folder / "run.json").write_text(json.dumps(record))
    runs = found(tmp_path / "runs", last=2)
    shown = dict(facts.facts(runs[0]))
    assert shown["preprocessing"] == "mlperf (assumed)"
    assert shown["label offset"] == "0 (from the graph)"
    assert shown["doubt"] == "it is at chance."
    rows = {row.name: [cell.text for cell in row.cells] for row in facts.side_by_side(runs)}
    assert rows["preprocessing"] == ["mlperf (assumed)", facts.NONE]
    assert "mlperf (assumed)" in text.as_markdown(runs)
    assert "it is at chance." in page(runs[:1])
    values = json.loads(text.as_json(runs))[0]
    assert (values["choices"], values["doubts"]) == (record["choices"], record["doubts"])
    first, second = csv.DictReader(io.StringIO(text.as_csv(runs)))
    assert (first["choices.preprocessing"], first["doubts"]) == ("mlperf (assumed)", "it is at chance.")
    assert (second["choices.preprocessing"], second["doubts"]) == ("", "")


def test_a_named_folder_without_a_readable_run_is_a_mistake(tmp_path):
    folder = run_folder(tmp_path / "runs")
    (folder / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"^no run in \S+/runs can be read"):
        find([str(tmp_path / "runs")], None, tmp_path / "elsewhere")


def test_a_folder_of_runs_stands_for_all_of_them(tmp_path, capsys):
    runs = tmp_path / "runs"
    run_folder(runs, second=10)
    run_folder(runs, second=11, scenario="Offline")
    run_folder(runs / ".hidden", second=12)
    broken = run_folder(runs, second=13)
    (broken / "run.json").write_text("{")
    names = [run.name for run in find([str(runs)], None, tmp_path / "elsewhere")]
    assert names == sorted(folder.name for folder in runs.iterdir() if folder.name[0] != "." and folder != broken)
    assert "skipped: " in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"contains no run\.json"):
        find([str(tmp_path / "empty")], None, runs)


def test_parquet_has_the_rows_of_csv_with_types(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    runs = tmp_path / "runs"
    run_folder(runs, second=10)
    run_folder(runs, second=11, mode="accuracy", accuracy={"F1": 88.5}, reasons=["a", "b"], valid=False)
    output = tmp_path / "runs.parquet"
    make(found(runs, last=2), "parquet", output)
    rows = pq.read_table(output).to_pylist()
    assert [row["run"] for row in rows] == [run.name for run in found(runs, last=2)]
    assert (rows[0]["accuracy.F1"], rows[1]["accuracy.F1"]) == (None, 88.5)
    assert rows[0]["metric.value"] == 300.0
    assert rows[0]["for_submission"] is False
    assert rows[0]["machine.cores"] == 2
    assert rows[0]["doubts"] == ""


def test_parquet_without_its_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    run_folder(tmp_path / "runs")
    with pytest.raises(MissingDependencyError, match="Parquet needs pyarrow: add it with `make setup PARQUET=1`"):
        make(found(tmp_path / "runs"), "parquet", tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()
