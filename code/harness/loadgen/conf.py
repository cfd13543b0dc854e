"""Checks user.conf before LoadGen reads it.

LoadGen's own reader (`TestSettings::FromConfig`, loadgen/test_settings_internal.cc) is forgiving in the wrong places:
it silently ignores an unknown key, `key=value` without spaces, and a seed in user.conf; it reads `6e5` for an integer
as 6 and `010` as 8; and it drops the entire file if a comment follows a value. Here each of these is an error with its
line number. The file is then passed to LoadGen unchanged, followed by the harness's own lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import ConfigError, did_you_mean
from harness.registry import BENCHMARKS, SCENARIOS

ANY = "*"
"""The wildcard for model or scenario in user.conf."""


@dataclass(frozen=True)
class Key:
    """A key that a submitter may set, how LoadGen reads it, and the scenarios that use it."""

    integer: bool
    unit: str
    scenarios: tuple[str, ...] = tuple(SCENARIOS)
    minimum: float = 0
    elsewhere: str = ""
    """Why it must not be set for other scenarios or for `ANY`; "" if they merely ignore it."""


_FIXED_FOR_SERVER = "target_latency of Server is fixed by the rules: set it only for SingleStream or MultiStream"
KEYS = {
    "target_qps": Key(False, "samples per second", ("Server", "Offline"), 1e-9),
    "target_latency": Key(False, "milliseconds", ("SingleStream", "MultiStream"), 1e-9, _FIXED_FOR_SERVER),
    "min_duration": Key(True, "milliseconds", minimum=1000),
    "max_duration": Key(True, "milliseconds", minimum=0),
    "min_query_count": Key(True, "queries", minimum=1),
    "max_query_count": Key(True, "queries"),
    "performance_sample_count_override": Key(True, "samples"),
    "coalesce_queries": Key(True, "0 or 1", ("Server",)),
    "max_async_queries": Key(True, "queries", ("Server",)),
    "print_timestamps": Key(True, "0 or 1"),
}

FIXED = {
    "qsl_rng_seed": "the round's seeds are built into LoadGen",
    "sample_index_rng_seed": "the round's seeds are built into LoadGen",
    "schedule_rng_seed": "the round's seeds are built into LoadGen",
    "accuracy_log_rng_seed": "only the compliance tests set it",
    "accuracy_log_probability": "only the compliance tests set it",
    "accuracy_log_sampling_target": "only the compliance tests set it",
    "performance_issue_unique": "only the compliance tests set it",
    "performance_issue_same": "only the compliance tests set it",
    "performance_issue_same_index": "only the compliance tests set it",
    "test05": "only the compliance tests set it",
    "mode": "the harness chooses performance or accuracy: use --mode",
    "target_latency_percentile": "the rules fix each scenario's percentile",
    "samples_per_query": "the rules fix 8 samples per MultiStream query",
    "accuracy_sample_count_override": "an accuracy run covers the entire data set",
    "sample_concatenate_permutation": "the rules fix how samples are drawn",
    "use_token_latencies": "it belongs to language-model benchmarks",
    "infer_token_latencies": "it belongs to language-model benchmarks",
    "token_latency_scaling_factor": "it belongs to language-model benchmarks",
    "ttft_latency": "it belongs to language-model benchmarks",
    "tpot_latency": "it belongs to language-model benchmarks",
}
_MIN_QUERIES = {
    ("bert", "Offline"): 10833,
    ("resnet50", "Offline"): 24576,
    (ANY, "Offline"): 1,
    (ANY, "MultiStream"): 662,
}
_MIN_QUERIES_BY_DEFAULT = 100


OWN, TUNED = "set by the harness.", "found by harness tune"
"""The start of the comment above lines that a run or tuning wrote, which end at the next comment or empty line."""


@dataclass(frozen=True)
class ConfEntry:
    """One line of user.conf."""

    line: int
    model: str
    scenario: str
    key: str
    value: str
    generated: bool = False
    """Whether a run or tuning wrote the line."""


@dataclass(frozen=True)
class UserConf:
    """A checked user.conf."""

    path: Path | None
    text: str
    entries: tuple[ConfEntry, ...]

    def lookup(self, model: str, scenario: str, key: str) -> ConfEntry | None:
        """The entry that LoadGen uses: the exact name, then any model, then any scenario, then both."""
        for wanted in ((model, scenario), (ANY, scenario), (model, ANY), (ANY, ANY)):
            found = [e for e in self.entries if (e.model, e.scenario) == wanted and e.key == key]
            if found:
                return found[-1]
        return None

    def values(self, model: str, scenario: str) -> dict[str, float]:
        """The keys that the file sets for a test, with their values."""
        found = {key: self.lookup(model, scenario, key) for key in KEYS}
        return {key: float(entry.value) for key, entry in found.items() if entry}

    def without_own(self) -> UserConf:
        """The file before `extended` last added a run's own lines."""
        starts = [n for n, line in enumerate(self.text.split("\n"), start=1) if line.startswith(f"# {OWN}")]
        return replace(self, entries=tuple(entry for entry in self.entries if not starts or entry.line < starts[-1]))

    def repeated(self) -> Iterator[str]:
        """A warning for each line that has no effect because a later one sets the same key to another value."""
        earlier: dict[tuple[str, str, str], ConfEntry] = {}
        for entry in self.entries:
            name = (entry.model, entry.scenario, entry.key)
            replaced = earlier.get(name)
            if replaced and float(replaced.value) != float(entry.value) and not entry.generated:
                yield (
                    f"{'.'.join(name)} = {replaced.value} in line {replaced.line} has no effect, because line "
                    f"{entry.line} sets {entry.value}: delete one of them."
                )
            earlier[name] = entry

    def extended(self, comment: str, lines: Iterable[str]) -> str:
        """The text followed by the harness's own settings; in LoadGen a later line overrides an earlier one."""
        text = self.text if not self.text or self.text.endswith("\n") else self.text + "\n"
        return text + "".join(f"{line}\n" for line in (f"# {comment}", *lines))


