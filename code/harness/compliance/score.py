"""How the sampled responses of TEST01 are scored, and how near the score must come to its baseline."""

from __future__ import annotations

from harness.catalog.datasets import find_dataset
from harness.compliance.folder import Scorer
from harness.paths import ROOT
from harness.registry import BENCHMARKS
from harness.rules.rounds import RULES
from harness.task.base import find_benchmark


def scorer(benchmark: str, dataset: str | None) -> Scorer | None:
    """Scores logs of a benchmark, given by its official name, against a data set by name or path.

    Without ``dataset`` the full data set counts if it is on this machine; None if it is not, or for benchmarks that
    the harness does not know.

    Raises:
        ConfigError: the data set is named, and there is none.
    """
    name = next((key for key in BENCHMARKS if benchmark == key or benchmark.startswith(f"{key}-")), None)
    if name is None:
        return None
    found = find_dataset(name, dataset)
    if dataset is None and not found.official:
        return None
    kind = find_benchmark(name)
    made = kind(kind.Settings(), ROOT / "build" / "cache")
    return lambda log: made.score_partial(log, found)


def allowed_delta(benchmark: str) -> float:
    """Percent by which a score may differ from its baseline."""
    rules = RULES.get(benchmark)
    return rules.delta if rules else min(rule.delta for rule in RULES.values())
