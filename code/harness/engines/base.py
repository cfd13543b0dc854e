"""The contract of engines: compile a signature, then run batches with it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from harness.errors import ConfigError, EngineError, HarnessError
from harness.graph import Tensor, check_weights
from harness.registry import ENGINES, resolve

if TYPE_CHECKING:
    from harness.engines.profiler import Profiler

Dims = tuple[int, ...]
Array = NDArray[np.generic]
Runner = Callable[[Mapping[str, Array]], Sequence[Array]]
"""Runs one batch: see `Engine.compile`."""

_PLACE = re.compile(r"/\S+\.(?:cc|cpp|h):\d+ .*\) ")  # the C++ function that raised; the reason follows
_TRACE = re.compile(r"Exception from \S+:\d+:")  # the first line of a C++ trace; the reason is its last line


@dataclass(frozen=True)
class Signature:
    """The exact shapes of a batch: inputs by name, outputs in the order in which the SUT reads them."""

    inputs: Mapping[str, Dims]
    outputs: Mapping[str, Dims]


class EngineSettings(BaseModel):
    """The settings common to all engines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    streams: int | None = Field(
        None, ge=1, description="batches that run at the same time; default: chosen by the engine"
    )
    max_batch: int = Field(64, ge=1, description="maximum samples in a batch")
    max_tokens: int = Field(
        1024, ge=1, description="maximum cost units (tokens for BERT, images for ResNet50) in a batch"
    )

    def suited(self, *, latency: bool, arriving: bool, max_cost: int) -> Self:
        """The settings, with the defaults best suited to a scenario.

        ``latency``: one query runs at a time, and only its latency counts; ``arriving``: queries arrive while others
        run, under a latency bound. ``max_cost`` is the largest cost of a sample.
        """
        return self.model_copy(update={"streams": 1}) if latency and self.streams is None else self

    def layouts(self, suited: Self) -> list[Self]:
        """``suited``, the result of `suited`, then the same with ever fewer streams of more cores each.

        Only ``suited`` if the user chose the streams, or if streams have no cores of their own.
        """
        return [suited]

    def stream_count(self) -> int | None:
        """The streams on this machine; None if only the engine knows."""
        return self.streams

    def in_force(self) -> dict[str, JsonValue]:
        """The settings, with the values that unset ones take on this machine."""
        return self.model_dump()

    def crowded(self) -> str:
        """A warning if the settings start far more threads than this machine has cores; "" if they do not."""
        return ""


def find_engine(name: str) -> type[Engine]:
    """The engine of that name, or the class behind "module:Class".

    Raises:
        ConfigError: the name is unknown (the message suggests the nearest), or the class is not an engine.
    """
    return resolve("engine", ENGINES, name, Engine)  # type: ignore[type-abstract]  # used only in issubclass()


class Engine(ABC):
    """Runs batches of one model.

    ``compile`` may be called many times and may be slow; the runners that it returns are thread-safe and release
    the GIL while they compute. An engine need not catch its library's exceptions: its callers turn them into
    `EngineError`.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[EngineSettings]] = EngineSettings
    fixed_shapes: ClassVar[bool] = False
    """Whether each shape is compiled separately, which makes few shapes better than exact ones."""
    computes: ClassVar[bool] = True
    """Whether its outputs are real results, as official runs require."""
    alternative: ClassVar[str] = "try --engine onnxruntime"
    """Advice for a model that it cannot run; "" for none."""
    lacks: ClassVar[frozenset[str]] = frozenset()
    """Element types that it cannot compute with, by their names in ONNX: float16, bfloat16."""
    form: ClassVar[Literal["integer"] | None] = None
    """The only form of 8-bit layers that it runs fast: "integer" for MatMulInteger and QLinearConv; None if QDQ is fast
    too. Runs convert the model to this form, unless the engine's setting ``convert`` is false."""
    reshapes: ClassVar[bool] = False
    """Whether fixed dimensions of the graph can be given another size."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    streams: int = 1
    waiting: int = 0
    """Batches that Offline hands to the engine beyond one for each stream. An engine with threads of its own then
    already has its next batch while Python answers the last one."""
    shape_budget: int = 12
    """Maximum number of shapes to compile, if ``fixed_shapes``; the engine's setting ``shapes`` overrides it."""
    exact_shapes: bool = False
    """Whether the user set that number: it then applies however long compiling takes."""

    def __init__(self, model: Path | None, settings: EngineSettings) -> None:
        """Keep model and settings; ConfigError if the model has weights in files outside its folder."""
        if model is not None and model.is_file():
            check_weights(model)
        self.model = model
        self.settings = settings
        if (shapes := getattr(settings, "shapes", None)) is not None:
            self.shape_budget, self.exact_shapes = shapes, True

    @classmethod
    def search_space(cls, max_cost: int, one_stream: bool) -> list[list[dict[str, str]]]:
        """The settings that tuning tries on this machine: one list per dimension of the search, with its alternatives.

        ``max_cost`` is the largest cost of a sample, ``one_stream`` whether the scenario runs one batch at a time.
        """
        return []

    @classmethod
    def profiler(cls) -> type[Profiler]:
        """The engine class that computes the same and records the time of each node, for the same model and settings.

        Raises:
            ConfigError: this engine has none.
        """
        raise ConfigError(
            f"the engine {cls.name} has no profile of its operators: use --engine onnxruntime or openvino, or omit "
            "--profile."
        )

    @property
    def parallel(self) -> int:
        """The streams that compute at once; the others only wait for their turn inside the engine."""
        return self.streams

    @property
    def in_flight(self) -> int:
        """The batches that Offline hands to the engine at once."""
        return self.streams + self.waiting

    @abstractmethod
    def compile(self, signature: Signature) -> Runner:
        """A callable that runs one batch: {name: array of the signature's shape and the graph's dtype} to arrays.

        The inputs are read-only. The outputs are plain arrays in the order of the signature, of its shapes and of the
        graph's dtypes (see `checked_outputs`); until they are read, no other batch may use their memory.
        """

    def describe(self) -> dict[str, JsonValue]:
        """Name, version and the settings in force, for a run's record."""
        return {"name": self.name, **self.settings.in_force()}

    def remark(self) -> str:
        """A remark for the user on the compiled model; "" for none."""
        return ""

    def close(self) -> None:  # noqa: B027  most engines free everything with their last reference
        """Free what the engine holds outside Python."""


@contextmanager
def engine_errors(engine: str, doing: str, advice: str = "") -> Iterator[None]:
    """Turn any exception of an engine's library into one sentence: which engine failed at what, and what to do."""
    try:
        yield
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        reason = lines[-1].removeprefix("-- ") if _TRACE.fullmatch(reason) else _PLACE.sub("", reason)
        reason = reason[:400]
        raise EngineError(f"{engine} failed {doing}: {reason}{f'; {advice}.' if advice else ''}") from error