def read_user_conf(path: Path | None) -> UserConf:
    """Read and check a user.conf; without a path, return an empty one.

    Raises:
        ConfigError: the file cannot be read, or a line is wrong; the message names the line.
    """
    if path is None:
        return UserConf(None, "", ())
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path} cannot be read ({reason}): check the file.") from error
    entries, generated = [], False
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.split()
        if not words or words[0] == "#":
            generated = line.startswith((f"# {OWN}", f"# {TUNED}"))
            continue
        try:
            entries.append(_entry(number, line, words, generated))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
    return UserConf(path, text, tuple(entries))


def min_queries(model: str, scenario: str) -> int:
    """The min_query_count in every round's mlperf.conf, or else LoadGen's default; in Offline it counts samples.

    >>> min_queries("resnet50", "Offline"), min_queries("bert", "MultiStream"), min_queries("bert", "Server")
    (24576, 662, 100)
    """
    known = ((model, scenario), (ANY, scenario))
    return next((_MIN_QUERIES[each] for each in known if each in _MIN_QUERIES), _MIN_QUERIES_BY_DEFAULT)


def check_official(conf: UserConf, model: str, scenario: str, minimum_ms: int) -> None:
    """Reject settings that would make an official run invalid; ``minimum_ms`` is its minimum duration, or 0.

    Raises:
        ConfigError: a duration or a number of queries below the minimum, or a limit that ends the test early.
    """
    duration = conf.lookup(model, scenario, "min_duration")
    if duration and int(duration.value) < minimum_ms:
        raise ConfigError(
            f"{conf.path}, line {duration.line}: min_duration is {duration.value} ms; an official run needs at least "
            f"{minimum_ms} ms ({minimum_ms / 60_000:g} minutes): delete the line."
        )
    count, minimum = conf.lookup(model, scenario, "min_query_count"), min_queries(model, scenario)
    if count and int(count.value) < minimum:
        raise ConfigError(
            f"{conf.path}, line {count.line}: min_query_count is {count.value}; an official {scenario} run needs at "
            f"least {minimum}, as set by the round's mlperf.conf: delete the line."
        )
    for key in ("max_duration", "max_query_count", "performance_sample_count_override"):
        entry = conf.lookup(model, scenario, key)
        if entry and int(entry.value) > 0:
            raise ConfigError(
                f"{conf.path}, line {entry.line}: an official run must leave {key} as set by the round's mlperf.conf: "
                "delete the line."
            )


