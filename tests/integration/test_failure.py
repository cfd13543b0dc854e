from __future__ import annotations

import json
import os
import resource
import signal
import time

import onnx
import pytest


def nothing_kept(run):
    assert run.kept == []
    assert "Traceback" not in run.err
    assert run.err.count("error:") == 1, run.err


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("Raises", "raises failed to run a batch: vnni unit on fire"),
        ("NotANumber", "NaN or infinite values in 'start_logits'"),
        ("WrongShape", "returned 'start_logits' with shape"),
        ("TooFew", "returned 1 outputs where the model has 2"),
        ("Lists", "returned 'start_logits' as list"),
        ("Exits", "exits failed to run a batch"),
        ("Crashes", "the test's process crashed (SIGSEGV)"),
    ],
)
@pytest.mark.parametrize("moment", ["warm-up", "test"])
def test_a_broken_engine_ends_the_run_with_one_message_and_no_result(harness, tmp_path, engine, message, moment):
    if moment == "test":  # with a target_qps nothing is measured, and the warm-up takes at most four batches
        conf = tmp_path / "qps.conf"
        conf.write_text("*.Offline.target_qps = 1000\n")
        path = tmp_path / f"late_{engine.lower()}.py"
        path.write_text(f"from faulty import {engine} as Base\nclass Late(Base):\n    after = 8\n")
        arguments = ["--engine", f"late_{engine.lower()}:Late", "--user-conf", conf]
    else:
        arguments = ["--engine", f"faulty:{engine}"]
    run = harness.run(*arguments, "--set", "max_batch=2", "--duration", "1")
    assert run.code == 1
    assert message in run.err
    assert run.seconds < 30
    nothing_kept(run)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("ExitsWith2", "the test's process exited with code 2 while exits-with-2 first ran "),
        ("PressesCtrlC", "KeyboardInterrupt ended the test, most likely raised by the engine."),
    ],
)
def test_how_an_engine_ends_the_process_is_not_taken_for_an_outcome(harness, engine, message):
    run = harness.run("--engine", f"faulty:{engine}", "--set", "max_batch=1", "--mode", "accuracy")
    assert run.code == 1
    assert message in run.err
    nothing_kept(run)


