from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bert_by_loops
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from squad_data import VOCAB, log_entries

from bert.accuracy import SquadScore, main, score_log, write_accuracy_txt
from bert.features import build_features
from bert.squad import read_squad
from bert.task import Bert, BertSettings
from bert.vocabulary import VOCAB as BERT_VOCAB
from harness.catalog.manifests import Dataset
from harness.errors import CheckFailed, ConfigError

CONTEXT = "Steve Smith's Café (1895-1943), the unable\u202f中国 ﬁne İİ ΑΣ [UNK] xyz½. " * 23
PARAGRAPHS = [
    (CONTEXT, [("Who?", ["Steve Smith", "Smith"]), ("When is the mist?", ["1895"])]),
    ("", [("Why?", ["empty"])]),
    ("Smith.", [("Where?", ["the Smith"])]),
]


class Bench:
    """A data set of 3 + 3 + 0 + 1 features, and logs for it."""

    def __init__(self, dataset: Path, vocab: Path, folder: Path) -> None:
        self.dataset, self.vocab, self.log, self.cache = dataset, vocab, folder / "log.json", folder / "cache"
        self.squad = read_squad(dataset)
        self.features = build_features(self.squad, vocab)
        self.lengths = self.features.lengths.tolist()

    def responses(self, seed: int = 0, dtype: str = "float32") -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [rng.normal(size=(n, 2)).astype(dtype) for n in self.lengths]

    def write(self, responses: list[np.ndarray], **json_options: object) -> None:
        self.log.write_text(json.dumps(log_entries(responses), **json_options))

    def edit(self, change: Callable[[list[dict]], object]) -> None:
        entries = log_entries(self.responses())[::-1]
        change(entries)
        self.log.write_text(json.dumps(entries))

    def score(self, **options: object) -> SquadScore:
        return score_log(self.log, self.dataset, self.vocab, cache_dir=self.cache, **options)

    def args(self, *more: str) -> list[str]:
        paths = {"log": self.log, "dataset": self.dataset, "vocab": self.vocab, "cache": self.cache}
        return [*(f"--{name}={path}" for name, path in paths.items()), *more]


@pytest.fixture
def bench(write_squad: Callable[..., Path], vocab: Path, tmp_path: Path) -> Bench:
    made = Bench(write_squad(PARAGRAPHS), vocab, tmp_path)
    assert made.features.question.tolist() == [0, 0, 0, 1, 1, 1, 3]
    return made


def _by_loops(bench: Bench, responses: list[np.ndarray]) -> dict[str, str]:
    questions = [(q.text, q.context) for q in bench.squad.questions]
    found = bert_by_loops.features(bench.squad.contexts, questions, VOCAB)
    rows = [[(float(s), float(e)) for s, e in response] for response in responses]
    texts = bert_by_loops.predictions(bench.squad.contexts, questions, found, rows)
    return {q.id: text for q, text in zip(bench.squad.questions, texts, strict=True)}


ROWS = st.sampled_from(["feature", "full", "any"])
LOGITS = st.sampled_from(["normal", "ties", "low", "masked", "equal"])
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.slow
@quick
@given(st.integers(0, 2**32), ROWS, LOGITS, st.sampled_from(["float16", "float32", "float64"]), st.booleans())
def test_predictions_against_loops(bench, seed, rows, logits, dtype, transposed) -> None:
    rng = np.random.default_rng(seed)
    responses = []
    for length in bench.lengths:
        shape = ({"feature": length, "full": 384, "any": int(rng.integers(1, 385))}[rows], 2)
        made = {
            "normal": lambda s: rng.normal(size=s),
            "ties": lambda s: rng.integers(-2, 3, size=s),
            "low": lambda s: rng.normal(-10000, 20, size=s),  # padding is at -10000
            "masked": lambda s: np.where(rng.random(s) < 0.95, -np.inf, rng.normal(size=s)),
            "equal": lambda s: np.full(s, -np.inf),
        }[logits](shape)
        responses.append(made.astype(dtype))
    bench.write([r.T for r in responses] if transposed else responses)
    score = bench.score(dtype=dtype, transposed=transposed)
    assert score.predictions == _by_loops(bench, responses)
    answers = {q.id: q.answers for q in bench.squad.questions}
    each = [bert_by_loops.answer_score(text, answers[name]) for name, text in score.predictions.items()]
    assert score.exact_match == pytest.approx(100 * sum(e for e, _ in each) / 4)
    assert score.f1 == pytest.approx(100 * sum(f for _, f in each) / 4)


