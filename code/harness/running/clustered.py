"""Prepares a test on several nodes: the driver opens the data set, and the nodes load engines and measure."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from harness.catalog.manifests import Dataset
from harness.cluster import hosts
from harness.cluster.link import Link
from harness.cluster.messages import INDICES, NodeRequest
from harness.cluster.scenarios import Clustered, clustered
from harness.cluster.system import HeldByNodes, check_alike, engine_of, round_trip
from harness.engines.base import find_engine
from harness.errors import ConfigError
from harness.host import console
from harness.host.files import native
from harness.host.fingerprint import Fingerprint, check_unchanged
from harness.host.supervise import Beat
from harness.running.node import PREPARE, NodeSettings, data_digest, needed
from harness.running.prepare import (
    Prepared,
    announce,
    dataset_of,
    no_beat,
    open_samples,
    patience,
)
from harness.running.shared import shared_by_nodes
from harness.scenarios.base import Listener, find_scenario
from harness.settings.identity import code_digest, setting_files
from harness.settings.run import THREADS, RunSettings
from harness.task.base import Benchmark, find_benchmark

Connect = Callable[[str, NodeRequest, Beat], Sequence[Link]]
"""Links to the nodes that a setting names, each ready."""


def prepare_nodes(
    settings: RunSettings,
    beat: Beat = no_beat,
    quiet: bool = False,
    compile_seconds: float | None = None,
    choose_streams: bool = True,
    connect: Connect | None = None,
) -> Prepared:
    """A test whose SUT is all nodes; ``connect`` reaches them. The other parameters are those of `prepare`.

    Raises:
        ConfigError: as `prepare`; the scenario is not one for several nodes, or they differ.
        EngineError, RunFailed: a node failed.
    """
    assert settings.cluster is not None
    beat(patience(settings))
    kind = clustered(find_scenario(settings.scenario))
    benchmark = find_benchmark(settings.model.benchmark)(
        settings.benchmark_settings, settings.cache_dir, settings.sources
    )
    given = (*settings.model.files, *setting_files(settings))
    dataset = dataset_of(settings, benchmark)
    asked = NodeSettings(
        settings.model_copy(update={"cluster": None, "remarks": ()}),
        dataset.path,
        shared_by_nodes(settings),
        compile_seconds,
        choose_streams,
        settings.seconds,
    )
    files = needed(settings, dataset, benchmark.one_file)
    request = NodeRequest(pickle.dumps(asked), PREPARE, settings.cluster_samples, files)
    links = (connect or _connect)(settings.cluster, request, beat)
    try:
        check_alike([link.ready for link in links], code_digest())
        if not quiet:
            _announce_nodes(links)
        return _prepared(settings, beat, quiet, benchmark, dataset, given, kind, links)
    except BaseException:
        for link in links:
            link.close()
        raise


def _prepared(
    settings: RunSettings,
    beat: Beat,
    quiet: bool,
    benchmark: Benchmark,
    dataset: Dataset,
    given: tuple[Fingerprint, ...],
    kind: Callable[..., Clustered],
    links: Sequence[Link],
) -> Prepared:
    stand_in = engine_of(find_engine(settings.engine))
    engine = stand_in(native(settings.model.path), settings.engine_settings, links)
    own = open_samples(settings, benchmark, dataset, engine, beat)
    if not quiet:
        announce(settings, dataset, own.count)
    if links[0].ready.data != data_digest(dataset, own):
        raise ConfigError(f"the nodes have another data set than {dataset.path} on this machine: copy it to them.")
    qsl = own
    if settings.cluster_samples == INDICES:
        qsl = HeldByNodes(own, links)
    else:
        own.travel()
    sut = benchmark.make_sut(engine, own)
    scenario = kind(sut, own.cost(np.arange(own.count)), benchmark.max_cost, benchmark.server_bound, links)
    scenario.pilots, scenario.travels = not settings.accuracy, settings.cluster_samples
    indices = np.arange(qsl.performance_count)
    qsl.load(indices)
    for link in links:
        beat(settings.stall_timeout)
        link.ready = replace(link.ready, round_trip=round_trip(link, own, settings.cluster_samples))

    class Reporter(Listener):
        def ran(self) -> None:
            beat(settings.stall_timeout)

    listener = Reporter()
    slowest = scenario.get_ready(indices, listener)
    inputs = (*given, *dataset.files, *own.files)
    check_unchanged(inputs)
    choices, doubts = benchmark.scoring_choices(sut), benchmark.doubts(sut)
    return Prepared(
        benchmark=benchmark,
        dataset=dataset,
        qsl=qsl,
        scenario=scenario,
        indices=indices,
        slowest=slowest,
        listener=listener,
        inputs=inputs,
        conversion=None,
        description=engine.describe(),
        choices=choices,
        doubts=doubts,
        links=links,
    )


def _announce_nodes(links: Sequence[Link]) -> None:
    for link in links:
        ready = link.ready
        cpu, cores = ready.machine.get("cpu"), ready.machine.get("cores")
        console.note(
            f"node {ready.name} on {ready.host}: {cpu}, cores {cores}, streams {ready.streams}; {ready.estimate.how}"
        )


def _connect(cluster: str, request: NodeRequest, beat: Beat) -> Sequence[Link]:
    if cluster.startswith(THREADS):
        from harness.cluster.local_link import connect_threads

        return connect_threads(hosts.number_in(cluster, THREADS), request, beat)
    from harness.cluster import ray_link  # only a run with a cluster loads Ray

    return ray_link.connect(hosts.read(cluster), request, beat)
