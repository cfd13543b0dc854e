"""The accuracy run of a result: accuracy.txt and the accuracy log."""

import hashlib
import re
from dataclasses import dataclass

from harness.checking.checks.answers import check_answers
from harness.checking.checks.log import check_summary, check_test, read_log
from harness.checking.checks.performance import EXTRA, check_truncated
from harness.checking.checks.subject import Result
from harness.checking.tree import Findings, Problem, Tree, contents, lines_of, printable, read_text
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY
from harness.results.layout import SCORES
from harness.rules.limits import CUT_MARK, KEPT_BYTES

_AGAIN = "rerun the accuracy test and package it again"
_F1 = r"""\{{["']exact_match["']:\s{{0,9}}{},\s{{0,9}}["']f1["']:\s{{0,9}}(?P<score>{})\}}"""
_NUMBER = r"\d{1,9}(?:\.\d{1,30})?"
_READ = re.compile(r"accuracy|hash|\{")
"""The start of lines that an official checker may take for a score or the hash; it ignores all others."""


@dataclass(frozen=True)
class Form:
    """The official form of a metric's score."""

    name: str
    line: re.Pattern[str]
    """The line in accuracy.txt: group "score", and groups "good" and "total" if the line has counts."""
    start: re.Pattern[str]
    """The start of the line in baseline_accuracy.txt and compliance_accuracy.txt of TEST01: group "score"."""
    example: str


FORMS = {
    "acc": Form(
        "top-1",
        re.compile(rf"accuracy=(?P<score>{_NUMBER})%, good=(?P<good>\d{{1,9}}), total=(?P<total>\d{{1,9}})"),
        re.compile(r"accuracy=(?P<score>[\d.]{1,30})"),
        "accuracy=76.1%, good=38050, total=50000",
    ),
    "F1": Form(
        "F1",
        re.compile(_F1.format(_NUMBER, _NUMBER)),
        re.compile(_F1.format(r"[\d.]{1,30}", r"[\d.]{1,30}")),
        '{"exact_match": 83.0, "f1": 90.1}',
    ),
}
"""By `Rules.metric`."""


def check_accuracy(result: Result) -> Findings[None]:
    """The accuracy run must cover the full data set and, in the closed division, reach the target."""
    tree, folder, rules = result.tree, f"{result.folder}/accuracy", result.rules
    yield from contents(tree, folder, files=(SUMMARY, DETAIL, ACCURACY, SCORES), allowed=EXTRA, cure=_AGAIN)
    if tree.kind(f"{folder}/{DETAIL}") == "file":
        log = yield from read_log(tree, folder)
        if log is not None:
            # An inferred result has the accuracy run of the measured one, or one of its own.
            same = log.values.get("effective_scenario") == result.filed
            scenario = result.filed if same else result.measured
            yield from check_test(log, "AccuracyOnly", scenario, result.package.round)
            for key in ("qsl_reported_total_count", "effective_accuracy_sample_count"):
                if rules and (key in log.values or key.startswith("qsl")):
                    wanted = f"{rules.samples}, the full data set"
                    yield from log.expect(key, log.number(key) == rules.samples, wanted, "use the full data set")
    if tree.kind(f"{folder}/{SUMMARY}") == "file":
        yield from check_summary(tree, folder, None, result.filed, "AccuracyOnly")
    yield from check_answers(tree, f"{folder}/{ACCURACY}", rules)
    form = FORMS[rules.metric] if rules else None
    score = yield from check_scores(tree, folder, form)
    if score is None or rules is None or form is None:
        return
    value = float(score["score"])
    if result.package.closed and value < rules.target:
        what = f"{form.name} is {value:g}, below the closed division's target of {rules.target:g}"
        yield Problem(
            f"{folder}/{SCORES}", what, "use a better model, or submit to the open division", stand_in=result.rehearsed
        )
    if "total" in form.line.groupindex:
        yield from _counted(f"{folder}/{SCORES}", score, rules.samples)