@pytest.mark.parametrize(
    ("context", "said", "answer"),
    [
        ("It was Steve Smith's cafe", ("steve", "smith"), "Steve Smith"),
        ("a Café, again", ("cafe", "cafe"), "Café"),
        ("in (1895-1943).", ("1895", "1895"), "1895"),
        ("the 中国 inn", ("中", "中"), "中"),
        # One character becomes two, or none: no alignment, so the words as they stand.
        ("the Ma\u0301in.", ("main", "main"), "Ma\u0301in."),
        ("the Steve\u200b!", ("steve", "steve"), "Steve\u200b!"),
        ("a\u00a0Steve b", ("steve", "steve"), "a\u00a0Steve"),
        ("at xyz, then", ("xyz", "xyz"), "xyz,"),
    ],
)
def test_answers_are_cut_from_the_original_text(write_squad, vocab, tmp_path, context, said, answer) -> None:
    bench = Bench(write_squad([(context, [("Who?", ["x"])])]), vocab, tmp_path)
    tokens = bert_by_loops.features([context], [("Who?", 0)], VOCAB)[0]["tokens"]
    groups: list[list[int]] = []  # the tokens of each basic token of the context
    for i in range(tokens.index("[SEP]") + 1, len(tokens) - 1):
        if tokens[i].startswith("##"):
            groups[-1].append(i)
        else:
            groups.append([i])
    basic = bert_by_loops.basic(context)
    first, last = (groups[basic.index(word)] for word in said)
    response = np.zeros((len(tokens), 2), np.float32)
    response[first[0], 0] = response[last[-1], 1] = 9
    bench.write([response])
    assert bench.score().predictions == {"q0": answer}


def test_a_question_without_a_span_is_answered_empty(bench: Bench) -> None:
    bench.write(bench.responses())
    assert bench.score().predictions["q2"] == "empty"


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("ahead", "answer"), [(19, "Smith"), (20, "empty")])
def test_positions_outside_the_context_take_places_among_the_twenty(
    write_squad, vocab, tmp_path, side, ahead, answer
) -> None:
    bench = Bench(write_squad([("Smith", [("Who?", ["x"])])]), vocab, tmp_path)
    response = np.zeros((384, 2), np.float32)
    response[bench.lengths[0] - 2] = 1
    response[-ahead:, side] = 2
    bench.write([response])
    assert bench.score().predictions == {"q0": answer}


def test_one_line_and_pretty_printed_logs_score_alike(bench: Bench) -> None:
    bench.write(bench.responses())
    one = bench.score()
    bench.write(bench.responses(), indent=4)
    assert bench.score() == one
    assert (one.questions, one.total_questions, one.samples, one.scope, one.warnings) == (4, 4, 7, "", ())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e.pop(3), r"1 of 7 samples have no response \(qsl_idx 3\); repeat"),
        (lambda e: e.extend(2 * [e[2]]), r"2 responses repeat a sample \(qsl_idx 2, 2\); repeat"),
        (lambda e: e.extend(9 * [e[2]]), r"9 responses repeat a sample \(qsl_idx 2, 2, 2, 2, 2, \.\.\.\); repeat"),
        (
            lambda e: e[1].update(qsl_idx=2),
            r"no response \(qsl_idx 1\); 1 responses repeat a sample \(qsl_idx 2\)",
        ),
        (lambda e: e[6].update(qsl_idx=7), r"outside 0-6 \(qsl_idx 7\); check the data set"),
        (lambda e: e[6].update(qsl_idx=-1), r"outside 0-6 \(qsl_idx -1\)"),
        (lambda e: e[0].update(data="0G"), r"1 responses are not hexadecimal \(qsl_idx 0\)"),
        (lambda e: e[0].update(data="ABC"), r"1 responses are not hexadecimal \(qsl_idx 0\)"),
        (lambda e: e[0].update(data=""), r"1 responses are empty \(qsl_idx 0\)"),
        (
            lambda e: e[4].update(data=e[4]["data"] + "00"),
            r"1 responses are not a multiple of 8 bytes.*\(qsl_idx 4\)",
        ),
        (lambda e: e[4].update(data="00" * 8 * 385), r"over 384 rows, more than the official script accepts"),
        (lambda e: e[5].update(data=e[5]["data"][:-8] + "0000C07F"), r"NaN or \+infinity \(qsl_idx 5\)"),
        (lambda e: e[5].update(data=e[5]["data"][:-8] + "0000807F"), r"NaN or \+infinity \(qsl_idx 5\)"),
        (lambda e: e.clear(), "has no responses, like that of a performance run"),
        (
            lambda e: [x.update(data="") for x in e],
            r"7 responses are empty \(qsl_idx 0, 1, 2, 3, 4, \.\.\.\)",
        ),
    ],
)
def test_a_log_without_a_score(bench: Bench, capsys, change, reason: str) -> None:
    bench.edit(change)
    with pytest.raises(CheckFailed, match=reason) as error:
        bench.score()
    assert "\n" not in str(error.value)
    assert main(bench.args()) == 1
    assert capsys.readouterr().out == ""


