"""Run files: what they ask for, what is wrong with them, and the one that repeats a run."""

from __future__ import annotations

import dataclasses
import os
import tomllib

import pytest

from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.commands import topics
from harness.commands.running import RunOptions
from harness.errors import ConfigError
from harness.results.layout import CONF
from harness.settings.identity import identity
from harness.settings.request import RunRequest, resolve
from harness.settings.runfile import KEYS, RUNFILE, read, varying, written


@pytest.fixture
def file(tmp_path):
    def make(text: str):
        path = tmp_path / "sweep.toml"
        path.write_text(text, "utf-8")
        return path

    return make


def values(path, given=(), options=()):
    return [dict(point.values) for point in read(path, dict(given), dict(options))]


def test_the_keys_of_a_file_are_the_options_of_the_command():
    others = {"file", "option", "dry_run", "retry", "fresh", "as_json"}
    named = {field.name.replace("_", "-") for field in dataclasses.fields(RunOptions) if field.name not in others}
    assert named == set(KEYS)


def test_lists_are_combined_in_the_order_of_the_file(file):
    path = file('engine = ["null", "onnxruntime"]\nscenario = "Server"\n[set]\nthreads = [1, 2]\n')
    assert values(path) == [
        {"engine": engine, "scenario": "Server", "threads": threads}
        for engine in ("null", "onnxruntime")
        for threads in (1, 2)
    ]
    points = read(path, {}, {})
    assert varying(points) == ["engine", "threads"]
    assert points[3].request.options == {"threads": "2"}
    assert (points[3].request.engine, points[3].request.scenario) == ("onnxruntime", "Server")


def test_each_run_adds_to_what_stands_above_or_replaces_it(file):
    path = file(
        'engine = "null"\nduration = 2\nset.max_batch = [1, 2]\n'
        '[[run]]\nscenario = "Offline"\n[[run]]\nscenario = "Server"\nduration = 5.5\nset.max_batch = 4\n'
    )
    points = read(path, {}, {})
    assert [(p.request.scenario, p.request.duration, p.request.options) for p in points] == [
        ("Offline", 2.0, {"max_batch": "1"}),
        ("Offline", 2.0, {"max_batch": "2"}),
        ("Server", 5.5, {"max_batch": "4"}),
    ]


def test_repeats_are_spread_over_the_sweep(file):
    found = values(file('repeat = 2\nengine = ["null", "onnxruntime"]\n'))
    assert [(each["repeat"], each["engine"]) for each in found] == [
        (1, "null"), (1, "onnxruntime"), (2, "null"), (2, "onnxruntime"),
    ]  # fmt: skip


def test_what_is_typed_replaces_what_the_file_says(file):
    path = file('engine = ["null", "onnxruntime"]\nscenario = "Server"\n[set]\nthreads = [1, 2]\n')
    points = read(path, {"engine": "openvino", "duration": 3.0}, {"threads": "8"})
    assert len(points) == 1
    request = points[0].request
    assert (request.engine, request.scenario, request.duration) == ("openvino", "Server", 3.0)
    assert request.options == {"threads": "8"}