def check_scores(tree: Tree, folder: str, form: Form | None, sampled: bool = False) -> Findings[re.Match[str] | None]:
    """Check accuracy.txt and the accuracy log next to it.

    ``sampled``: the log contains only sampled responses; then only the hash is required, and other lines may look like
    scores.

    Returns:
        The match of the score's line with ``form`` (None: with any of `FORMS`); None unless there is exactly one.
    """
    path = f"{folder}/{SCORES}"
    if tree.kind(path) != "file":
        return None
    text = yield from read_text(tree, path, _AGAIN)
    if text is None:
        return None
    scores: list[re.Match[str]] = []
    hashes: list[str] = []
    for number, line in enumerate(lines_of(text), start=1):
        matches = (each.line.fullmatch(line) for each in ([form] if form else FORMS.values()))
        score = next((match for match in matches if match), None)
        digest = re.fullmatch(r"hash=([0-9a-fA-F]{64})", line)
        if score:
            scores.append(score)
        elif digest:
            hashes.append(digest[1].lower())
        elif not sampled and _READ.match(line):
            example = form.example if form else "in an official form"
            what = f"line {number} ({printable(line, 40)}) is neither a score ({example}) nor hash=<sha256 of the log>"
            yield Problem(path, what, _AGAIN)
    if len(scores) != 1 and not (sampled and not scores):
        what = f"it has {len(scores)} scores instead of one" if scores else "it has no score"
        yield Problem(path, what, _AGAIN)
    if len(hashes) != 1:
        what = f"it has {len(hashes)} hashes instead of one" if hashes else "it has no hash of the accuracy log"
        yield Problem(path, what, _AGAIN)
    yield from _log(tree, f"{folder}/{ACCURACY}", hashes[0] if len(hashes) == 1 else None)
    return scores[0] if len(scores) == 1 else None


def _counted(path: str, score: re.Match[str], samples: int) -> Findings[None]:
    """The numbers in an accuracy line must be consistent."""
    good, total = int(score["good"]), int(score["total"])
    if total != samples:
        yield Problem(path, f"total is {total}, but the data set has {samples} samples", "use the full data set")
    elif abs(float(score["score"]) - 100 * good / total) > 0.001:
        yield Problem(path, f"{good} of {total} is not {score['score']} %", _AGAIN)


def _log(tree: Tree, path: str, digest: str | None) -> Findings[None]:
    """The accuracy log must be complete and match the hash, or be truncated correctly."""
    yield from check_truncated(tree, path)
    content = tree.read(path)
    if content is None:
        return
    middle = content[KEPT_BYTES : KEPT_BYTES + len(CUT_MARK)]
    if not content.startswith(b"[") or not content.rstrip().endswith(b"]"):
        yield Problem(path, "it does not start with [ and end with ]: it was cut off or edited", _AGAIN)
    elif middle == CUT_MARK:
        if len(content) != 2 * KEPT_BYTES + len(CUT_MARK):
            what = f"it is truncated to {len(content)} bytes instead of {2 * KEPT_BYTES + len(CUT_MARK)}"
            yield Problem(path, what, _AGAIN)
        yield from _hashed(path, content, digest)
    elif digest and hashlib.sha256(content).hexdigest() != digest:
        yield Problem(path, f"its sha256 is not the hash in {SCORES}", _AGAIN)


def _hashed(path: str, content: bytes, digest: str | None) -> Findings[None]:
    """The hash next to a truncated log must be that of the full log: recognise hashes of other content."""
    others = {
        "the truncated log": content,
        "both ends of the log": content[:KEPT_BYTES] + content[-KEPT_BYTES:],
        "an empty file": b"",
    }
    for name, other in others.items():
        if digest == hashlib.sha256(other).hexdigest():
            what = f"the hash in {SCORES} is that of {name}, not of the full log"
            yield Problem(path, what, "hash the full log before truncating it, or package it again")
