"""Sizes a test: the value of the scenario's key, the number of queries, and the user.conf that LoadGen reads."""

from collections.abc import Iterator
from dataclasses import replace

from harness.loadgen.conf import OWN, UserConf, min_queries
from harness.preparing.prepared import Prepared
from harness.running.load import Load, span
from harness.scenarios.base import Estimate, find_scenario
from harness.settings.run import RunSettings
from harness.terminal import console

_RETEST_FACTOR = 0.6  # for a second test after one that missed the bound
_LARGE_QUERY_SAMPLES = 200_000  # an Offline query of more samples is worth a measurement of some seconds first


def sized(settings: RunSettings, conf: UserConf, ready: Prepared) -> tuple[Load, float | None]:
    """The load of the test, and the measured value of the scenario's key; None if user.conf sets it or none is needed.

    Raises:
        ConfigError: the test would not fit in memory, or would last far longer than requested.
    """
    load = Load.of(settings, conf, type(ready.scenario), None)
    estimated = _estimate(settings, load, ready)
    if estimated:
        load = checked(settings, conf, estimated)
    if settings.accuracy:
        if estimated and ready.scenario.paced:
            console.note(_accuracy_rate(settings, conf, estimated, ready.qsl.count))
        return load, estimated.value if estimated else None
    _check_query_size(load, ready)
    for words in (estimated.remark if estimated else "", load.length):
        if words:
            console.note(words)
    return load, estimated.value if estimated else None


def _accuracy_rate(settings: RunSettings, conf: UserConf, found: Estimate, samples: int) -> str:
    """A note on the rate and length of an accuracy run, and on the rate in user.conf that it does not use."""
    words = f"{samples:,} samples at {found.value:.4g} queries/s, about {span(samples / found.value)}: {found.how}"
    if line := conf.lookup(settings.model.benchmark, settings.scenario, find_scenario(settings.scenario).key):
        words += f"; {line.key} = {line.value} in line {line.line} of {conf.path} only counts for performance"
    return words


def overridden(settings: RunSettings, conf: UserConf) -> Iterator[str]:
    """A warning for each line of user.conf that this run ignores, unless --duration sets the same value.

    The compliance tests of a shortened performance run get its user.conf, with the duration already in it.
    """
    yield from (f"{conf.path}: {warning}" for warning in conf.repeated())
    reasons = {}
    entry = conf.lookup(settings.model.benchmark, settings.scenario, "min_duration")
    if settings.duration and not settings.accuracy and entry and float(entry.value) != 1000 * settings.duration:
        reasons["min_duration"] = f"--duration {settings.duration:g} replaces it"
    if not settings.official:
        reasons["performance_sample_count_override"] = (
            "a development run loads the samples of its data set; use --samples for fewer"
        )
    for key, reason in reasons.items():
        if entry := conf.lookup(settings.model.benchmark, settings.scenario, key):
            yield f"{key} = {entry.value} in line {entry.line} of {conf.path} is not used: {reason}."


def effective_conf(settings: RunSettings, conf: UserConf, load: Load, ready: Prepared, estimated: float | None) -> str:
    """The user.conf that LoadGen reads: the user's, followed by the harness's settings."""
    prefix = f"{ready.benchmark.name}.{settings.scenario}"
    lines = []
    if estimated is not None:
        lines.append(f"{prefix}.{ready.scenario.key} = {estimated:.6g}")
    if settings.duration or not (settings.official or load.duration_line):
        lines.append(f"{prefix}.min_duration = {round(settings.seconds * 1000)}")
    own = min_queries(ready.benchmark.name, settings.scenario) if settings.official else 0
    if not load.min_queries_line and load.min_queries > own:
        lines.append(f"{prefix}.min_query_count = {load.min_queries}")
    if not settings.official:
        lines.append(f"{prefix}.performance_sample_count_override = {len(ready.indices)}")
    if not lines:
        return conf.text
    return conf.extended(" ".join((OWN, *settings.notices)), lines)


def checked(settings: RunSettings, conf: UserConf, estimated: Estimate | None) -> Load:
    """The load of the test, checked if LoadGen generates its queries by rate and duration."""
    load = Load.of(settings, conf, find_scenario(settings.scenario), estimated)
    if not settings.accuracy:
        load.check()
    return load


def _check_query_size(load: Load, ready: Prepared) -> None:
    """Refuse an Offline query that would take days, before spending minutes on planning it.

    Raises:
        ConfigError: the rate in user.conf makes it so large.
    """
    if ready.scenario.one_query and load.rate_line and load.queries > _LARGE_QUERY_SAMPLES:
        estimate = ready.scenario.estimate(ready.indices, load.seconds, ready.listener)
        load.look(load.queries / estimate.per_second, warned=True)


def _estimate(settings: RunSettings, load: Load, ready: Prepared) -> Estimate | None:
    """A measured value of the scenario's key, if LoadGen needs one and the user sets none."""
    scenario = ready.scenario
    needed = not settings.accuracy or scenario.paced
    if not needed or load.rate_line:
        return None
    if settings.accuracy:
        return scenario.fastest(ready.indices, ready.listener)
    found = scenario.estimate(ready.indices, load.seconds, ready.listener)
    if settings.missed is not None:
        value = _RETEST_FACTOR * min(found.value, settings.missed)
        why = f"a first test missed the bound at {settings.missed:.4g}"
        how = f"{found.how}; since {why}, {_RETEST_FACTOR:g} times the lower of both"
        found = replace(found, value=value, per_second=scenario.expected(value), how=how)
    console.detail(f"no {scenario.key} in user.conf, so it is set to {found.value:.4g}: {found.how}")
    return found
