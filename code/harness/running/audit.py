"""A run that is a compliance test: the official performance run again, with LoadGen's audit settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.catalog.manifests import Dataset
from harness.compliance.folder import verify
from harness.compliance.score import allowed_delta
from harness.compliance.verify import beyond_the_rules
from harness.errors import ConfigError
from harness.results.layout import CONF, Classic
from harness.results.record import difference, read_record
from harness.rules.audits import find_audit
from harness.running.identity import identity
from harness.running.settings import RunSettings
from harness.task.base import Benchmark


@dataclass(frozen=True)
class Audit:
    """A compliance test and the result that it is about."""

    test: str
    reference: Path
    """results/<system>/<benchmark>/<Scenario>."""

    @classmethod
    def choose(cls, settings: RunSettings) -> Audit | None:
        """The compliance test that a run is; None if it is none.

        Raises:
            ConfigError: the results that it is compared with are not there, or are of another model or settings.
        """
        if not settings.audit:
            return None
        layout = Classic(settings.tree)
        needed = {"performance": layout.performance(settings.scene)}
        if settings.audit == "TEST01":
            needed["accuracy"] = layout.accuracy(settings.scene)
        for mode, folder in needed.items():
            record = read_record(folder)
            if record is None:
                raise ConfigError(
                    f"{settings.audit} is compared with the official {mode} run, and there is none in {folder}: make "
                    "it first."
                )
            if differs := difference(record, identity(settings)):
                raise ConfigError(
                    f"the {mode} run in {folder} had another {differs}: {settings.audit} needs the same as that run."
                )
        return cls(settings.audit, layout.results(settings.scene))

    @property
    def conf(self) -> Path:
        """The user.conf of the performance run: a score within 10 % needs the same target_qps."""
        return self.reference / "performance" / "run_1" / CONF

    def write(self, folder: Path) -> Path:
        """Write LoadGen's audit settings into a folder."""
        path = folder / "audit.config"
        path.write_text(find_audit(self.test).config, "utf-8")
        return path

    def verify(self, folder: Path, benchmark: Benchmark, dataset: Dataset) -> list[str]:
        """Verify the test whose logs are in ``folder``/performance/run_1, and write the verdicts beside them.

        Returns:
            Why it failed; nothing if it passed.
        """
        verdicts = verify(
            self.test,
            self.reference,
            folder,
            lambda log: benchmark.score_partial(log, dataset),
            delta=allowed_delta(self.reference.parent.name),
        )
        if self.test == "TEST04" and verdicts.passed:
            run_1 = Path("performance") / "run_1"
            return [reason] if (reason := beyond_the_rules(self.reference / run_1, folder / run_1)) else []
        return verdicts.reasons
