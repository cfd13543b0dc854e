"""The folder of a compliance test: verified, scored, and arranged in the official form.

    TEST01/{verify_accuracy.txt,verify_performance.txt}
    TEST01/accuracy/{mlperf_log_accuracy.json,accuracy.txt[,baseline_accuracy.txt,compliance_accuracy.txt]}
    TEST01/performance/run_1/{mlperf_log_summary.txt,mlperf_log_detail.txt}
    TEST04/verify_performance.txt, TEST04/performance/run_1/...

Both official checkers require exactly these files; the two in brackets only if responses are not deterministic.
"""

import filecmp
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.compliance.verify import Verdict, baseline_log, verify_accuracy, verify_delta, verify_performance
from harness.errors import ConfigError
from harness.files.disk import write_text
from harness.loadgen.logs import ACCURACY, DETAIL, read_detail
from harness.results.layout import BASELINE, COMPLIANCE, RUN_1, SCORES, VERIFY_ACCURACY, VERIFY_PERFORMANCE
from harness.rules.audits import find_audit

Scorer = Callable[[Path], str]
"""Scores an accuracy log of some of the samples; returns the text of its accuracy.txt."""


@dataclass(frozen=True)
class Verdicts:
    """The outcome of a test."""

    performance: Verdict
    accuracy: Verdict | None = None
    """TEST01: whether the responses equal those of the accuracy run."""
    delta: Verdict | None = None
    """TEST01: whether the scores are close enough, if responses differ and nothing else is wrong."""
    remarks: tuple[str, ...] = ()
    """What a submission still needs."""

    @property
    def passed(self) -> bool:
        """Whether the test passed."""
        accurate = self.accuracy is None or self.accuracy.passed or (self.delta is not None and self.delta.passed)
        return self.performance.passed and accurate

    @property
    def reasons(self) -> list[str]:
        """Why the test failed; empty if it passed."""
        if self.passed:
            return []
        accuracy = self.delta if self.delta and self.delta.reason else self.accuracy
        accurate = accuracy is None or accuracy.passed or (self.delta is not None and self.delta.passed)
        return [v.reason for v in (None if accurate else accuracy, self.performance) if v and v.reason]


def verify(
    test: str, reference: Path, folder: Path, score: Scorer | None = None, *, delta: float = 1.0, dtype: str = "int32"
) -> Verdicts:
    """Verify a test and arrange its folder in the official form; repeating it changes nothing.

    Args:
        test: TEST01 or TEST04.
        reference: The results of the scenario: performance/run_1 and, for TEST01, accuracy.
        folder: The folder of the test: performance/run_1 with LoadGen's logs; for TEST01, mlperf_log_accuracy.json is
            one of them or in accuracy/.
        score: Scores a log of some of the samples; without it, the existing scores in accuracy/ are used if responses
            differ.
        delta: The maximum difference between the score and its baseline in percent, if responses differ.
        dtype: How TEST01 reads the first element of a response: a key of `verify.DTYPES`.

    Raises:
        ConfigError: the test or the dtype is unknown, or a log is missing.
        CheckFailed: a log is damaged or truncated; the folder is unchanged.
        RunFailed: a log is incomplete; the folder is unchanged.
    """
    audit = find_audit(test)
    performance = verify_performance(reference / RUN_1, folder / RUN_1, audit=audit.name)
    if audit.accuracy:
        verdicts = _verify_responses(performance, reference / "accuracy" / ACCURACY, folder, score, delta, dtype)
    else:
        verdicts = Verdicts(performance)
    write_text(folder / VERIFY_PERFORMANCE, performance.text)
    return verdicts