def test_cut_off_and_truncated_logs(bench: Bench) -> None:
    bench.write(bench.responses(), indent=0)
    whole = bench.log.read_bytes()
    bench.log.write_bytes(whole[:-200])
    with pytest.raises(CheckFailed, match="is cut off or damaged"):
        bench.score()
    bench.log.write_bytes(whole[:4096] + b"\n\n...\n\n" + whole[-4096:])
    with pytest.raises(CheckFailed, match="is truncated for submission: score the original log"):
        bench.score()
    bench.log.write_bytes(b" \n")
    with pytest.raises(CheckFailed, match="is empty"):
        bench.score()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"qsl_idx": 0, "data": "00"}', "not a JSON list"),
        (b"accuracy=76%", "not a JSON list"),
        (b"\x80\x02", "not a JSON list"),
        (b"[1, 2]", r"entry 0 lacks qsl_idx \(integer\) or data \(string\)"),
        (b'[{"qsl_idx": true, "data": "00"}]', "entry 0 lacks"),
        (b'[{"qsl_idx": 0, "data": null}]', "entry 0 lacks"),
    ],
)
def test_another_file_than_a_log(bench: Bench, raw: bytes, reason: str) -> None:
    bench.log.write_bytes(raw)
    with pytest.raises(ConfigError, match=f"is not LoadGen's mlperf_log_accuracy.json: .*{reason}"):
        bench.score()


