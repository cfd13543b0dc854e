"""One node of a cluster: it prepares like a run of its own, and reports its measurements."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from harness.catalog.manifests import Dataset, Model
from harness.cluster.messages import NodeReady, NodeRequest
from harness.cluster.node import Node
from harness.files.disk import readable
from harness.files.fingerprint import Fingerprint, combined
from harness.host.supervise import Beat
from harness.machines.files import Needed, located
from harness.paths import CACHE_DIR
from harness.preparing.local import prepare
from harness.preparing.prepared import Preparation, Prepared, no_beat, patience
from harness.preparing.shared import Shared
from harness.results.parts import RecordedMachine
from harness.settings.identity import code_digest, setting_files
from harness.settings.run import RunSettings
from harness.task.qsl import SampleLibrary

PREPARE = "harness.preparing.node:prepare_node"
_Settings = TypeVar("_Settings", bound=BaseModel)


@dataclass(frozen=True)
class NodeSettings:
    """The content of `NodeRequest.settings`, pickled."""

    run: RunSettings
    """The settings of one node's run, without a cluster."""
    dataset: Path
    """The path of the data set on the driver."""
    shared: Mapping[str, Shared]
    """The choices that another run of the same result made on each node, by the node's name."""
    compile_seconds: float | None = None
    choose_streams: bool = True
    seconds: float = 0.0
    """The duration of a performance test, for which each node estimates its rate."""


def prepare_node(request: NodeRequest, name: str, beat: Beat = no_beat) -> tuple[Node, NodeReady]:
    """The warmed-up node ``name``, and its report to the driver.

    Raises:
        HarnessError: as `prepare`.
    """
    asked: NodeSettings = pickle.loads(request.settings)
    with readable():
        run = _local_settings(asked, request.files)
    shared = asked.shared.get(name, Shared())
    # The driver checks the rate of all nodes together.
    how = Preparation(beat, True, shared, asked.compile_seconds, asked.choose_streams, pilots=False)
    ready = prepare(run, how)
    beat(patience(asked.run))
    report = _report(name, asked, run.model, ready)
    ready.qsl.unload(ready.indices)
    return Node(ready.scenario, request.samples), report


def _report(name: str, asked: NodeSettings, model: Model, ready: Prepared) -> NodeReady:
    scenario, engine, indices = ready.scenario, ready.engine, ready.indices
    if asked.run.accuracy:
        found = scenario.fastest(indices, ready.listener)
    else:
        found = scenario.estimate(indices, asked.seconds, ready.listener)
    here = RecordedMachine.here()
    return NodeReady(
        name=name,
        host=socket.gethostname(),
        streams=engine.streams,
        parallel=engine.parallel,
        rate=scenario.pace(indices, found),
        estimate=found,
        peak=scenario.peak(indices),
        slowest=ready.slowest,
        largest=max((shape.batch for shape in ready.sut.prepared), default=1),
        inputs=engine.inputs,
        outputs=engine.outputs,
        model_sha256=next((file.sha256 for file in model.files if file.path == model.path), ""),
        code=code_digest(),
        versions={"python": here.python, **here.packages},
        machine=here,
        engine=ready.description,
        batches=scenario.describe(),
        converted=ready.conversion.record() if ready.conversion else None,
        data=data_digest(ready.dataset, ready.qsl),
    )


def needed(settings: RunSettings, dataset: Dataset, one_file: bool) -> tuple[Needed, ...]:
    """The files that a node must have; ``one_file`` says whether the data set is one file, which can be sent."""
    model = settings.model
    found = [(f"{(model.sha256 or '')[:16]}/{_relative_name(file.path, model.path)}", file) for file in model.files]
    others = (*setting_files(settings), *(dataset.files if one_file else ()))
    found += [(f"{file.sha256[:16]}/{file.path.name}", file) for file in others if file.path.is_file()]
    return tuple((name, file.path, file.sha256) for name, file in found)


def _relative_name(path: Path, model: Path) -> str:
    folder = model.parent
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def data_digest(dataset: Dataset, qsl: SampleLibrary) -> str:
    """A hash that is equal on two machines with the same samples."""
    return combined([dataset.sha256, [file.sha256 for file in qsl.files], qsl.count])


def _local_settings(asked: NodeSettings, files: Sequence[Needed]) -> RunSettings:
    """The settings with the paths that the files have on this machine."""
    settings, found = asked.run, located(files)
    model = settings.model
    mine = model.model_copy(
        update={
            "path": found.get(model.path, model.path),
            "files": tuple(Fingerprint.of(found.get(file.path, file.path)) for file in model.files),
        }
    )
    changed: dict[str, object] = {
        "model": mine,
        "cache_dir": settings.cache_dir if settings.cache_dir.exists() else CACHE_DIR,
        "engine_settings": _with_paths(settings.engine_settings, found),
        "benchmark_settings": _with_paths(settings.benchmark_settings, found),
    }
    # By default, each machine would use the best data set that it has.
    if (place := found.get(asked.dataset, asked.dataset)).exists():
        changed["dataset"] = str(place)
    return settings.model_copy(update=changed)


def _with_paths(settings: _Settings, found: Mapping[Path, Path]) -> _Settings:
    moved = {
        name: found[path]
        for name in type(settings).model_fields
        if isinstance(path := getattr(settings, name), Path) and path in found
    }
    return settings.model_copy(update=moved) if moved else settings
