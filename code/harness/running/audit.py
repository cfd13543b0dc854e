"""A compliance test: the official performance run again, with LoadGen's audit settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.catalog.manifests import Dataset
from harness.compliance.folder import verify
from harness.compliance.score import allowed_delta
from harness.compliance.verify import beyond_the_rules
from harness.errors import ConfigError
from harness.results.layout import CONF, RUN_1, Classic
from harness.results.record import read_record, reference
from harness.rules.audits import Audit
from harness.settings.identity import identity
from harness.settings.run import RunSettings
from harness.task.base import Benchmark


@dataclass(frozen=True)
class AuditRun:
    """A compliance test and the result that it checks."""

    test: Audit
    reference: Path
    """results/<system>/<benchmark>/<Scenario>."""

    @classmethod
    def choose(cls, settings: RunSettings) -> AuditRun | None:
        """The compliance test of a run; None for other runs.

        Raises:
            ConfigError: the results to compare with do not exist, or have another model or settings.
        """
        test = settings.compliance
        if test is None:
            return None
        layout = Classic(settings.tree)
        folders = {"performance": layout.performance(settings.scene), "accuracy": layout.accuracy(settings.scene)}
        for run in test.references:
            record = read_record(folders[run])
            if record is None:
                raise ConfigError(
                    f"{test.name} is compared with the official {run} run, but {folders[run]} does not hold one: do "
                    "that run first."
                )
            if differs := record.identity.difference(identity(settings)):
                raise ConfigError(
                    f"the {run} run in {folders[run]} used another {differs}: {test.name} needs the same one."
                )
        return cls(test, layout.results(settings.scene))

    @property
    def conf(self) -> Path:
        """The user.conf of the performance run: a score within 10 % requires the same target_qps."""
        return self.reference / RUN_1 / CONF

    def write(self, folder: Path) -> Path:
        """Write LoadGen's audit settings into a folder."""
        path = folder / "audit.config"
        path.write_text(self.test.config, "utf-8")
        return path

    def verified(
        self, folder: Path, benchmark: Benchmark, dataset: Dataset
    ) -> tuple[tuple[str, ...], dict[str, str] | None]:
        """The reasons of `verify`, and the `reference` of the test (None, with a reason, if it cannot be verified)."""
        try:
            reasons = tuple(self.verify(folder, benchmark, dataset))
            return reasons, reference(self.reference, self.test.name)
        except Exception as error:  # noqa: BLE001  whatever a damaged log causes
            return (f"it could not be verified: {error or type(error).__name__}",), None

    def verify(self, folder: Path, benchmark: Benchmark, dataset: Dataset) -> list[str]:
        """Verify the test whose logs are in ``folder``/performance/run_1, and write the verdict files.

        Returns:
            The reasons for failure; empty if it passed.
        """
        verdicts = verify(
            self.test.name,
            self.reference,
            folder,
            lambda log: benchmark.score_partial(log, dataset),
            delta=allowed_delta(self.reference.parent.name),
        )
        if self.test.finds_caching and verdicts.passed:
            return [reason] if (reason := beyond_the_rules(self.reference / RUN_1, folder / RUN_1)) else []
        return verdicts.reasons