def check_subject(test: str, reference: Path, folder: Path) -> None:
    """Check that ``folder`` holds a log of the test, made with the scenario of the results in ``reference``.

    Raises:
        ConfigError: it does not, or a log is missing; called before `verify`, so that existing verdicts stay unchanged.
        RunFailed: a log is incomplete.
    """
    audit = find_audit(test)
    for logs in (reference / RUN_1, folder / RUN_1):
        if not (logs / DETAIL).is_file():
            raise ConfigError(f"{DETAIL} is missing in {logs}: pass the folder that contains {RUN_1}.")
    one, two = (read_detail(place / RUN_1, "performance").values for place in (reference, folder))
    if unread := audit.unread(two):
        raise ConfigError(f"{folder} is not a log of {audit.name} ({unread}): pass the folder of that test.")
    scenarios = [str(values.get("effective_scenario")) for values in (one, two)]
    if len(set(scenarios)) > 1:
        raise ConfigError(f"{folder} is a test of {scenarios[1]}, but {reference} has results of {scenarios[0]}.")


def _verify_responses(
    performance: Verdict, accuracy_log: Path, folder: Path, score: Scorer | None, delta: float, dtype: str
) -> Verdicts:
    """Verify and arrange the accuracy of a test; the verdicts include ``performance``."""
    sampled = _sampled(folder)
    settled = sampled.parent == folder / "accuracy"
    accuracy = verify_accuracy(accuracy_log, sampled, dtype)
    texts = _scores(score, accuracy, accuracy_log, sampled) if score else {}
    if accuracy.differing and settled and not score:
        existing = [folder / "accuracy" / name for name in (BASELINE, COMPLIANCE)]
        texts = {path.name: path.read_text(encoding="utf-8") for path in existing if path.is_file()}
    near = None
    if BASELINE in texts and COMPLIANCE in texts:
        near = verify_delta(texts[BASELINE], texts[COMPLIANCE], delta)

    outdated = set() if settled else {SCORES, BASELINE, COMPLIANCE}  # scores of an older log
    if accuracy.passed:
        outdated |= {BASELINE, COMPLIANCE}
    _arrange(folder, sampled, texts, outdated - texts.keys())
    write_text(folder / VERIFY_ACCURACY, accuracy.text)
    lacking = _remarks(folder, accuracy.differing and near is None) if score is None else ()
    return Verdicts(performance, accuracy, near, lacking)


def _scores(score: Scorer, accuracy: Verdict, accuracy_log: Path, sampled: Path) -> dict[str, str]:
    """The texts of the score files, by file name; none if responses are missing or broken."""
    if not accuracy.passed and not accuracy.differing:
        return {}
    texts = {SCORES: score(sampled)}
    if accuracy.differing:
        with tempfile.TemporaryDirectory() as room:
            baseline = Path(room) / ACCURACY
            baseline.write_text(baseline_log(accuracy_log, sampled), encoding="utf-8")
            texts |= {BASELINE: score(baseline), COMPLIANCE: texts[SCORES]}
    return texts


def _sampled(folder: Path) -> Path:
    """The accuracy log of TEST01; one next to the other logs is newer than one in accuracy/, unless they are equal."""
    new, settled = folder / RUN_1 / ACCURACY, folder / "accuracy" / ACCURACY
    if new.is_file():
        return settled if settled.is_file() and filecmp.cmp(new, settled, shallow=False) else new
    if settled.is_file():
        return settled
    raise ConfigError(f"{ACCURACY} is missing in both {new.parent} and {settled.parent}: check the path.")


def _arrange(folder: Path, sampled: Path, texts: dict[str, str], outdated: set[str]) -> None:
    place = folder / "accuracy"
    try:
        place.mkdir(exist_ok=True)
        for name in outdated:
            (place / name).unlink(missing_ok=True)
        sampled.replace(place / ACCURACY)
    except OSError as error:
        raise ConfigError(f"{place} cannot be written ({error.strerror}): check its permissions.") from error
    for name, text in texts.items():
        write_text(place / name, text)


def _remarks(folder: Path, unscored: bool) -> tuple[str, ...]:
    remarks = []
    if not (folder / "accuracy" / SCORES).is_file():
        remarks.append(f"{folder / 'accuracy' / SCORES} is still missing: verify with the full data set.")
    if unscored:
        remarks.append("the test can still pass if the scores agree: verify with the full data set.")
    return tuple(remarks)
