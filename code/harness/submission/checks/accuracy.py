"""The accuracy run of a result: accuracy.txt, and the log that it was made from."""

from __future__ import annotations

import hashlib
import re

from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY
from harness.submission.checks.log import check_summary, check_test, read_log
from harness.submission.checks.performance import small
from harness.submission.checks.subject import Result
from harness.submission.tree import Findings, Problem, Tree, contents, lines_of, printable, read_text

SCORES = "accuracy.txt"
CUT = b"\n\n...\n\n"
KEPT = 4096
"""A truncated log is its first and its last so many bytes, with `CUT` between."""
_AGAIN = "run the accuracy test again, and package it"
_NUMBER = r"(\d{1,9}(?:\.\d{1,30})?)"
_LINES = {
    "acc": re.compile(rf"accuracy={_NUMBER}%, good=(\d{{1,9}}), total=(\d{{1,9}})"),
    "F1": re.compile(rf'\{{"exact_match": {_NUMBER}, "f1": {_NUMBER}\}}'),
}
_FORM = {"acc": "accuracy=76.1%, good=38050, total=50000", "F1": '{"exact_match": 83.0, "f1": 90.1}'}
_REMARK = re.compile(r"(?i)(?!accuracy|hash|\{).*(?:rehearsal|not for submission|random weights|stand-in)")


def check_accuracy(result: Result) -> Findings[None]:
    """The accuracy run: the whole data set, and in the closed division the target."""
    tree, folder, scenario = result.tree, f"{result.folder}/accuracy", result.scene.scenario
    yield from contents(tree, folder, files=(SUMMARY, DETAIL, ACCURACY, SCORES), cure=_AGAIN)
    if tree.kind(f"{folder}/{DETAIL}") == "file":
        log = yield from read_log(tree, folder)
        if log is not None:
            yield from check_test(log, "AccuracyOnly", scenario, result.package.round)
            for key in ("qsl_reported_total_count", "effective_accuracy_sample_count"):
                if result.rules and (key in log.values or key.startswith("qsl")):
                    wanted = result.rules.samples
                    yield from log.expect(
                        key, log.number(key) == wanted, f"{wanted}, the whole data set", "use the whole data set"
                    )
    if tree.kind(f"{folder}/{SUMMARY}") == "file":
        yield from check_summary(tree, folder, None, scenario, "AccuracyOnly")
    metric = result.rules.metric if result.rules else None
    score = yield from check_scores(tree, folder, metric)
    rules = result.rules
    if score is not None and rules and result.package.closed and score < rules.target:
        what = f"{'top-1' if metric == 'acc' else 'F1'} is {score:g}, under the closed division's {rules.target:g}"
        yield Problem(f"{folder}/{SCORES}", what, "use a better model, or submit to the open division")
    if score is not None and rules and metric == "acc":
        yield from _counted(tree, f"{folder}/{SCORES}", rules.samples)


def check_scores(tree: Tree, folder: str, metric: str | None, sampled: bool = False) -> Findings[float | None]:
    """accuracy.txt and the accuracy log beside it; returns the score.

    Of a log that holds only sampled responses nothing but the hash is needed, and it may say what the score is of.
    """
    path = f"{folder}/{SCORES}"
    if tree.kind(path) != "file":
        return None
    text = yield from read_text(tree, path, _AGAIN)
    if text is None:
        return None
    scores, hashes = [], []
    for number, line in enumerate(lines_of(text), start=1):
        matches = [pattern.fullmatch(line) for name, pattern in _LINES.items() if metric in (name, None)]
        score = next((match for match in matches if match), None)
        digest = re.fullmatch(r"hash=([0-9a-f]{64})", line)
        if score:
            scores.append(score)
        elif digest:
            hashes.append(digest[1])
        elif line.strip() and not sampled and not _REMARK.match(line):
            form = _FORM.get(metric or "", "a score")
            what = f"line {number} ({printable(line, 40)}) is neither like {form} nor hash=<sha256 of the log>"
            yield Problem(path, what, _AGAIN)
    if len(scores) != 1 and not (sampled and not scores):
        what = f"it has {len(scores)} scores instead of one" if scores else "it has no score"
        yield Problem(path, what, _AGAIN)
    if len(hashes) != 1:
        what = f"it has {len(hashes)} hashes instead of one" if hashes else "it has no hash of the accuracy log"
        yield Problem(path, what, _AGAIN)
    yield from _log(tree, f"{folder}/{ACCURACY}", hashes[0] if len(hashes) == 1 else None)
    if len(scores) != 1:
        return None
    return float(scores[0][2 if scores[0].re is _LINES["F1"] else 1])


def _counted(tree: Tree, path: str, samples: int) -> Findings[None]:
    """The numbers of an accuracy line must fit one another."""
    found = _LINES["acc"].search((tree.read(path) or b"").decode("utf-8", "replace"))
    if found is None:
        return
    good, total = int(found[2]), int(found[3])
    if total != samples:
        yield Problem(path, f"total is {total}, and the data set has {samples} samples", "use the whole data set")
    elif abs(float(found[1]) - 100 * good / total) > 0.001:
        yield Problem(path, f"{good} of {total} are not {found[1]} %", _AGAIN)


def _log(tree: Tree, path: str, digest: str | None) -> Findings[None]:
    """The accuracy log: whole and with that hash, or truncated as it must be."""
    yield from small(tree, path)
    content = tree.read(path)
    if content is None:
        return
    middle = content[KEPT : KEPT + len(CUT)]
    if not content.startswith(b"[") or not content.rstrip().endswith(b"]"):
        yield Problem(path, "it does not begin with [ and end with ]: it was cut or edited", _AGAIN)
    elif middle == CUT:
        if len(content) != 2 * KEPT + len(CUT):
            what = f"a truncated log has {2 * KEPT + len(CUT)} bytes, and this has {len(content)}"
            yield Problem(path, what, _AGAIN)
    elif digest and hashlib.sha256(content).hexdigest() != digest:
        yield Problem(path, f"its sha256 is not the hash in {SCORES}", _AGAIN)