@pytest.mark.parametrize(
    ("engine", "messages"),
    [
        (
            "DescribesNothing",
            [
                "warning: describe() of engine describes-nothing failed, so run.json lacks its version: RuntimeError",
                "warning: remark() of engine describes-nothing failed: RuntimeError: nothing to say.",
                "warning: describes-nothing failed to close (SystemExit: double free); the result is kept.",
            ],
        ),
        (
            "ExitsClosing",
            ["warning: the test had ended, and its result is in {}; afterwards: the test's process exited"],
        ),
        ("HangsClosing", ["warning: the test had ended, and its result is in {}; afterwards: no progress for 1 s"]),
    ],
)
def test_what_fails_beside_the_test_is_a_warning_and_the_result_is_kept(harness, engine, messages):
    run = harness.run("--engine", f"faulty:{engine}", "--mode", "accuracy", "--stall-timeout", "1", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["engine"] == run.record["engine"]
    assert [text for text in messages if text.format(run.folder) not in run.err] == []
    assert "error:" not in run.err
    assert "othing was kept" not in run.err


def test_ctrl_c_while_an_engine_does_not_close_says_where_the_result_is(harness):
    process = harness.start("--engine", "faulty:HangsClosing", "--mode", "accuracy")
    assert "scenario" in process.stdout.readline()
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    run = harness.finish(process, start, 20)
    assert (run.code, run.seconds < 5) == (130, True)
    assert f"interrupted: the test had just ended, and its result is in {run.folder}." in run.err
    assert run.record["valid"]


def test_an_engine_that_aborts_on_a_graph_is_named_with_the_one_to_try(harness):
    given = ("--engine", "faulty:AbortsCompiling", "--json")
    run = harness.run(*given)
    assert run.code == 1
    assert "Backtrace" not in run.err
    assert run.out == ""
    assert "the test's process exited with code 1 while aborts compiled" in run.err
    assert ": try --engine onnxruntime; harness -v run shows what the engine printed. Nothing was kept." in run.err
    nothing_kept(run)
    shown = harness.run(*given, verbose=True)
    assert "Backtrace:" in shown.err
    assert "harness -v" not in shown.err
    # An accuracy run: its verdict does not depend on how busy the machine is.
    advised = harness.run(*given, "--engine", "onnxruntime", "--mode", "accuracy", "--samples", "4")
    assert advised.code == 0, advised.err
    assert json.loads(advised.out)["valid"]


def test_a_description_that_the_record_cannot_hold_ends_the_run_before_the_test(harness):
    run = harness.run("--engine", "faulty:NumberedVersion", "--duration", "1")
    assert run.code == 1
    assert "describe() of engine numbered-version returns version 3, which run.json cannot hold" in run.err
    nothing_kept(run)


@pytest.mark.parametrize("engine", ["Hangs", "HangsWithTheGil"])
def test_a_hanging_engine_is_reported_and_ended(harness, engine, tmp_path):
    path = tmp_path / "late.py"
    path.write_text(f"from faulty import {engine} as Base\nclass Late(Base):\n    after = 8\n")
    conf = tmp_path / "qps.conf"
    conf.write_text("*.Offline.target_qps = 1000\n")
    run = harness.run(
        "--engine", "late:Late", "--user-conf", conf, "--set", "max_batch=2", "--stall-timeout", "3", limit=60
    )
    assert run.code == 1
    assert "no progress for 3 s" in run.err
    nothing_kept(run)


@pytest.mark.parametrize(
    ("moment", "arguments"),
    [
        ("at once", ["--engine", "null"]),
        ("compiling, the GIL held", ["--engine", "faulty:HangsCompiling"]),
        ("in the test", ["--engine", "null", "--set", "delay_us=200000", "--set", "max_batch=1"]),
        ("in the test, the GIL held", ["--engine", "faulty:HangsWithTheGil"]),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_within_seconds_and_leaves_nothing(harness, moment, arguments, number):
    process = harness.start(*arguments)
    deadline = time.monotonic() + 30
    while not harness.runs.exists() or not list(harness.runs.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if moment != "at once":
        time.sleep(4)
    assert process.poll() is None
    start = time.monotonic()
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    run = harness.finish(process, start, 20)
    assert run.code == (130 if number == signal.SIGINT else 143)
    assert run.seconds < 5
    assert "interrupted" in run.err
    nothing_kept(run)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_ignored_by_nohup_or_a_background_shell_does_not_end_the_run(harness, number):
    def ignore():
        signal.signal(number, signal.SIG_IGN)

    start = time.monotonic()
    process = harness.start("--engine", "null", "--set", "delay_us=20000", "--duration", "2", preexec_fn=ignore)
    time.sleep(2)
    process.send_signal(number)
    run = harness.finish(process, start, 60)
    assert run.code == 0, run.err
    assert run.record["valid"]


def test_a_hang_in_the_first_batch_ends_by_the_stall_timeout(harness, tmp_path):
    (tmp_path / "early.py").write_text("from faulty import Hangs\nclass Early(Hangs):\n    after = 0\n")
    run = harness.run("--engine", "early:Early", "--stall-timeout", "3", limit=60)
    assert run.code == 1
    assert "no progress for 3 s" in run.err
    nothing_kept(run)


def test_the_test_ends_with_a_parent_that_was_killed_and_the_next_run_removes_its_files(harness):
    process = harness.start("--engine", "faulty:HangsWithTheGil")
    deadline = time.monotonic() + 30
    while not harness.runs.exists() or not list(harness.runs.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(3)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("the test's process outlived its parent")
    assert all(left.name.endswith(".partial") for left in sorted(harness.runs.iterdir()))
    run = harness.run("--engine", "null", "--mode", "accuracy")
    assert (run.code, len(run.kept)) == (0, 1)


def test_a_full_disk_leaves_no_result(harness):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    run = harness.run("--engine", "null", "--duration", "1", preexec_fn=limit)
    assert run.code == 1
    assert "check that the disk is not full" in run.err or "File too large" in run.err
    nothing_kept(run)


def test_a_corrupt_model_is_one_sentence(harness, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"this is not a protobuf" * 100)
    for engine in ("onnxruntime", "openvino", "deepsparse"):
        if engine == "deepsparse":
            pytest.importorskip("deepsparse", reason="DeepSparse is not installed")
        run = harness.run("--engine", engine, "--model", path)
        assert run.code == 2
        assert f"{path} is a text file, not an ONNX model" in run.err
        nothing_kept(run)


def test_a_model_whose_nodes_are_damaged_is_not_blamed_on_the_engine(harness, fp32_model, tmp_path):
    path, content = tmp_path / "damaged.onnx", fp32_model.read_bytes()
    name = next(node.output[0] for node in onnx.load(str(fp32_model)).graph.node if len(node.output[0]) > 8).encode()
    path.write_bytes(content.replace(name, name[:-1] + b"\x8f", 1))
    for engine in ("onnxruntime", "openvino", "deepsparse"):
        if engine == "deepsparse":
            pytest.importorskip("deepsparse", reason="DeepSparse is not installed")
        run = harness.run("--engine", engine, "--model", path)
        assert run.code == 2, run.err
        assert f"{path} is not an ONNX model" in run.err
        nothing_kept(run)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "no SQuAD"), ("not json", "no SQuAD"), ('{"version": "1.1", "data": []}', "")],
)
def test_a_data_set_that_is_not_squad_is_one_sentence(harness, tmp_path, text, message):
    path = tmp_path / "data.json"
    path.write_text(text)
    run = harness.run("--engine", "null", "--dataset", path)
    assert run.code == 2
    assert "data.json" in run.err or "data set" in run.err
    nothing_kept(run)


def test_a_model_of_another_task_is_refused_with_the_names_that_it_has(harness, fp32_model, tmp_path):
    model = onnx.load(str(fp32_model))
    for node in model.graph.node:
        node.input[:] = ["tokens" if name == "input_ids" else name for name in node.input]
    next(value for value in model.graph.input if value.name == "input_ids").name = "tokens"
    onnx.save(model, str(tmp_path / "other.onnx"))
    run = harness.run("--engine", "onnxruntime", "--model", tmp_path / "other.onnx")
    assert run.code == 2
    assert "no input input_ids" in run.err
    assert "tokens int64 (?, ?)" in run.err
    nothing_kept(run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "deepspars"], "unknown engine 'deepspars': did you mean 'deepsparse'?"),
        (
            ["--model", "minilm-squad-int8"],
            "unknown model 'minilm-squad-int8': did you mean 'minilm-l6-squad-int8'?",
        ),
        (["--scenario", "ofline"], "unknown scenario 'ofline': did you mean 'Offline'?"),
        (["--mode", "accurate"], "unknown mode 'accurate': did you mean 'accuracy'?"),
        (["--set", "thread=2"], "unknown option 'thread' for engine"),
        (["--set", "threads=two"], "threads = two: input should be a valid integer"),
        (["--set", "threads"], "write NAME=VALUE"),
        (["--dataset", "sampl"], "no data set or file 'sampl': did you mean 'sample'?"),
        (["--samples", "0"], "samples = 0"),
        (["--official", "--samples", "5"], "omit --samples"),
        (["--official", "--engine", "null"], "the null engine computes nothing"),
        (["--official", "--engine", "onnxruntime"], "an official run needs the full data set squad-v1.1"),
        (["--official", "--compliance", "TEST01", "--mode", "accuracy"], "omit --mode accuracy"),
        (["--compliance", "TEST01"], "pass --official as well"),
        (["--user-conf", "none.conf"], "none.conf cannot be read"),
        (["--model", "no/such.onnx"], "there is no model file no/such.onnx"),
        (["--set", "vocab=none.txt"], "none.txt"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_exit_code_2(harness, arguments, message):
    run = harness.run(*arguments)
    assert run.code == 2
    assert message in run.err
    nothing_kept(run)


def test_an_unwritable_folder_is_one_sentence(harness, tmp_path):
    (tmp_path / "file").touch()
    harness.runs = tmp_path / "file" / "runs"
    run = harness.run("--engine", "null")
    assert run.code == 2
    assert "cannot be written" in run.err
