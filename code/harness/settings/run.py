"""The settings of a run."""

from pathlib import Path
from shlex import quote
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.catalog import manifests
from harness.catalog.contract import BenchmarkSettings
from harness.catalog.manifests import Model
from harness.engines.base import EngineSettings
from harness.host.machine import default_system_name
from harness.paths import CACHE_DIR, ROOT
from harness.results.layout import Classic, Scene
from harness.rules.audits import AUDITS, Audit
from harness.rules.limits import MIN_DURATION_MS
from harness.rules.rehearsal import DEVELOPMENT_SECONDS, NOTICE, REHEARSAL, REHEARSAL_PREFIX
from harness.task.base import GIVEN

THREADS = "threads:"
"""The start of a cluster's name, before the number of nodes, that imitates nodes by threads: for tests, without Ray."""
INDICES_ONLY = (
    "Only sample numbers travel to the nodes (--cluster-samples indices): ask the MLPerf Inference working group "
    "before such a result is submitted."
)
"""The rules time the movement of data, and no such result is known to have been submitted."""


def cluster_name(cluster: str | None) -> str | None:
    """The name of a cluster in records and tuned settings: its hosts file without the folder."""
    return Path(cluster).name if cluster else None


def make_variables(scene: Scene, rehearsal: bool, model: str) -> str:
    """The variables of `make` that name a result's system, scenario and model, and a rehearsal."""
    again, name = ("REHEARSAL=1 ", scene.system.removeprefix(REHEARSAL_PREFIX)) if rehearsal else ("", scene.system)
    return f"{again}SYSTEM={name} SCENARIOS={scene.scenario} MODELS={model}"


class RunSettings(BaseModel):
    """Everything that determines what a run does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Model
    engine: str
    engine_choice: str | None = None
    """How the engine was chosen, in words; None if the user named it."""
    engine_settings: EngineSettings
    benchmark_settings: BenchmarkSettings
    scenario: str
    mode: str
    dataset: str | None = None
    samples: int | None = Field(None, ge=1)
    duration: float | None = Field(
        None, ge=0.1, allow_inf_nan=False, description="seconds of a development run or rehearsal"
    )
    official: bool = False
    """Whether the rules' sizes and durations apply; also set in rehearsals."""
    rehearsal: bool = False
    """Whether stand-ins for data, engine and weights are allowed; all output then says so."""
    audit: str | None = None
    """The compliance test to run, TEST01 or TEST04; ``mode`` is then performance."""
    force: bool = False
    system: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    user_conf: Path | None = None
    runs_dir: Path = ROOT / "build" / "runs"
    tree: Path = ROOT
    """The folder whose results/ and compliance/ receive official runs."""
    cache_dir: Path = CACHE_DIR
    tuned: Path | None = None
    """The file that engine, options and user.conf were read from, if they were tuned."""
    remarks: tuple[str, ...] = ()
    """Messages to show before the run."""
    shown: Literal["table", "json", "nothing"] = "table"
    """How the result is printed."""
    timeline: Literal["harness", "loadgen", "off"] = "harness"
    """The source of query and batch times in reports."""
    profile: bool = False
    """Whether a pass after the test measures the time of each operator: see `harness.running.profile`."""
    cluster: str | None = None
    """The nodes that are one system: a file with hosts, or local:N or threads:N for this machine; None for one node."""
    cluster_samples: Literal["data", "indices"] = "data"
    """What is sent to the nodes: the samples, or only their numbers if the nodes hold the data set themselves."""
    missed: float | None = Field(None, gt=0)
    """The rate, chosen by the harness, at which a first test missed the latency bound."""
    stall_timeout: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="seconds without a completed batch that end a run"
    )

    @property
    def accuracy(self) -> bool:
        """Whether the run measures accuracy instead of speed."""
        return self.mode == "accuracy"

    @property
    def compliance(self) -> Audit | None:
        """The compliance test to run; None for other runs."""
        return AUDITS[self.audit] if self.audit else None

    @property
    def test(self) -> str:
        """performance, accuracy, TEST01 or TEST04."""
        return self.audit or self.mode

    @property
    def seconds(self) -> float:
        """The intended duration of a performance run, in seconds, unless user.conf sets one."""
        return self.duration or self.default_seconds

    @property
    def default_seconds(self) -> float:
        """The duration of a performance run if the user sets none."""
        return MIN_DURATION_MS / 1000 if self.official else DEVELOPMENT_SECONDS

    @property
    def stand_ins(self) -> bool:
        """Whether data or weights are stand-ins, so that a score at chance is expected."""
        return self.rehearsal or self.model.random

    @property
    def sources(self) -> dict[str, str]:
        """Who chose each benchmark setting: see `harness.task.base.Choice`; a known model stands for the defaults."""
        known = self.model.name in manifests.models()
        model = "from models.toml" if known else "from the model's file"
        values, chosen = self.benchmark_settings, self.benchmark_settings.model_fields_set
        sources = {}
        for name in type(values).model_fields:
            by_model = name in self.model.settings and str(self.model.settings[name]) == str(getattr(values, name))
            if by_model or (known and name not in chosen):
                sources[name] = model
            elif name in chosen:
                sources[name] = GIVEN
        return sources

    @property
    def notices(self) -> list[str]:
        """Sentences that all output of the run must carry."""
        notices = [REHEARSAL] if self.rehearsal else [] if self.official else [NOTICE]
        if self.cluster and self.cluster_samples == "indices":
            notices.append(INDICES_ONLY)
        about_model = [words for words in (self.model.caveat, self.model.remark) if words]
        return [*notices, f"Model {self.model.name}: {', '.join(about_model)}."] if about_model else notices

    @property
    def notice(self) -> str | None:
        """The notices in one line; None if there are none."""
        return " ".join(self.notices) or None

    @property
    def scene(self) -> Scene:
        """The system, benchmark and scenario of the run's result."""
        system = self.system or default_system_name()
        if self.rehearsal and not system.startswith(REHEARSAL_PREFIX):
            system = REHEARSAL_PREFIX + system
        return Scene(system, self.model.official_name, self.scenario)

    @property
    def make_variables(self) -> str:
        """The variables of `make` that name the result and the model; the other settings are left to the user."""
        name = self.model.name if self.model.name in manifests.models() else str(self.model.path)
        # make splits MODELS at spaces that are not escaped.
        return make_variables(self.scene, self.rehearsal, quote(name.replace(" ", r"\ ")))

    @property
    def target(self) -> Path | None:
        """The folder for valid logs, below results/ or compliance/; None in development."""
        if not self.official:
            return None
        layout = Classic(self.tree)
        if self.audit:
            return layout.compliance(self.scene, self.audit)
        return layout.accuracy(self.scene) if self.accuracy else layout.performance(self.scene)
