"""One node of a cluster: it prepares as a run of its own does, and says what it measured."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from harness.cluster.messages import NodeReady, NodeRequest
from harness.cluster.node import Node
from harness.host import machine
from harness.running.identity import code_digest
from harness.running.prepare import Beat, Prepared, no_beat, patience, prepare
from harness.running.settings import RunSettings
from harness.running.shared import Shared

PREPARE = "harness.running.node:prepare_node"


@dataclass(frozen=True)
class NodeSettings:
    """What travels as `NodeRequest.settings`."""

    run: RunSettings
    """Of one node: without a cluster."""
    shared: Mapping[str, Shared]
    """What another run of the same result chose on each node, by its name."""
    compile_seconds: float | None = None
    choose_streams: bool = True
    seconds: float = 0.0
    """Of the test, for which each node estimates its rate."""


def prepare_node(request: NodeRequest, name: str, beat: Beat = no_beat) -> tuple[Node, NodeReady]:
    """The node ``name``, warm, and what the driver must know of it.

    Raises:
        HarnessError: as `prepare`.
    """
    asked: NodeSettings = pickle.loads(request.settings)
    ready = prepare(
        asked.run,
        beat,
        quiet=True,
        shared=asked.shared.get(name),
        compile_seconds=asked.compile_seconds,
        choose_streams=asked.choose_streams,
    )
    beat(patience(asked.run))
    said = _said(name, asked, ready)
    ready.qsl.unload(ready.indices)
    return Node(ready.scenario, request.samples), said


def _said(name: str, asked: NodeSettings, ready: Prepared) -> NodeReady:
    scenario, engine, indices = ready.scenario, ready.engine, ready.indices
    scenario.pilots = False  # the driver checks the rate of all nodes together
    found = scenario.estimate(indices, asked.seconds, ready.listener)
    here = {key: _plain(value) for key, value in machine.describe().items()}
    converted = {"converted": ready.conversion.record()} if ready.conversion else {}
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
        model_sha256=asked.run.model.sha256 or "",
        code=code_digest(),
        versions=_versions(),
        machine=here,
        engine=ready.description,
        scenario={**scenario.describe(), **converted},
    )


def _versions() -> dict[str, str]:
    about = machine.describe()
    packages = about["packages"]
    assert isinstance(packages, dict)
    return {"python": str(about["python"]), **packages}


def _plain(value: object) -> JsonValue:
    if isinstance(value, np.generic):
        return value.item()  # type: ignore[no-any-return]
    return value  # type: ignore[return-value]
