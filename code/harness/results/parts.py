"""Parts of a run's record: their base class, and the use of cores and energy."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

from harness.host.usage import CoreUse


class Part(BaseModel):
    """A part of a record. Unknown keys are kept, since a record may come from a newer version."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    def values(self) -> dict[str, JsonValue]:
        """The content of run.json."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)


class RecordedCores(Part):
    """The mean number of cores in use during the test."""

    own: float
    """Cores used by the test."""
    others: float
    """Cores used by other processes, as far as they took them from those that the test may use."""
    stolen: float
    """Cores taken by the host of a virtual machine."""
    of: float
    """The number of cores that the test may use."""
    disturbed: bool
    """Whether others took so much that the result is worse than this machine can reach."""

    @property
    def use(self) -> CoreUse:
        """The measurement that was recorded."""
        return CoreUse(self.own, self.others, self.stolen, self.of)


class RecordedEnergy(Part):
    """The energy that the machine used during the test, other processes included."""

    joules: float
    seconds: float
    zones: list[str]
    """The kernel's names of the measured power zones, such as package-0."""

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds

    def words(self, samples: int) -> str:
        """Power and samples per joule."""
        return f"{self.watts:,.1f} W, {samples / self.joules:,.4g} samples/J ({', '.join(self.zones)})"