def _entry(number: int, line: str, words: list[str], generated: bool) -> ConfEntry:
    """The entry of a line; ``generated`` ones may have durations below a second."""
    odd = next((c for c in line.rstrip("\r") if not c.isascii() or (ord(c) < 32 and c != "\t")), None)
    if odd:
        raise ConfigError(f"LoadGen does not understand the character {odd!a}: type the line again.")
    if words[0].startswith("#"):
        raise ConfigError("LoadGen treats '#' as a comment only if a space follows: write '# ...'.")
    if len(words) < 3 or words[1] != "=":
        if "=" in line and words[1:2] != ["="]:
            name, _, value = line.partition("=")
            raise ConfigError(f"LoadGen needs spaces around '=': write '{name.strip()} = {value.strip()}'.")
        raise ConfigError("expected 'model.Scenario.key = value'.")
    if len(words) > 3:
        hint = "LoadGen allows no comment after a value" if words[3].startswith("#") else "there is more than one value"
        raise ConfigError(f"{hint}: keep only '{' '.join(words[:3])}'.")
    parts = words[0].split(".")
    if len(parts) != 3:
        raise ConfigError(f"'{words[0]}' is not of the form model.Scenario.key, such as *.Offline.target_qps.")
    model, scenario, key = parts
    _known(model, (ANY, *BENCHMARKS), "model")
    _known(scenario, (ANY, *SCENARIOS), "scenario")
    if key in FIXED or key.startswith("test05"):
        raise ConfigError(f"{key} cannot be set in user.conf: {FIXED.get(key, FIXED['test05'])}.")
    _known(key, KEYS, "key")
    spec = KEYS[key]
    if spec.elsewhere and scenario not in spec.scenarios:
        raise ConfigError(f"{spec.elsewhere}.")
    if scenario not in (ANY, *spec.scenarios):
        raise ConfigError(f"{key} has no effect in {scenario}; it applies to {' and '.join(spec.scenarios)}.")
    _check_value(key, spec, words[2], generated)
    return ConfEntry(number, model, scenario, key, words[2], generated)


def _known(value: str, valid: Iterable[str], what: str) -> None:
    if value not in valid:
        raise ConfigError(f"unknown {what} '{value}': {did_you_mean(value, valid)}")


def _check_value(key: str, spec: Key, text: str, generated: bool) -> None:
    number = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(\D*)", text)
    if number is None or number[2]:
        raise ConfigError(f"{key} = {text}: LoadGen needs a bare number, in {spec.unit}.")
    value = float(number[1])
    if value >= (2**63 if spec.integer else float("inf")):
        raise ConfigError(f"{key} = {text}: the number is too large for LoadGen.")
    if spec.integer and not re.fullmatch(r"0|[1-9]\d*", text):
        raise ConfigError(f"{key} = {text}: LoadGen needs an integer in {spec.unit}, and would misread this value.")
    if spec.unit == "0 or 1" and value not in (0, 1):
        raise ConfigError(f"{key} = {text}: it must be 0 or 1.")
    if key == "min_duration" and value == 0:
        raise ConfigError(
            f"{key} = {text}: a test without a minimum duration is too short by the rules: delete the line, and the "
            "harness sets the duration."
        )
    if key == "min_duration" and generated:
        return
    if key == "min_duration" and value < spec.minimum:
        raise ConfigError(
            f"{key} = {text}: the unit is milliseconds, and this looks like seconds: write {int(value) * 1000}."
        )
    if value < spec.minimum:
        raise ConfigError(f"{key} = {text}: it must be greater than 0, in {spec.unit}.")
