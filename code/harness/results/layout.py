"""The paths of a submission's files: in this repository, and in a package of each round.

Three trees contain the same files. The repository has the classic layout without <division>/<submitter>; there each
test's folder also contains run.json and user.conf, from which measurements are made. A package of v3.0 to v5.1 is
<division>/<submitter>/ with the classic layout below it; from v6.0 on, all files of a scenario are in one folder of
results/.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness import paths
from harness.errors import ConfigError

RUN, CONF = "run.json", "user.conf"
"""The record of a test, and the user.conf that LoadGen read; next to the logs in the repository."""
RUN_1 = Path("performance", "run_1")
"""The folder of a performance run's logs, below the results of a scenario or of a compliance test."""
SCORES = "accuracy.txt"
"""The score of an accuracy log, and the log's hash; next to the log."""
VERIFY_ACCURACY, VERIFY_PERFORMANCE = "verify_accuracy.txt", "verify_performance.txt"
BASELINE, COMPLIANCE = "baseline_accuracy.txt", "compliance_accuracy.txt"
"""Scores of the accuracy run and of TEST01 for the same samples, if the responses differ."""
README, MAPPING, CALIBRATION = "README.md", "model_mapping.json", "calibration.md"


def check_checkout(subject: str) -> None:
    """Check that this is a checkout, which ``subject`` needs because the code is part of a submission.

    Raises:
        ConfigError: it is an installed package.
    """
    if not paths.CHECKOUT:
        raise ConfigError(
            f"{subject} needs a checkout of the repository, because the code is part of a submission: clone it, and "
            "run the command there."
        )


@dataclass(frozen=True, order=True)
class Scene:
    """A scenario of a benchmark on a system: the subject of a result."""

    system: str
    benchmark: str
    """The official name: bert-99, bert-99.9, resnet50; any name in the open division."""
    scenario: str


@dataclass(frozen=True)
class Layout(ABC):
    """The paths below ``root``, which is the repository or <division>/<submitter> of a package."""

    root: Path

    code: ClassVar[str] = "code"
    """The folder of the code."""
    trees: ClassVar[tuple[str, ...]] = ("results",)
    """The folders that have a folder for each system, benchmark and scenario."""

    @property
    def copies(self) -> Layout | None:
        """The layout in which a package also has a copy of each result, for the older official checker."""
        return None

    def system_file(self, system: str) -> Path:
        """The system description."""
        return self.root / "systems" / f"{system}.json"

    def results(self, scene: Scene) -> Path:
        """The folder of a scenario's results."""
        return self.root / "results" / scene.system / scene.benchmark / scene.scenario

    def performance(self, scene: Scene) -> Path:
        """The folder of the performance run's logs."""
        return self.results(scene) / RUN_1

    def accuracy(self, scene: Scene) -> Path:
        """The folder of the accuracy run's logs and of accuracy.txt."""
        return self.results(scene) / "accuracy"

    @abstractmethod
    def compliance(self, scene: Scene, test: str) -> Path:
        """The folder of TEST01 or TEST04, with performance/run_1, the verdicts and, for TEST01, accuracy."""

    @abstractmethod
    def measurements(self, scene: Scene) -> Path:
        """The folder of the measurements file, user.conf and README.md."""

    @abstractmethod
    def measurements_file(self, scene: Scene, implementation: str) -> Path:
        """The measurements file."""

    @property
    @abstractmethod
    def calibration(self) -> Path:
        """The description of how quantised models were calibrated."""

    def scenes(self) -> list[Scene]:
        """The scenes that have results, in order; every folder counts, regardless of its name."""
        return sorted(
            Scene(*path.relative_to(self.root / "results").parts)
            for path in (self.root / "results").glob("*/*/*")
            if path.is_dir()
        )


@dataclass(frozen=True)
class Classic(Layout):
    """The layout up to v5.1, and of the repository."""

    trees: ClassVar[tuple[str, ...]] = ("results", "measurements", "compliance")

    @property
    def copies(self) -> Layout:
        """The layout of v6, which the older official checker expects for results of every round."""
        return V6(self.root)

    def compliance(self, scene: Scene, test: str) -> Path:
        """compliance/<system>/<benchmark>/<Scenario>/<test>."""
        return self.root / "compliance" / scene.system / scene.benchmark / scene.scenario / test

    def measurements(self, scene: Scene) -> Path:
        """measurements/<system>/<benchmark>/<Scenario>."""
        return self.root / "measurements" / scene.system / scene.benchmark / scene.scenario

    def measurements_file(self, scene: Scene, implementation: str) -> Path:
        """<system>_<implementation>_<Scenario>.json."""
        return self.measurements(scene) / f"{scene.system}_{implementation}_{scene.scenario}.json"

    @property
    def calibration(self) -> Path:
        """calibration.md."""
        return self.root / CALIBRATION


@dataclass(frozen=True)
class V6(Layout):
    """The layout from v6.0 on."""

    code: ClassVar[str] = "src"

    def compliance(self, scene: Scene, test: str) -> Path:
        """results/<system>/<benchmark>/<Scenario>/<test>."""
        return self.results(scene) / test

    def measurements(self, scene: Scene) -> Path:
        """The folder of the results."""
        return self.results(scene)

    def measurements_file(self, scene: Scene, implementation: str) -> Path:
        """measurements.json."""
        return self.results(scene) / "measurements.json"

    @property
    def calibration(self) -> Path:
        """documentation/calibration.md."""
        return self.root / "documentation" / CALIBRATION


LAYOUTS: dict[str, type[Layout]] = {"classic": Classic, "v6": V6}
"""By `Round.layout`."""