def test_paths_are_relative_to_the_file_and_names_stay_names(file, tmp_path):
    (tmp_path / "sample").mkdir()  # the name of a data set, too
    path = file(
        'model = ["minilm-l6-squad-int8", "x.onnx", "models/y.onnx"]\ndataset = "sample"\nuser-conf = "my.conf"\n'
        'cluster = "local:2"\nruns_dir = "runs"\n[set]\nvocab = "words.txt"\ncasing = "cased"\n'
    )
    (tmp_path / "x.onnx").touch()
    requests = [point.request for point in read(path, {}, {})]
    expected = ["minilm-l6-squad-int8", str(tmp_path / "x.onnx"), str(tmp_path / "models/y.onnx")]
    assert [request.model for request in requests] == expected
    first = requests[0]
    assert (first.dataset, first.cluster) == ("sample", "local:2")
    assert (first.user_conf, first.runs_dir) == (tmp_path / "my.conf", tmp_path / "runs")
    assert first.options == {"vocab": str(tmp_path / "words.txt"), "casing": "cased"}
    typed = read(path, {"model": "z.onnx", "user-conf": "typed.conf"}, {"vocab": "typed.txt"})[0].request
    assert (typed.model, str(typed.user_conf), typed.options["vocab"]) == ("z.onnx", "typed.conf", "typed.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine = ", r"sweep\.toml is not TOML \(Invalid value \(at end of document\)\)"),
        ('engin = "null"', r"unknown key 'engin': did you mean 'engine'"),
        ("set = 3", r"set is not a table: write \[set\]"),
        ("[run]\nengine = 3", r"run is not a list of tables: write each as \[\[run\]\]"),
        ("engine = []", "engine is an empty list: give a value"),
        ("[set]\nthreads = [[1]]", r"set\.threads = \[1\]: give a string, a number"),
        ("[engine]\nname = 'null'", "engine = .*: give a string, a number"),
        ("repeat = 0", "repeat must be a whole number of at least 1"),
        ("repeat = true", "repeat must be a whole number of at least 1"),
        ('duration = "long"', r"sweep\.toml: duration = long: input should be a valid number"),
        ('official = "perhaps"', "official = perhaps: input should be a valid boolean"),
        ("samples = 1.5", r"samples = 1\.5: input should be a valid integer"),
        ("repeat = 20000", "20,000 tests: lower repeat or shorten its lists, to at most 10,000"),
        ("repeat = 1000000000000\n[set]\nthreads = [1, 2]", "2,000,000,000,000 tests: lower repeat or shorten"),
        ("samples = true", "samples = true: give a number"),
        ("stall_timeout = [1, false]", "stall_timeout = false: give a number"),
        ("user_conf = 'a'\nuser-conf = 'b'", "user_conf and user-conf are the same key: remove one"),
        ("[set]\nmax_batch = 1\nmax-batch = 2", "max_batch and max-batch are the same key: remove one"),
        ("[[run]]\nrun = 1", r"a \[\[run\]\] cannot contain run: write each \[\[run\]\] at the top"),
        ("run = 0", r"run is not a list of tables"),
        ("max_batch = 8", r"max_batch is an option of --set: write it below \[set\]"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_file(file, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(file(text), {}, {})
    assert "sweep.toml" in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_file_that_is_missing_or_not_text(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file or directory: .*none\.toml: give a run file"):
        read(tmp_path / "none.toml", {}, {})
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.toml is not text in UTF-8"):
        read(tmp_path / "x.toml", {}, {})


def test_a_run_writes_the_file_that_repeats_it(tmp_path, small_squad, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'da"ta é.json').write_bytes(small_squad.read_bytes())
    (tmp_path / "user.conf").write_text("*.Server.target_qps = 5\n")
    settings = resolve(
        RunRequest(
            engine="onnxruntime",
            scenario="Server",
            dataset='da"ta é.json',
            samples=8,
            duration=1.5,
            options={"threads": "2", "max_batch": "4"},
            user_conf=tmp_path / "user.conf",
            stall_timeout=60,
        )
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / CONF).touch()
    (folder / RUNFILE).write_text(written(settings), "utf-8")
    monkeypatch.chdir("/")
    points = read(folder / RUNFILE, {}, {})
    assert len(points) == 1
    again = resolve(points[0].request)
    assert identity(again) == identity(settings)
    assert again.dataset == str(tmp_path / 'da"ta é.json')
    same = ("scenario", "mode", "samples", "duration", "stall_timeout", "official", "timeline")
    assert [getattr(again, name) for name in same] == [getattr(settings, name) for name in same]
    assert again.user_conf == folder / CONF
    assert again.tuned is None


def test_the_file_of_a_run_has_every_option_that_differs_from_its_default(tmp_path, small_squad):
    """Except --force, as a repetition must not replace a result, and the folder that tuned settings were read from."""
    (tmp_path / "user.conf").touch()
    asked = (
        {"model": "minilm-l6-squad-int8", "engine": "null", "scenario": "Server", "samples": 8, "duration": 1.5},
        {"dataset": str(small_squad), "timeline": "off", "stall_timeout": 60.0, "user_conf": tmp_path / "user.conf"},
        {"mode": "accuracy", "tuned": False, "runs_dir": tmp_path / "runs", "tree": tmp_path},
        {"rehearsal": True, "system": "mine"},
        {"official": True, "engine": "onnxruntime", "compliance": "TEST01"},
        {"engine": "onnxruntime", "profile": True},
        {"engine": "null", "cluster": "threads:2", "cluster_samples": "indices"},
    )
    repeated = set()
    for given in asked:
        keys = {name.replace("_", "-") for name in given}
        repeated |= keys & tomllib.loads(written(resolve(RunRequest(**given)))).keys()
    assert repeated == {*KEYS} - {"force", "measurements-dir"}


def test_a_path_that_is_not_utf_8_is_never_replaced_by_a_default(tmp_path, small_squad):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    dataset, vocab = folder / "data.json", folder / "vocab.txt"
    dataset.write_bytes(small_squad.read_bytes())
    vocab.write_bytes((manifests.folder("bert") / "data" / "vocab.txt").read_bytes())
    settings = resolve(RunRequest(engine="null", dataset=str(dataset), samples=8, options={"vocab": str(vocab)}))
    (tmp_path / RUNFILE).write_text(written(settings), "utf-8")
    assert set(tomllib.loads((tmp_path / RUNFILE).read_text("utf-8"))) >= {"engine", "samples", "set"}
    escaped = [line for line in (tmp_path / RUNFILE).read_text("utf-8").splitlines() if "not UTF-8" in line]
    assert [line.partition("#")[2] for line in escaped] == [
        " this path is not UTF-8: add --dataset=PATH to the command",
        " this path is not UTF-8: add --set vocab=PATH to the command",
    ]
    (tmp_path / CONF).touch()
    [point] = read(tmp_path / RUNFILE, {}, {"vocab": str(vocab)})
    with pytest.raises(ConfigError, match=r"caf\\xe9/data\.json"):
        find_dataset("bert", resolve(point.request).dataset)
    [point] = read(tmp_path / RUNFILE, {"dataset": str(dataset)}, {"vocab": str(vocab)})
    again = resolve(point.request)
    assert (identity(again), again.dataset, again.samples) == (identity(settings), str(dataset), 8)


def test_the_file_of_a_run_names_the_folders_that_are_not_the_usual_ones(tmp_path):
    tree = tmp_path / "tree"
    elsewhere = resolve(RunRequest(engine="null", tree=tree, runs_dir=tmp_path / "runs"))
    (tmp_path / RUNFILE).write_text(written(elsewhere), "utf-8")
    request = read(tmp_path / RUNFILE, {}, {})[0].request
    assert (request.tree, request.runs_dir) == (tree, tmp_path / "runs")
    for settings in (resolve(RunRequest(engine="null")), resolve(RunRequest(engine="null", rehearsal=True))):
        text = written(settings)
        assert "tree =" not in text
        assert "runs-dir =" not in text


def test_the_example_of_the_help_is_a_sweep(file):
    lines = [line[4:] for line in topics.text("runfile").splitlines() if line.startswith("    ")]
    points = read(file("\n".join(lines)), {}, {})
    assert len(points) == 24
    assert varying(points) == ["engine", "max_batch", "scenario", "repeat"]
