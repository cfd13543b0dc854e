"""Prepares a test on several nodes: the driver opens the data set, and the nodes load engines and measure."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from harness.cluster.link import Link
from harness.cluster.messages import INDICES, NodeRequest
from harness.cluster.scenarios import Clustered, clustered
from harness.cluster.system import HeldByNodes, check_alike, engine_of, round_trip
from harness.engines.base import find_engine
from harness.errors import ConfigError
from harness.files.disk import native
from harness.host.supervise import Beat
from harness.machines import hosts
from harness.preparing.local import announce, open_samples
from harness.preparing.node import PREPARE, NodeSettings, data_digest, needed
from harness.preparing.prepared import AS_A_RUN, Preparation, Prepared, Subject, patience
from harness.preparing.shared import shared_by_nodes
from harness.results.parts import RecordedEngine
from harness.scenarios.base import Listener, WarmUp, find_scenario
from harness.settings.identity import code_digest
from harness.settings.run import THREADS, RunSettings
from harness.terminal import console

Connect = Callable[[str, NodeRequest, Beat], Sequence[Link]]
"""Returns links to the nodes that a setting names, each ready."""


def prepare_nodes(settings: RunSettings, how: Preparation = AS_A_RUN, connect: Connect | None = None) -> Prepared:
    """A test whose SUT consists of all nodes, which ``connect`` reaches.

    Raises:
        ConfigError: as `prepare`; the scenario does not suit several nodes, or they differ.
        EngineError, RunFailed: a node failed.
    """
    assert settings.cluster is not None
    how.beat(patience(settings))
    kind, subject = clustered(find_scenario(settings.scenario)), Subject.of(settings)
    asked = NodeSettings(
        settings.model_copy(update={"cluster": None, "remarks": ()}),
        subject.dataset.path,
        shared_by_nodes(settings),
        how.compile_seconds,
        how.choose_streams,
        settings.seconds,
    )
    files = needed(settings, subject.dataset, subject.benchmark.one_file)
    request = NodeRequest(pickle.dumps(asked), PREPARE, settings.cluster_samples, files)
    links = (connect or _connect)(settings.cluster, request, how.beat)
    try:
        check_alike([link.ready for link in links], code_digest())
        if not how.quiet:
            _announce_nodes(links)
        return _prepared(settings, how, subject, kind, links)
    except BaseException:
        for link in links:
            link.close()
        raise


def _prepared(
    settings: RunSettings, how: Preparation, subject: Subject, kind: Callable[..., Clustered], links: Sequence[Link]
) -> Prepared:
    benchmark, dataset = subject.benchmark, subject.dataset
    stand_in = engine_of(find_engine(settings.engine))
    engine = stand_in(native(settings.model.path), settings.engine_settings, links)
    own = open_samples(settings, subject, engine, how.beat)
    if not how.quiet:
        announce(settings, dataset, own.count)
    if links[0].ready.data != data_digest(dataset, own):
        raise ConfigError(f"the nodes have another data set than {dataset.path} on this machine: copy it to them.")
    qsl = own
    if settings.cluster_samples == INDICES:
        qsl = HeldByNodes(own, links)
    else:
        own.hold_as_sent()
    sut = benchmark.make_sut(engine, own)
    costs, warm_up = own.cost(np.arange(own.count)), WarmUp(pilots=not settings.accuracy)
    scenario = kind(sut, costs, benchmark.max_cost, benchmark.server_bound, links, settings.cluster_samples, warm_up)
    indices = np.arange(qsl.performance_count)
    qsl.load(indices)
    for link in links:
        how.beat(settings.stall_timeout)
        link.ready = replace(link.ready, round_trip=round_trip(link, own, settings.cluster_samples))

    class Reporter(Listener):
        def ran(self) -> None:
            how.beat(settings.stall_timeout)

    listener = Reporter()
    return Prepared(
        benchmark=benchmark,
        dataset=dataset,
        qsl=qsl,
        scenario=scenario,
        indices=indices,
        slowest=scenario.get_ready(indices, listener),
        listener=listener,
        inputs=subject.unchanged(own),
        conversion=None,
        description=RecordedEngine.of(engine.describe()),
        choices=benchmark.scoring_choices(sut),
        doubts=benchmark.doubts(sut),
        links=links,
    )


def _announce_nodes(links: Sequence[Link]) -> None:
    for link in links:
        ready = link.ready
        cpu, cores = ready.machine.cpu, ready.machine.cores
        console.note(
            f"node {ready.name} on {ready.host}: {cpu}, cores {cores}, streams {ready.streams}; {ready.estimate.how}"
        )


def _connect(cluster: str, request: NodeRequest, beat: Beat) -> Sequence[Link]:
    if cluster.startswith(THREADS):
        from harness.cluster.local_link import connect_threads

        return connect_threads(hosts.number_in(cluster, THREADS), request, beat)
    from harness.machines import ray_link  # only a run with a cluster loads Ray

    return ray_link.connect(hosts.read(cluster), request, beat)
