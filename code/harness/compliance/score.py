"""Scoring of the sampled responses of TEST01, and the allowed difference from the baseline."""

from harness.catalog.datasets import find_dataset
from harness.compliance.folder import Scorer
from harness.paths import CACHE_DIR
from harness.registry import BENCHMARKS
from harness.rules.rounds import RULES
from harness.task.base import find_benchmark


def scorer(benchmark: str, dataset: str | None) -> Scorer | None:
    """A function that scores logs of a benchmark with a data set.

    Args:
        benchmark: The official name.
        dataset: Name or path; None for the full data set.

    Returns:
        None if the harness does not know the benchmark, or ``dataset`` is None and the full set is not on this machine.

    Raises:
        ConfigError: ``dataset`` does not exist.
    """
    name = next((key for key in BENCHMARKS if benchmark == key or benchmark.startswith(f"{key}-")), None)
    if name is None:
        return None
    found = find_dataset(name, dataset)
    if dataset is None and not found.official:
        return None
    kind = find_benchmark(name)
    instance = kind(kind.Settings(), CACHE_DIR)
    return lambda log: instance.score_partial(log, found)


def allowed_delta(benchmark: str) -> float:
    """The maximum difference between a score and its baseline in percent; the strictest for an unknown benchmark."""
    rules = RULES.get(benchmark)
    return rules.delta if rules else min(rule.delta for rule in RULES.values())