def test_absent_log_and_unknown_dtype(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the accuracy log .*: No such file"):
        bench.score()
    with pytest.raises(ConfigError, match="unknown dtype 'bf16': choose from float16, float32, float64"):
        bench.score(dtype="bf16")


def test_samples_that_fill_the_last_query_of_multistream_are_scored_once_with_a_warning(bench: Bench) -> None:
    bench.edit(lambda e: None)
    whole = bench.score()
    bench.edit(lambda e: e.append({**e[2], "data": e[3]["data"]}))  # 7 samples and 1 make a query of 8
    score = bench.score()
    assert score.predictions == whole.predictions
    assert "1 responses repeat a sample, as in the last query of MultiStream; the first counts" in score.warnings[0]


def test_float16_read_as_float32_warns_with_the_remedy(bench: Bench) -> None:
    halves = [np.repeat(r, 2, axis=0)[: len(r) // 2 * 2] for r in bench.responses(dtype="float16")]
    rows = [r if len(r) >= n else np.vstack([r, r[:2]]) for r, n in zip(halves, bench.lengths, strict=True)]
    bench.write([np.abs(r) for r in rows])
    score = bench.score(dtype="float32")
    assert len(score.warnings) == 1
    assert "7 responses are shorter than their feature" in score.warnings[0]
    assert "--dtype float16 would fit all of them" in score.warnings[0]
    assert bench.score(dtype="float16").warnings == ()


def test_an_odd_number_of_float16_rows_is_refused_with_the_remedy(bench: Bench) -> None:
    bench.write(bench.responses(dtype="float16"))
    assert any(n % 2 for n in bench.lengths)
    with pytest.raises(CheckFailed, match=r"not a multiple of 8 bytes.*--dtype float16 would fit all of them"):
        bench.score()


def test_short_responses_are_scored_with_a_warning(bench: Bench) -> None:
    short = [r[: len(r) // 2] for r in bench.responses()]
    bench.write(short)
    score = bench.score()
    assert score.predictions == _by_loops(bench, short)
    assert "check the SUT and --dtype" in score.warnings[0]


@pytest.mark.parametrize(("samples", "asked"), [(3, 1), (6, 2)])
def test_the_first_samples_score_their_questions_only(bench: Bench, samples: int, asked: int) -> None:
    responses = bench.responses()
    bench.write(responses[:samples])
    score = bench.score(samples=samples)
    whole = _by_loops(bench, responses)
    assert score.predictions == {f"q{i}": whole[f"q{i}"] for i in range(asked)}
    assert (score.questions, score.samples) == (asked, samples)
    assert score.scope == f"on the first {asked} of 4 questions"
    with pytest.raises(CheckFailed, match=f"pass --samples {samples}"):
        bench.score()


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (1, "ends within question 1: choose 3,"),
        (5, "ends within question 2: choose 3 or 6,"),
        (0, "choose from 1 to 7"),
        (8, "choose from 1 to 7"),
    ],
)
def test_samples_that_no_run_can_have(bench: Bench, samples: int, reason: str) -> None:
    bench.write(bench.responses())
    with pytest.raises(ConfigError, match=reason):
        bench.score(samples=samples)


def test_all_samples_are_the_whole_data_set(bench: Bench) -> None:
    bench.write(bench.responses())
    assert bench.score(samples=7) == bench.score()


def test_accuracy_txt(bench: Bench, tmp_path: Path) -> None:
    bench.write(bench.responses())
    score = bench.score()
    path = tmp_path / "new" / "accuracy.txt"
    write_accuracy_txt(path, score, bench.log)
    digest = hashlib.sha256(bench.log.read_bytes()).hexdigest()
    result = json.dumps({"exact_match": score.exact_match, "f1": score.f1})
    assert path.read_text() == f"{result}\nhash={digest}\n"
    write_accuracy_txt(path, score, bench.log, note="a short run")
    assert path.read_text().splitlines()[2:] == ["a short run"]
    assert [p.name for p in path.parent.iterdir()] == ["accuracy.txt"]
    with pytest.raises(ConfigError, match="cannot write"):
        write_accuracy_txt(path / "below", score, bench.log)


def test_accuracy_txt_is_never_half_written(bench: Bench, tmp_path: Path, monkeypatch) -> None:
    bench.write(bench.responses())
    path = tmp_path / "accuracy.txt"
    path.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_accuracy_txt(path, bench.score(), bench.log)
    assert path.read_text() == "before"


def test_the_command(bench: Bench, tmp_path: Path) -> None:
    bench.write([r[:-1] for r in bench.responses()][:3])
    files = [f"--output={tmp_path / 'accuracy.txt'}", f"--predictions={tmp_path / 'p.json'}", "--samples=3"]
    command = [sys.executable, "-m", "bert.accuracy", *bench.args(*files)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (tmp_path / "accuracy.txt").read_text()
    assert run.stdout.startswith('{"exact_match": ')
    assert run.stdout.splitlines()[2] == "on the first 1 of 4 questions"
    assert "warning: 3 responses are shorter" in run.stderr
    assert [*json.loads((tmp_path / "p.json").read_text())] == ["q0"]


def test_the_exit_code_of_a_wrong_path_is_2(bench: Bench, capsys) -> None:
    assert main(bench.args()) == 2
    assert capsys.readouterr().err.startswith("error: cannot read the accuracy log")


def test_known_answers_of_the_real_sample(real_squad: Path, tmp_path: Path) -> None:
    """Logits that point at the first accepted answer must score nearly 100 %."""
    bench = Bench(real_squad, BERT_VOCAB, tmp_path)
    responses = []
    for i, n in enumerate(bench.lengths):
        question = bench.squad.questions[bench.features.question[i]]
        context = bench.squad.contexts[question.context]
        at = context.find(question.answers[0])
        first = len(context[:at].split()) - (at > 0 and not context[at - 1].isspace())
        last = len(context[: at + len(question.answers[0])].split()) - 1
        part = slice(bench.features.offsets[i], bench.features.offsets[i + 1])
        word, seen = bench.features.word[part], bench.features.max_context[part]
        logits = np.zeros((n, 2), np.float32)
        logits[np.flatnonzero((word == first) & seen)[:1], 0] = 9
        logits[np.flatnonzero(word == last)[-1:], 1] = 9
        responses.append(logits)
    bench.write(responses)
    score = bench.score()
    assert score.questions == 612
    assert score.f1 > 95


def test_a_log_of_some_samples_is_scored_by_its_questions(bench: Bench, capsys) -> None:
    responses = bench.responses()
    bench.write(responses)
    entries = json.loads(bench.log.read_text())
    some = [e for e in entries if e["qsl_idx"] in (1, 2, 6)]
    again = [{**e, "data": entries[3]["data"]} for e in some]  # the first of several counts
    bench.log.write_text(json.dumps([*some, *again]))
    with pytest.raises(CheckFailed, match="4 of 7 samples have no response"):
        bench.score()
    score = bench.score(partial=True)
    # What the official script makes of features that have no response: they give no spans.
    none = [r if i in (1, 2, 6) else np.full_like(r, -np.inf) for i, r in enumerate(responses)]
    expected = _by_loops(bench, none)
    assert score.predictions == {name: expected[name] for name in ("q0", "q3")}
    answers = {q.id: q.answers for q in bench.squad.questions}
    each = [bert_by_loops.answer_score(expected[name], answers[name]) for name in ("q0", "q3")]
    assert score.f1 == pytest.approx(50 * sum(f for _, f in each))
    assert (score.questions, score.total_questions, score.samples, score.warnings) == (2, 4, 3, ())
    assert main(bench.args("--partial")) == 0
    assert capsys.readouterr().out.splitlines()[2] == "on the 2 of 4 questions that the log samples"


def test_a_whole_log_scores_the_same_if_it_may_be_partial(bench: Bench) -> None:
    bench.write([r.T for r in bench.responses()])
    whole, partial = bench.score(transposed=True), bench.score(transposed=True, partial=True)
    answered = {name: text for name, text in whole.predictions.items() if name != "q2"}  # q2 has no feature
    assert partial.predictions == answered
    bench.edit(lambda e: e.__setitem__(slice(None), [{**e[3], "data": e[3]["data"][:-8]}]))
    with pytest.raises(CheckFailed, match=r"not a multiple of 8 bytes.*\(qsl_idx 3\)"):
        bench.score(partial=True)


def test_the_benchmark_scores_a_log_of_some_samples(bench: Bench) -> None:
    benchmark = Bert(BertSettings(vocab=bench.vocab), bench.cache)
    bench.edit(lambda e: e.__setitem__(slice(None), [e[0], e[0], e[6]]))
    text = benchmark.score_partial(bench.log, Dataset(name="small", path=bench.dataset, sha256=None))
    assert text.startswith('{"exact_match": ')
    assert text.splitlines()[2] == "on the 2 of 4 questions that the log samples"


def _right(bench: Bench, swapped: bool = False) -> list[np.ndarray]:
    """Logits that point at the last three words of a context that ends in "the unable cafe"."""
    responses = []
    for length in bench.lengths:
        logits = np.zeros((length, 2), np.float32)
        logits[length - 5, 0] = logits[length - 2, 1] = 9
        responses.append(logits[:, ::-1] if swapped else logits)
    return responses


def test_a_log_with_start_and_end_swapped_is_found_out(write_squad, vocab, tmp_path):
    text = "Steve Smith mends the unable cafe"
    dataset = write_squad([(text, [("Who?", ["unable cafe"])]), (text, [("Where?", ["the unable cafe"])])])
    bench = Bench(dataset, vocab, tmp_path)
    bench.write(_right(bench))
    good = bench.score()
    assert good.swapped is None
    bench.write(_right(bench, swapped=True))
    wrong = bench.score()
    assert wrong.swapped == good.f1 == 100 > wrong.f1
    assert f"F1 would be {good.f1:.3f} instead of {wrong.f1:.3f}: swap" in wrong.doubts("swap")[0]


def test_a_score_that_guessing_gives_is_named(write_squad, vocab, tmp_path):
    dataset = write_squad([("Steve Smith mends the unable cafe", [("Who?", ["Steve"]), ("Who mends?", ["Smith"])])])
    bench = Bench(dataset, vocab, tmp_path)
    bench.write(_right(bench))
    score = bench.score()
    assert score.f1 < 15
    assert "is no better than guessing: the vocabulary" in score.doubts()[0]
