from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.catalog.manifests import Dataset
from harness.errors import CheckFailed, ConfigError
from resnet50.accuracy import ImageScore, accuracy_text, main, score_log, write_accuracy_txt
from resnet50.task import ResNet50, ResNet50Settings

CODES = {"float32": "<f", "int32": "<i", "int64": "<q"}
quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encode(value: float, dtype: str) -> bytes:
    return struct.pack(CODES[dtype], value if dtype == "float32" else int(value))


def by_hand(entries: Sequence[dict], labels: Sequence[int], dtype: str) -> tuple[int, int]:
    """(good, total) as the rules say it, a response at a time."""
    first: dict[int, str] = {}
    for entry in entries:
        first.setdefault(entry["qsl_idx"], entry["data"])
    right = [labels[i] == int(struct.unpack_from(CODES[dtype], bytes.fromhex(data))[0]) for i, data in first.items()]
    return sum(right), len(right)


class Bench:
    """A log and a val_map.txt in a folder."""

    def __init__(self, folder: Path) -> None:
        self.log, self.val_map = folder / "mlperf_log_accuracy.json", folder / "val_map.txt"
        self.labels: list[int] = []

    def write_labels(self, labels: Sequence[int]) -> None:
        self.labels = [int(label) for label in labels]
        self.val_map.write_text("".join(f"val/{i}.JPEG {label}\n" for i, label in enumerate(self.labels)))

    def write(self, responses: Sequence[bytes | str], indices: Sequence[int] | None = None, **json_options) -> list:
        texts = [r if isinstance(r, str) else r.hex().upper() for r in responses]
        order = range(len(texts)) if indices is None else indices
        entries = [{"seq_id": k, "qsl_idx": i, "data": t} for k, (i, t) in enumerate(zip(order, texts, strict=True))]
        self.log.write_text(json.dumps(entries, **json_options))
        return entries

    def write_values(self, values: Sequence[float], dtype: str = "float32", **options) -> list:
        return self.write([encode(value, dtype) for value in values], **options)

    def score(self, **options) -> ImageScore:
        return score_log(self.log, np.array(self.labels, np.int64), **options)

    def args(self, *more: str) -> list[str]:
        return [f"--log={self.log}", f"--val-map={self.val_map}", *more]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Ten images of the labels 0, 100, ... 900, and no log yet."""
    made = Bench(tmp_path)
    made.write_labels(range(0, 1000, 100))
    return made


@pytest.fixture
def thousand(tmp_path: Path) -> Bench:
    """A thousand images, each of its own label, shuffled."""
    made = Bench(tmp_path)
    made.write_labels(random.Random(1).sample(range(1000), 1000))
    return made


# The rules


@pytest.mark.slow
@quick
@given(st.integers(0, 2**32), st.sampled_from([*CODES]), st.booleans(), st.booleans(), st.sampled_from([None, 1, 4]))
def test_random_logs_score_as_by_hand(bench, seed, dtype, named, lower, indent):
    rng = random.Random(seed)
    bench.write_labels([rng.randrange(1000) for _ in range(rng.randint(1, 60))])
    order = [*range(len(bench.labels))]
    order += rng.choices(order, k=rng.choice([0, 0, 7, 80]))
    rng.shuffle(order)
    tail = b"".join(encode(rng.randint(1, 999), dtype) for _ in range(rng.choice([0, 0, 1, 3])))
    responses = [encode(rng.choice([bench.labels[i], rng.randint(-1, 1000)]), dtype) + tail for i in order]
    texts = [r.hex() if lower else r.hex().upper() for r in responses]
    entries = bench.write(texts, order, indent=indent)
    score = bench.score(dtype=dtype if named else "auto")
    assert (score.good, score.total) == by_hand(entries, bench.labels, dtype)
    assert (score.missing, score.scope) == (0, "")
    assert accuracy_text(score, bench.log).startswith(
        f"accuracy={100 * score.good / score.total:.3f}%, good={score.good}, total={score.total}\nhash="
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", CODES)
def test_a_log_of_the_whole_validation_set_is_scored_in_two_seconds(tmp_path, dtype):
    bench = Bench(tmp_path)
    bench.write_labels(np.random.default_rng(3).permutation(np.repeat(np.arange(1000), 50)))
    rng = random.Random(4)
    order = [*range(50_000), *rng.choices(range(50_000), k=500)]
    rng.shuffle(order)
    values = [bench.labels[i] if rng.random() < 0.7646 else rng.randrange(1000) for i in order]
    entries = bench.write_values(values, dtype, indices=order)
    began = time.perf_counter()
    score = bench.score()
    assert time.perf_counter() - began < 2
    assert (score.dtype, score.good, score.total) == (dtype, *by_hand(entries, bench.labels, dtype))


def test_the_first_of_several_responses_counts_and_each_image_once(bench):
    values = [*bench.labels, 0, 0, 0]
    bench.write_values(values, indices=[*range(10), 9, 9, 3])
    score = bench.score()
    assert (score.good, score.total, score.top1) == (10, 10, 100.0)
    assert len(score.warnings) == 1
    assert "3 responses repeat an image, of which the first counts (qsl_idx 9, 9, 3)" in score.warnings[0]
    bench.write_values(values[::-1], indices=[3, 9, 9, *range(9, -1, -1)])
    assert bench.score().good == 8


def test_floats_are_cut_not_rounded(bench):
    bench.write_values([-0.75, 100.75, 199.9, 300, 400, 500, 600, 700, 800, 900])
    score = bench.score()
    assert (score.dtype, score.good) == ("float32", 9)
    assert "3 responses are not a label, an integer from -1 to 1000, as float32 (qsl_idx 0, 1, 2)" in score.warnings[0]


def test_other_keys_and_their_order_do_not_matter(bench):
    entries = bench.write_values(bench.labels)
    bench.log.write_text(json.dumps([{"data": e["data"], "token_count": 1, "qsl_idx": e["qsl_idx"]} for e in entries]))
    assert bench.score().good == 10


def test_one_entry_a_line_as_loadgen_writes_it(bench):
    entries = bench.write_values(bench.labels, "int64")
    bench.log.write_text("[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")
    assert bench.score().good == 10


# Which type it is


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("value", [-1, 1, 2, 500, 999, 1000])
def test_auto_knows_one_sample(tmp_path, dtype, value):
    bench = Bench(tmp_path)
    bench.write_labels([max(0, min(value, 999))])
    bench.write_values([value], dtype)
    score = bench.score()
    assert score.dtype == dtype
    assert score.good == (value == bench.labels[0])
    assert score.found == {0: value}


@pytest.mark.parametrize("size", [4, 8, 12])
def test_zeros_are_label_0_as_any_type(bench, size):
    bench.write([bytes(size)] * 10)
    assert (bench.score().good, bench.score().warnings) == (1, ())


@pytest.mark.parametrize("dtype", CODES)
def test_zeros_do_not_hide_the_type_of_the_others(bench, dtype):
    bench.write_values([0] * 9 + [900], dtype)
    assert (bench.score().dtype, bench.score().good) == (dtype, 2)


@pytest.mark.parametrize(
    ("pair", "dtype"),
    [("<ii", "int32"), ("<ff", "float32"), ("<if", "int32"), ("<fi", "float32")],
)
def test_pairs_of_4_bytes_are_not_int64(bench, pair, dtype):
    bench.write([struct.pack(pair, label, 7) for label in bench.labels])
    assert (bench.score().dtype, bench.score().good) == (dtype, 10)


def test_pairs_in_most_of_which_the_label_is_0_are_known_by_the_others(bench):
    bench.write([struct.pack("<ff", label, 0.5) for label in [0] * 9 + [900]])
    assert (bench.score().dtype, bench.score().good) == ("float32", 2)


def test_int64_read_as_int32_gives_the_same_labels(bench):
    bench.write_values([-1, *bench.labels[1:]], "int64")
    assert bench.score(dtype="int32").good == bench.score(dtype="int64").good == bench.score().good == 9
    assert bench.score(dtype="int32").found == bench.score().found


@pytest.mark.parametrize(
    ("responses", "reason"),
    [
        (
            [encode(5, "float32")] * 9 + [encode(5, "int32")],
            r"1 responses are not a label as float32 \(qsl_idx 9\); 9 responses are not a label as int32 "
            r"\(qsl_idx 0, 1, 2, 3, 4, \.\.\.\); --dtype auto cannot detect the type: pass float32 or int32\.",
        ),
        ([encode(5, "int64")] * 9 + [struct.pack("<ii", 5, 1)], r"pass float32 or int64 or int32\."),
        ([encode(0, "int64")] * 2 + [encode(5, "int64")] * 7 + [struct.pack("<ii", 0, 1)], "not a label as int64"),
        (
            [encode(3e9, "float32")] * 10,
            "10 responses are not a label as float32.*10 responses are not a label as int32",
        ),
        ([encode(0.5, "float32")] * 9 + [encode(0, "float32")], "9 responses are not a label as float32"),
        (
            [encode(0.5, "float32")] * 9 + [encode(1, "int32")],
            "10 responses are not a label as float32.*9 responses are not a label as int32",
        ),
        ([encode(5000, "int64")] * 10, "10 responses are not a label as int64"),
    ],
    ids=["mixed", "a few pairs", "damaged zero", "huge", "fractions", "one tiny int", "int64 too large"],
)
def test_auto_rejects_types_that_it_cannot_detect(bench, capsys, responses, reason):
    bench.write(responses)
    with pytest.raises(CheckFailed, match=reason):
        bench.score()
    assert main(bench.args()) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("values", "dtype", "good"), [([5000, *range(100, 1000, 100)], "int64", 9), ([0.5] + [100] * 9, "float32", 2)]
)
def test_a_type_that_auto_cannot_fully_detect_is_scored_on_demand(bench, values, dtype, good):
    bench.write_values(values, dtype)
    score = bench.score(dtype=dtype)
    assert score.good == good
    assert f"1 responses are not a label, an integer from -1 to 1000, as {dtype} (qsl_idx 0)" in score.warnings[0]


def test_a_mixed_log_is_scored_on_demand_with_a_warning(bench):
    entries = bench.write([encode(5, "float32")] * 5 + [encode(label, "int32") for label in bench.labels[5:]])
    for dtype in ("float32", "int32"):
        score = bench.score(dtype=dtype)
        assert score.good == by_hand(entries, bench.labels, dtype)[0]
        assert f"5 responses are not a label, an integer from -1 to 1000, as {dtype}" in score.warnings[0]


@pytest.mark.parametrize("actual", CODES)
@pytest.mark.parametrize("said", CODES)
def test_a_type_that_is_plainly_another_is_refused_with_the_right_one(bench, actual, said):
    bench.write_values(bench.labels, actual)
    if said == actual or (said, actual) == ("int32", "int64"):
        assert bench.score(dtype=said).good == 10
        return
    with pytest.raises(CheckFailed, match=f"as {said}.*; --dtype {actual} would fit") as error:
        bench.score(dtype=said)
    assert "qsl_idx" in str(error.value)


def test_minus_one_as_int32_is_not_a_nan_but_another_type(bench):
    bench.write_values([-1] * 10, "int32")
    assert (bench.score().dtype, bench.score().good) == ("int32", 0)
    with pytest.raises(CheckFailed, match="--dtype int32 would fit"):
        bench.score(dtype="float32")


def test_an_unknown_dtype_is_refused(bench):
    bench.write_values(bench.labels)
    with pytest.raises(ConfigError, match="unknown dtype 'bf16': choose from auto, float32"):
        bench.score(dtype="bf16")


# Logs without a score


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda e: e[6].update(qsl_idx=10),
            r"1 responses are to samples outside 0-9 \(qsl_idx 10\); check the data set",
        ),
        (lambda e: e[6].update(qsl_idx=-1), r"outside 0-9 \(qsl_idx -1\)"),
        (lambda e: e[0].update(data="0G"), r"1 responses are not hexadecimal \(qsl_idx 0\); repeat the accuracy run"),
        (lambda e: e[0].update(data="ABC"), r"not hexadecimal \(qsl_idx 0\)"),
        (lambda e: e[3].update(data=""), r"1 responses are empty \(qsl_idx 3\)"),
        (lambda e: [x.update(data="") for x in e], r"10 responses are empty \(qsl_idx 0, 1, 2, 3, 4, \.\.\.\)"),
        (lambda e: e[2].update(data="0041"), r"1 responses are not a multiple of 4 bytes.*\(qsl_idx 2\)"),
        (lambda e: e[2].update(data="000041421F"), r"not a multiple of 4 bytes.*\(qsl_idx 2\)"),
        (lambda e: e[5].update(data="0000C07F"), r"1 responses are NaN or infinite \(qsl_idx 5\)"),
        (lambda e: e[5].update(data="010080FF"), r"1 responses are NaN or infinite \(qsl_idx 5\)"),
        (lambda e: e[5].update(data="0000807F"), r"1 responses are NaN or infinite \(qsl_idx 5\)"),
        (lambda e: e.clear(), "has no responses, like that of a performance run"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_log_without_a_score(bench, capsys, change, reason, dtype):
    entries = bench.write_values(bench.labels)
    change(entries)
    bench.log.write_text(json.dumps(entries))
    with pytest.raises(CheckFailed, match=reason):
        bench.score(dtype=dtype)
    assert main(bench.args(f"--dtype={dtype}")) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_responses_too_short_for_the_type_given_name_the_one_that_fits(bench):
    bench.write_values(bench.labels, "int32")
    with pytest.raises(CheckFailed, match=r"10 responses are not a multiple of 8 bytes.*; --dtype int32 would fit"):
        bench.score(dtype="int64")


def test_what_follows_an_images_first_response_cannot_spoil_it(bench):
    bench.write([*(encode(label, "float32") for label in bench.labels), "0G", ""], [*range(10), 3, 4])
    assert bench.score().good == 10


def test_another_file_than_a_log_is_refused(bench):
    bench.log.write_text("accuracy=76.456%, good=38228, total=50000\n")
    with pytest.raises(ConfigError, match=r"is not LoadGen's mlperf_log_accuracy\.json"):
        bench.score()


# Parts of the data set


def test_images_without_a_response_leave_the_official_line_but_not_the_exit_code(bench, tmp_path, capsys):
    bench.write_values([0, 100, 7, 400], indices=[0, 1, 2, 4])
    assert main(bench.args(f"--output={tmp_path / 'accuracy.txt'}")) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "accuracy=75.000%, good=3, total=4"
    assert lines[2] == "on only 4 of the 10 images, the others have no response"
    assert captured.err.startswith("warning: 6 of 10 images have no response (qsl_idx 3, 5, 6, 7, 8, ...), so this")
    assert captured.err.endswith("repeat the accuracy run.\n")
    assert (tmp_path / "accuracy.txt").read_text() == captured.out


def test_a_run_of_the_first_images_is_recognised_and_scored_with_samples(bench, capsys):
    bench.write_values([0, 100, 7, 300])
    assert "the first 4 images, pass --samples 4." in bench.score().warnings[-1]
    score = bench.score(samples=4)
    assert (score.good, score.total, score.missing, score.warnings) == (3, 4, 0, ())
    assert score.scope == "on the first 4 of 10 images"
    assert main(bench.args("--samples=4")) == 0
    assert capsys.readouterr().out.splitlines()[2] == "on the first 4 of 10 images"
    score = bench.score(samples=5)
    assert (score.missing, score.scope) == (1, "on only 4 of the first 5 of 10 images, the others have no response")
    with pytest.raises(CheckFailed, match=r"outside 0-2 \(qsl_idx 3\)"):
        bench.score(samples=3)


@pytest.mark.parametrize("samples", [0, 11, -1])
def test_samples_that_no_run_can_have(bench, samples):
    bench.write_values(bench.labels)
    with pytest.raises(ConfigError, match="choose from 1 to 10"):
        bench.score(samples=samples)


def test_all_samples_are_the_whole_data_set(bench):
    bench.write_values(bench.labels)
    assert bench.score(samples=10) == bench.score()


# Labels that are off by one


def mostly(labels: Sequence[int], shift: int, share: float = 0.7, seed: int = 5) -> list[int]:
    rng = random.Random(seed)
    return [label + shift if rng.random() < share else rng.randrange(1000) for label in labels]


@pytest.mark.parametrize(("shift", "word"), [(1, "added to"), (-1, "subtracted from")])
@pytest.mark.parametrize("dtype", CODES)
def test_labels_that_are_off_by_one_are_reported(thousand, shift, word, dtype):
    values = mostly(thousand.labels, -shift)
    thousand.write_values(values, dtype)
    score = thousand.score()
    hits = sum(value + shift == label for value, label in zip(values, thousand.labels, strict=True))
    assert score.shift == shift
    assert score.good < 10
    assert f"with 1 {word} each, top-1 would be {hits / 10:.3f} %" in score.warnings[-1]
    assert "label_offset is probably wrong" in score.warnings[-1]


def test_the_warning_of_a_shift_is_the_last(thousand):
    thousand.write_values([*mostly(thousand.labels, 1)[:-1], 0], indices=[*range(999), 0])
    score = thousand.score()
    assert score.missing == 1
    assert ["repeat" in score.warnings[0], "no response" in score.warnings[1], "shifted" in score.warnings[2]] == [
        True
    ] * 3


@pytest.mark.slow
@quick
@given(st.integers(0, 2**32), st.sampled_from(["noise", "constant", "few", "weak", "good"]), st.integers(1, 1000))
@example(0, "constant", 1000)
def test_no_model_is_taken_for_a_shifted_one(thousand, seed, kind, samples):
    rng = random.Random(seed)
    few = [rng.randrange(1000) for _ in range(5)]
    thousand.write_values(
        [
            {
                "noise": lambda label: rng.randrange(1000),
                "constant": lambda label: few[0],
                "few": lambda label: rng.choice(few),
                # One in eight right, half of the others the neighbour.
                "weak": lambda label: label if rng.random() < 0.125 else label + rng.choice([0.5, -0.5, 1]) // 1,
                "good": lambda label: label if rng.random() < 0.7 else label - 1,
            }[kind](label)
            for label in thousand.labels[:samples]
        ]
    )
    assert thousand.score(samples=samples, dtype="float32").shift == 0


def test_one_label_for_images_of_its_neighbour_alone_is_not_a_shift(tmp_path):
    bench = Bench(tmp_path)
    bench.write_labels([6] * 200)
    bench.write_values([5] * 200)
    assert bench.score().shift == 0


@pytest.mark.parametrize(("count", "shift"), [(9, 0), (12, -1)])
@pytest.mark.parametrize("others", [0, 900])
def test_a_shift_takes_ten_images(thousand, count, shift, others):
    thousand.write_values([label + 1 for label in thousand.labels[:count]] + [-1] * others)
    assert thousand.score(samples=count + others).shift == shift


# accuracy.txt, the command and the benchmark


def test_accuracy_txt(bench, tmp_path):
    bench.write_values(bench.labels)
    score, path = bench.score(), tmp_path / "new" / "accuracy.txt"
    write_accuracy_txt(path, score, bench.log)
    digest = hashlib.sha256(bench.log.read_bytes()).hexdigest()
    assert path.read_text() == f"accuracy=100.000%, good=10, total=10\nhash={digest}\n"
    write_accuracy_txt(path, score, bench.log, "a short run", "agreement with the FP32 baseline")
    assert path.read_text().splitlines() == [
        "agreement with the FP32 baseline=100.000%, good=10, total=10",
        f"hash={digest}",
        "a short run",
    ]
    assert [p.name for p in path.parent.iterdir()] == ["accuracy.txt"]
    with pytest.raises(ConfigError, match="cannot write"):
        write_accuracy_txt(path / "below", score, bench.log)


def test_the_command(bench, tmp_path):
    bench.write_values([*bench.labels[:8], 1, 2], "int64")
    command = [sys.executable, "-m", "resnet50.accuracy", *bench.args(f"--output={tmp_path / 'a.txt'}")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (tmp_path / "a.txt").read_text()
    assert run.stdout.startswith("accuracy=80.000%, good=8, total=10\nhash=")


@pytest.mark.parametrize("options", [[], ["--verbose"]])
def test_a_reader_that_stops_early_is_not_a_failure(thousand, options):
    thousand.write_values([*thousand.labels[:600], *[0] * 400])
    command = [sys.executable, "-m", "resnet50.accuracy", *thousand.args(*options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()
        assert run.stderr.read() == ""
        assert run.wait() == 0


def test_verbose_lists_the_images_that_were_missed(bench, capsys):
    bench.write_values([7, *bench.labels[1:]])
    assert main(bench.args("--verbose")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["val/0.JPEG, expected: 0, found 7", "accuracy=90.000%, good=9, total=10"]
    assert lines[-1] == "labels are float32"


def test_warnings_go_to_stderr_and_leave_the_exit_code(thousand, capsys):
    thousand.write_values(mostly(thousand.labels, 1))
    assert main(thousand.args()) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: the labels in ")
    assert captured.err.count("warning: ") == 1
    assert len(captured.out.splitlines()) == 2


def test_a_score_at_chance_is_a_warning(thousand, capsys):
    thousand.write_values(random.Random(2).choices(range(1000), k=1000))
    assert main(thousand.args()) == 0
    captured = capsys.readouterr()
    assert "is no better than guessing: labels, output or preprocessing are probably not the model's" in captured.err
    assert captured.out.startswith("accuracy=0.")


def test_a_log_of_garbage_is_a_score_at_chance(thousand, capsys):
    thousand.write_values([3e38, -3e38, *[2.0**31] * 998])
    assert main(thousand.args("--dtype=float32")) == 0
    assert "0 of 1,000 right is no better than guessing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["log", "val_map"])
def test_the_exit_code_of_a_wrong_path_is_2(bench, capsys, name):
    bench.write_values(bench.labels)
    getattr(bench, name).unlink()
    assert main(bench.args()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: cannot read the ")
    assert captured.out == ""


def test_a_wrong_option_ends_with_2(bench):
    with pytest.raises(SystemExit) as exit_info:
        main(bench.args("--dtype=bf16"))
    assert exit_info.value.code == 2


@pytest.fixture
def run_score(small_imagenet, tmp_path):
    """Scores float32 labels as at the end of a run on the ten images of small_imagenet, labels 0, 100, ... 900."""

    def run(values, metric=None, samples=None):
        bench = Bench(tmp_path)
        bench.write_values(values)
        dataset = Dataset(name="small", path=small_imagenet / "val_map.txt", sha256=None, metric=metric)
        benchmark = ResNet50(ResNet50Settings(), tmp_path)
        return benchmark.score(bench.log, dataset, samples, tmp_path / "accuracy.txt", "a note")

    return run


def test_a_run_is_scored_and_leaves_the_official_line(run_score, tmp_path):
    accuracy = run_score([0, *range(100, 900, 100), 1])
    assert accuracy.metrics == {"top-1": 90.0}
    assert accuracy.scope == "all 10 images of small"
    lines = (tmp_path / "accuracy.txt").read_text().splitlines()
    assert (lines[0], lines[2:]) == ("accuracy=90.000%, good=9, total=10", ["a note"])


def test_agreement_is_never_called_accuracy(run_score, tmp_path):
    accuracy = run_score([0, 100, 1], metric="agreement with the FP32 baseline", samples=3)
    assert accuracy.metrics == {"agreement with the FP32 baseline": pytest.approx(200 / 3)}
    text = (tmp_path / "accuracy.txt").read_text()
    assert text.startswith("agreement with the FP32 baseline=66.667%, good=2, total=3\nhash=")
    assert not any(line.startswith("accuracy") for line in text.splitlines())
    assert "on the first 3 of 10 images" in text


def test_a_run_that_lacks_an_image_has_no_accuracy(run_score, tmp_path):
    with pytest.raises(CheckFailed, match="1 of 10 images have no response"):
        run_score(range(0, 900, 100))
    assert not (tmp_path / "accuracy.txt").exists()


def test_a_run_with_a_wrong_label_offset_has_no_accuracy(run_score, tmp_path):
    with pytest.raises(
        CheckFailed, match="label_offset is probably wrong: with 1 subtracted from each, top-1 would be 100"
    ):
        run_score(range(1, 1000, 100))
    assert not (tmp_path / "accuracy.txt").exists()


def test_a_log_of_some_images_is_scored_by_its_images(bench, capsys):
    bench.write_values([100, 100, 300, 7], indices=[1, 2, 3, 3])
    assert main(bench.args()) == 1
    capsys.readouterr()
    score = bench.score(partial=True)
    assert (score.good, score.total, score.missing, score.warnings) == (2, 3, 0, ())
    assert main(bench.args("--partial")) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "accuracy=66.667%, good=2, total=3"
    assert out.splitlines()[2] == "on the 3 of 10 images that the log samples"
    assert err == ""


def test_a_whole_log_has_no_scope_if_it_may_be_partial(bench):
    bench.write_values(bench.labels)
    assert bench.score(partial=True).scope == ""
    bench.write_values([5], indices=[10])
    with pytest.raises(CheckFailed, match="outside 0-9"):
        bench.score(partial=True)
