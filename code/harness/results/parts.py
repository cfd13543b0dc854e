"""Parts of a run's record: what they have in common, and the use of cores and energy."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

from harness.host.usage import CoreUse


class Part(BaseModel):
    """Unknown keys are kept: a record may come from a newer version."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    def values(self) -> dict[str, JsonValue]:
        """The content of run.json."""
        return self.model_dump(mode="json", exclude_unset=True)


class RecordedCores(Part):
    """The mean number of cores in use during the test."""

    own: float
    others: float
    """By other processes, as far as they took from what the test may use."""
    stolen: float
    """By the host of a virtual machine."""
    of: float
    """The cores that the test may use."""
    disturbed: bool
    """Whether others took so much that the result is worse than this machine can do."""

    @property
    def use(self) -> CoreUse:
        """The same as it was measured."""
        return CoreUse(self.own, self.others, self.stolen, self.of)


class RecordedEnergy(Part):
    """The energy that the machine used during the test, other processes included."""

    joules: float
    seconds: float
    zones: list[str]
    """The kernel's names of what was measured."""

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds

    def words(self, samples: int) -> str:
        """Power and samples per joule."""
        return f"{self.watts:,.1f} W, {samples / self.joules:,.4g} samples/J ({', '.join(self.zones)})"
