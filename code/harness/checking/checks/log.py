"""LoadGen's logs in a package, read strictly: anything that could make another reader fail is a problem."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.checking.tree import Findings, Problem, Tree, lines_of, number, printable, read_text
from harness.loadgen.logs import DETAIL, SUMMARY, has_end
from harness.rules.rounds import ROUNDS, SEEDS, Round, round_of
from harness.scenarios.base import Scenario, known_scenario

AGAIN = "rerun the test and package the original logs"
_MARKER = ":::MLLOG"
_SAME = {
    "samples_per_query": "effective_samples_per_query",
    "target_latency (ns)": "effective_target_latency_ns",
    "min_duration (ms)": "effective_min_duration_ms",
    "max_duration (ms)": "effective_max_duration_ms",
    "min_query_count": "effective_min_query_count",
    "max_query_count": "effective_max_query_count",
    "accuracy_log_rng_seed": "effective_accuracy_log_rng_seed",
    "performance_sample_count": "effective_performance_sample_count",
    **{seed: f"effective_{seed}" for seed in SEEDS},
}
"""The parameters in both the summary and the detail log: their names in the summary, with their keys."""


@dataclass(frozen=True)
class Log:
    """The contents of an mlperf_log_detail.txt."""

    path: str
    values: Mapping[str, object]
    """By key; the first value of a repeated key, as in the official checkers."""

    def number(self, key: str) -> float | int | None:
        """The value if it is a finite number, else None."""
        return number(self.values.get(key))

    def expect(self, key: str, good: bool, wanted: str, cure: str = AGAIN) -> Findings[None]:
        """Yield a problem with the value unless ``good``."""
        if good:
            return
        if key in self.values:
            yield Problem(self.path, f"{key} is {printable(self.values[key])}, but must be {wanted}", cure)
        else:
            yield Problem(self.path, f"{key} is missing: the log was cut off or edited", AGAIN)

    def is_number(self, key: str, wanted: float) -> Findings[None]:
        """The value must equal ``wanted``."""
        yield from self.expect(key, self.number(key) == wanted, f"{wanted}")

    def at_least(self, key: str, wanted: float, cure: str = AGAIN) -> Findings[None]:
        """The value must be a number of at least ``wanted``."""
        value = self.number(key)
        yield from self.expect(key, value is not None and value >= wanted, f"{wanted} or more", cure)


def read_log(tree: Tree, folder: str) -> Findings[Log | None]:
    """The detail log in a folder; None if it cannot be read."""
    path = f"{folder}/{DETAIL}"
    text = yield from read_text(tree, path, AGAIN)
    if text is None:
        return None
    values: dict[str, object] = {}
    repeated: list[str] = []
    errors: list[str] = []
    broken: list[int] = []
    for line_number, line in enumerate(lines_of(text), start=1):
        entry = _entry(line)
        if entry is None:
            broken.append(line_number)
            continue
        key, value, is_error = entry
        if key in values and key.startswith(("effective_", "requested_", "result_", "early_stopping_")):
            repeated.append(key)
        values.setdefault(key, value)
        if is_error:
            errors.append(f"{key}: {value}")
    if broken:
        others = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        what = f"line {broken[0]}{others} was not written by LoadGen: the log was cut off or edited"
        yield Problem(path, what, AGAIN)
    if repeated:
        yield Problem(path, f"{printable(repeated[0])} occurs twice: the log is of two tests", AGAIN)
    for error in dict.fromkeys(errors):
        yield Problem(path, f"LoadGen logged an error ({printable(error, 160)})", "fix the cause and rerun the test")
    return Log(path, values)


def _entry(line: str) -> tuple[str, object, bool] | None:
    """Key, value, and whether it is an error; None if LoadGen did not write the line."""
    if not line.startswith(_MARKER):
        return None
    try:
        entry = json.loads(line[len(_MARKER) :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or "value" not in entry:
        return None
    metadata = entry.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("is_error"), bool):
        return None
    return entry["key"], entry["value"], metadata["is_error"]


def check_test(log: Log, mode: str, scenario: str, round_: Round) -> Findings[None]:
    """Requirements for every test: its mode, scenario and round, and that it ended."""
    yield from log.expect("effective_test_mode", log.values.get("effective_test_mode") == mode, mode)
    yield from log.expect("effective_scenario", log.values.get("effective_scenario") == scenario, scenario)
    made_for = round_of(log.values)
    other = f", or check with --round {made_for.name}" if made_for else ""
    cure = f"rerun the test with a LoadGen of {round_.name}{other}"
    for name, seed in zip(SEEDS, round_.seeds, strict=True):
        key = f"effective_{name}"
        yield from log.expect(key, log.number(key) == seed, f"{seed} in {round_.name}", cure)
    yield from _version(log, round_)
    if not has_end(log.values, "accuracy" if mode == "AccuracyOnly" else "performance"):
        yield Problem(log.path, "it has no end: the test was aborted or the log was cut off", AGAIN)
    if "num_errors" in log.values:
        yield from log.expect("num_errors", log.number("num_errors") == 0, "0", "fix the cause and rerun the test")


def _version(log: Log, round_: Round) -> Findings[None]:
    found = re.match(r"(\d{1,4})\.(\d{1,4})\.?(\d{0,4})", str(log.values.get("loadgen_version", "")))
    if not found:
        yield from log.expect("loadgen_version", False, "a version of LoadGen")
        return
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    made_for = max((r for r in ROUNDS if r.first <= version), key=lambda r: r.first, default=None)
    if made_for != round_:
        which = made_for.name if made_for else "a round before v5.0"
        what = f"it is from LoadGen {found[0]}, which belongs to {which}, not to {round_.name}"
        yield Problem(log.path, what, f"rerun the test with a LoadGen of {round_.name}")


def check_summary(tree: Tree, folder: str, log: Log | None, scenario: str, mode: str) -> Findings[None]:
    """mlperf_log_summary.txt, which must agree with the detail log."""
    path = f"{folder}/{SUMMARY}"
    text = yield from read_text(tree, path, AGAIN)
    if text is None:
        return
    lines = [line.strip() for line in text.splitlines()]
    if "No errors encountered during test." not in lines[-3:]:
        yield Problem(path, "it does not end with LoadGen's statement that no errors were encountered", AGAIN)
    if mode == "AccuracyOnly":
        return
    values: dict[str, str] = {}
    for line in lines:
        name, separator, text = line.partition(":")
        if separator:
            values.setdefault(name.strip(), text.strip())
    for name, wanted in (("Scenario", scenario), ("Mode", mode), ("Result is", "VALID")):
        if values.get(name) != wanted:
            what = f"{name} {values[name]}" if name in values else f"{name} is missing"
            yield Problem(path, f"{printable(what)}, but must be {wanted}", AGAIN)
    if log is not None:
        yield from _agreement(path, values, log, known_scenario(scenario))


def _agreement(path: str, values: Mapping[str, str], log: Log, scenario: type[Scenario] | None) -> Findings[None]:
    """The summary's ``values``, by name, must equal those of the detail log."""
    score = log.number(scenario.result_key) if scenario else None
    if scenario and score is not None and not _agrees_with(values.get(scenario.summary_names[0]), score):
        name = scenario.summary_names[0]
        yield Problem(path, f"{name} is {printable(values.get(name))} here and {score} in {DETAIL}", AGAIN)
    for name, key in _SAME.items():
        value = log.values.get(key)
        if value is not None and values.get(name) != str(value):
            what = f"{name} is {printable(values.get(name))} here and {printable(value)} in {DETAIL}"
            yield Problem(path, what, AGAIN)


def _agrees_with(text: str | None, value: float) -> bool:
    """Whether the text is that number, to the six digits of LoadGen's detail log.

    Server's result has only two decimals in the summary: at one sample per second that is half a percent.
    """
    rounded = 0.00501 if re.fullmatch(r"\d+\.\d\d", text or "") else 0.0
    try:
        return abs(float(text or "") - value) <= max(1e-4 * abs(value), rounded)
    except (ValueError, OverflowError):
        return False
