"""The compliance tests as data: the LoadGen settings of each.

The values are those of the official audit.config files (mlcommons/inference, compliance/TEST01/{bert,resnet50} and
compliance/TEST04). LoadGen reads them from the file named in the last argument of StartTestWithLogSettings,
and they override every other setting.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Audit:
    """A compliance test."""

    name: str
    """TEST01 or TEST04."""
    purpose: str
    settings: Mapping[str, int]
    """Keys of audit.config."""
    effective: Mapping[str, int | bool]
    """Values in mlperf_log_detail.txt once LoadGen has read the settings."""
    decisive: tuple[str, ...]
    """Keys of ``effective`` that no official configuration changes."""
    accuracy: bool
    """Whether LoadGen logs responses, which must equal those of the accuracy run."""
    finds_caching: bool
    """Whether the test only detects a system that is faster than in the performance run."""

    @property
    def references(self) -> tuple[str, ...]:
        """Official runs that the test is compared with."""
        return ("performance", "accuracy") if self.accuracy else ("performance",)

    @property
    def config(self) -> str:
        """The text of audit.config."""
        return "".join(f"*.*.{key} = {value}\n" for key, value in self.settings.items())

    def unread(self, values: Mapping[str, Any]) -> str:
        """Evidence in a log's values that LoadGen did not read audit.config; "" if there is none."""
        wrong = (key for key in self.decisive if values.get(key, self.effective[key]) != self.effective[key])
        return next((f"{key} is {values[key]} instead of {self.effective[key]}" for key in wrong), "")


_SAMPLING_SEED = 720381539243781796

AUDITS = {
    "TEST01": Audit(
        "TEST01",
        "a performance run gives the same answers as the accuracy run",
        {"mode": 2, "accuracy_log_rng_seed": _SAMPLING_SEED, "accuracy_log_sampling_target": 4096},
        {
            "effective_accuracy_log_rng_seed": _SAMPLING_SEED,
            "effective_accuracy_log_sampling_target": 4096,
            "effective_performance_issue_unique": False,
            "effective_performance_issue_same": False,
        },
        ("effective_accuracy_log_rng_seed",),  # the rules allow a smaller sampling target
        accuracy=True,
        finds_caching=False,
    ),
    "TEST04": Audit(
        "TEST04",
        "issuing one sample repeatedly is not faster: responses are not cached",
        {
            "mode": 2,
            "performance_issue_unique": 0,
            "performance_issue_same": 1,
            "performance_issue_same_index": 3,
        },
        {
            "effective_accuracy_log_rng_seed": 0,
            "effective_performance_issue_unique": False,
            "effective_performance_issue_same": True,
            "effective_performance_issue_same_index": 3,
        },
        ("effective_performance_issue_unique", "effective_performance_issue_same"),
        accuracy=False,
        finds_caching=True,
    ),
}


def find_audit(name: str, valid: Iterable[str] = AUDITS) -> Audit:
    """The test with that name, ignoring case.

    Raises:
        ConfigError: the name is unknown.
    """
    names = list(valid)
    if name.upper() not in names:
        raise ConfigError(f"unknown compliance test '{name}': {did_you_mean(name, names)}")
    return AUDITS[name.upper()]
