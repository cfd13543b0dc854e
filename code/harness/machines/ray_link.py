"""Nodes as Ray actors. Only this file imports Ray, and only when a run has a cluster.

The harness has its own heartbeats, because Ray takes 14 to 65 s to notice that a machine is gone. A node that does not
answer is lost, and a lost node ends the test.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count
from operator import itemgetter
from typing import Any

import psutil

from harness.cluster.link import Link
from harness.cluster.messages import NodeRequest
from harness.errors import ConfigError, MissingDependencyError, RunFailed
from harness.host.supervise import Beat
from harness.machines import tls
from harness.machines.actor import NodeActor, Sentinel
from harness.machines.actor_link import BEAT_SECONDS, RayLink, first_line
from harness.machines.heartbeats import Heartbeats
from harness.machines.hosts import Hosts
from harness.machines.launch import TOKEN, LocalCluster, credentials, head_address, set_environment
from harness.paths import advice
from harness.terminal import console

_INSTALL = advice("run `make setup CLUSTER=1`", "`pip install 'ray>=2.60,<3'`")
_JOINING_SECONDS = 240.0  # until all nodes have joined and their processes have started
_LISTING_SECONDS = 20.0  # until Ray lists a node that was just started
_FORGETTING_SECONDS = 90.0  # until Ray no longer lists a node that is gone: it takes 14 to 65
_ATTEMPTS = 3  # to start nodes on this machine
_REPORTING_SECONDS = 30.0  # the maximum between two reports, as promised to the driver's supervisor
_SENDING_SECONDS = 600.0  # to store a chunk of a file, and until a node first reports progress
_CHUNK_BYTES = 64 << 20  # of a file in one message
_ENDING_SECONDS = 5.0  # to reach a running cluster, or to shut Ray down
_BRIEFLY_SECONDS = 1.0  # to shut it down without the raylet of this machine, for which it may wait for ever


def _ray() -> Any:  # the optional package
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(f"a cluster needs Ray ({error}): {_INSTALL}.") from error
    return ray


class RayCluster:
    """This process as the driver of a cluster, with the links and heartbeats of all nodes."""

    def __init__(self, hosts: Hosts, beat: Beat) -> None:
        """Start or join the cluster.

        Raises:
            HarnessError: Ray is missing, or the cluster cannot be started or joined.
        """
        self.links: list[RayLink] = []
        self._left: set[str] = set()
        self._hearts: Heartbeats | None = None
        self.local = LocalCluster(hosts.local) if _importable() and hosts.local else None
        try:
            self._join(hosts, beat)
        except BaseException:
            self.close()
            raise

    def _join(self, hosts: Hosts, beat: Beat) -> None:
        if self.local:
            set_environment(self.local.environment)
            _ray()  # imported while the head starts, which keeps one core busy
            address = self._start_local(beat)
        else:
            set_environment(credentials(hosts))
            address = head_address(hosts)
            self._wait_for_port(address, beat)
            host, _, port = address.rpartition(":")
            tls.check(host, int(port))
            if TOKEN not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
                console.warn(
                    f"the cluster at {address} is joined without a token: anyone who reaches its ports can run code on "
                    "all its machines; set `token` in the hosts file (docs/cluster.md)."
                )
        beat(_JOINING_SECONDS, "joining the cluster")
        ray = _ray()
        try:
            _silence_ray()
            with _loopback(bool(self.local)):
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=False)
        except Exception as error:
            raise ConfigError(
                f"the cluster at {address} cannot be joined ({first_line(error)}): check the token, and that "
                "both sides have the same versions of Python and Ray."
            ) from error
        wanted = self.local.names if self.local else [host.called for host in hosts.nodes]
        for name, node in self._nodes(wanted, beat):
            self.links.append(self._actor(name, node))
        self._hearts = Heartbeats(ray, self.links, _JOINING_SECONDS, _raylet())
        self._await_processes(beat)

    def _start_local(self, beat: Beat) -> str:
        """Wait until all nodes on this machine have joined the head; returns its address.

        Ray gives its own processes 15 s to start, too short on a very busy machine, so a failed start is repeated.
        """
        assert self.local
        for attempt in count(1):
            try:
                self._wait_for_port(self.local.address, beat)
                break
            except RunFailed as error:
                if attempt == _ATTEMPTS:
                    raise
                console.detail(f"{error} Trying again.")
                self.local.close()
                self.local = LocalCluster(len(self.local.names))
        return self.local.address

    def _wait_for_port(self, address: str, beat: Beat) -> None:
        host, _, port = address.rpartition(":")
        ends = time.monotonic() + (_JOINING_SECONDS if self.local else _ENDING_SECONDS)
        while True:
            try:
                with socket.create_connection((host, int(port)), 1.0):
                    if not self.local or self.local.started():
                        return
                why = "not all nodes have started"
            except OSError as error:
                why = error.strerror or str(error)
            if time.monotonic() > ends:
                if self.local:
                    raise ConfigError(
                        f"{len(self.local.names)} nodes on this machine did not start in {_JOINING_SECONDS:.0f} s "
                        f"({why}): try fewer, or stop what keeps its cores busy."
                    )
                raise ConfigError(
                    f"the cluster at {address} cannot be reached ({why}): start it with `harness cluster up`, or fix "
                    "its address."
                )
            self._check_local()
            beat(_REPORTING_SECONDS, "starting the nodes of the cluster")
            time.sleep(0.1)

    def _check_local(self) -> None:
        if self.local:
            self.local.check()

    def _nodes(self, wanted: Sequence[str], beat: Beat) -> list[tuple[str, dict[str, Any]]]:
        """(name, Ray's description) of each ``wanted`` node; if ``wanted`` is empty, of all nodes that have cores."""
        ray = _ray()
        began = time.monotonic()
        while True:
            alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            names = [str(node["NodeName"]) for node in alive]
            if alive and not wanted:
                if len(set(names)) < len(names):
                    names = [f"{name}-{place}" for place, name in enumerate(names)]
                return sorted(zip(names, alive, strict=True), key=itemgetter(0))
            absent = sorted(set(wanted) - set(names))
            doubled = [name for name in wanted if names.count(name) > 1]
            if wanted and not absent and not doubled:
                found = dict(zip(names, alive, strict=True))
                return [(name, found[name]) for name in wanted]
            limit = (
                _JOINING_SECONDS if self.local or not wanted else _LISTING_SECONDS if absent else _FORGETTING_SECONDS
            )
            if time.monotonic() - began > limit:
                if doubled and not absent:
                    raise ConfigError(f"Ray lists two nodes called {doubled[0]}: `harness cluster down`, then `up`.")
                who = ", ".join(absent) or "all"
                raise ConfigError(f"nodes that have not joined the cluster: {who}; run `harness cluster up` again.")
            self._check_local()
            beat(_REPORTING_SECONDS, "starting the nodes of the cluster")
            time.sleep(0.1)

    def _actor(self, name: str, node: dict[str, Any]) -> RayLink:
        ray = _ray()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        always = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1, "scheduling_strategy": on_node}
        groups = {"beats": 1, "checks": 1}
        cpus = node["Resources"]["CPU"]  # all of them, so that Ray starts nothing else there
        actor = ray.remote(num_cpus=cpus, concurrency_groups=groups, **always)(_with_groups(ray)).remote()
        sentinel = ray.remote(num_cpus=0, **always)(Sentinel).remote()
        address = (str(node["NodeManagerAddress"]), int(node["NodeManagerPort"]))
        return RayLink(ray, name, actor, sentinel, address, self._leave)

    def _await_processes(self, beat: Beat) -> None:
        """Wait until the processes of every node have started."""
        for link, about in self._all(beat, _JOINING_SECONDS, [link.actor.about.remote() for link in self.links]):
            link.about = about
        # Until a sentinel has answered once, its silence would be taken for a slow start.
        for _ in self._all(beat, _JOINING_SECONDS, [link.sentinel.beat.remote(0) for link in self.links]):
            pass

    def links_to(self, request: NodeRequest, beat: Beat) -> list[RayLink]:
        """The links, once every node is ready.

        Raises:
            HarnessError: one fails or is lost.
        """
        self._send_files(request, beat)
        waiting = [link.actor.prepare.remote(request, link.name) for link in self.links]
        for link, ready in self._all(beat, float("inf"), waiting):
            link.ready = ready
        for link in self.links:
            link.listen()
        return self.links

    def _send_files(self, request: NodeRequest, beat: Beat) -> None:
        by_name = {name: (path, sha256) for name, path, sha256 in request.files}
        asked = [link.actor.missing.remote(request.files) for link in self.links]
        for link, names in list(self._all(beat, float("inf"), asked)):
            for name in names:
                path, sha256 = by_name[name]
                if not console.output().verbose:
                    console.note(f"sending {path.name} to node {link.name}")
                link.call(_JOINING_SECONDS, "begin_file", name, sha256)
                with path.open("rb") as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        link.call(_SENDING_SECONDS, "more", chunk)
                        beat(_REPORTING_SECONDS, f"sending {path} to node {link.name}")
                link.call(_SENDING_SECONDS, "end_file")

    def _all(self, beat: Beat, within: float, waiting: Sequence[Any]) -> Iterator[tuple[RayLink, Any]]:
        """Wait for one call per link: (link, result) in the order of the nodes; raises the first failure."""
        ray = _ray()
        ends = time.monotonic() + within
        left = dict(zip(waiting, self.links, strict=True))
        found: dict[str, Any] = {}
        for link in self.links:
            link.promised = time.monotonic() + _SENDING_SECONDS
        while left:
            for ref in ray.wait(list(left), num_returns=len(left), timeout=BEAT_SECONDS)[0]:
                link = left.pop(ref)
                try:
                    found[link.name] = ray.get(ref)
                except Exception as error:
                    raise link.cause_of(error) from error
            for link in self.links:
                if link.failure:
                    raise link.failure
            for link in left.values():
                if link.late() > 0:
                    doing = f" while {link.doing}" if link.doing else ""
                    raise RunFailed(f"{link.where()} made no progress in time{doing}.")
                if time.monotonic() > ends:
                    raise RunFailed(f"{link.where()} did not start in {within:.0f} s: stop what uses its cores.")
            self._check_local()
            beat(_REPORTING_SECONDS, next((link.doing for link in left.values()), ""))
        yield from ((link, found[link.name]) for link in self.links)

    def _leave(self, link: RayLink) -> None:
        """Note that a link is closed; after the last one, end everything."""
        self._left.add(link.name)
        if len(self._left) == len(self.links):
            self.close()

    def close(self) -> None:
        """End the nodes' processes, and Ray if it was started here; takes at most a few seconds, even if Ray hangs."""
        if self._hearts:
            self._hearts.over.set()  # from now on, a failure does not mean a lost node
        ending = threading.Thread(target=self._shut_down, daemon=True)
        ending.start()
        hangs = self._hearts is not None and not self._hearts.raylet_runs()
        ending.join(_BRIEFLY_SECONDS if hangs else _ENDING_SECONDS)
        if self.local:
            self.local.close()

    def _shut_down(self) -> None:
        try:
            ray = _ray()
        except MissingDependencyError:
            return
        if self._hearts:
            self._hearts.close()
        with contextlib.suppress(Exception):
            for link in self.links:
                ray.kill(link.actor, no_restart=True)
                ray.kill(link.sentinel, no_restart=True)
            ray.shutdown()


def _with_groups(ray: Any) -> type[NodeActor]:
    """The actor's class; its heartbeats and checks have their own threads, and do not wait for other calls."""
    groups = {"beat": "beats", "clock": "checks", "usage": "checks"}
    for name, group in groups.items():
        ray.method(concurrency_group=group)(getattr(NodeActor, name))
    ray.method(num_returns=0)(NodeActor.give_up)
    return NodeActor


def _raylet() -> int:
    """The process id of the raylet that serves this process; 0 if it is not found."""
    from ray._private import worker

    node: Any = worker.global_worker.node
    served = f"--raylet_socket_name={node.raylet_socket_name}"
    found = (process.pid for process in psutil.process_iter(["cmdline"]) if served in (process.info["cmdline"] or ()))
    return next(found, 0)


def _silence_ray() -> None:
    """Keep Ray's twenty lines about each lost node off the terminal: the harness reports it in one."""
    from ray._private import worker

    worker.print_to_stdstream = lambda *given, **options: None


@contextlib.contextmanager
def _loopback(wanted: bool) -> Iterator[None]:
    """Let Ray use 127.0.0.1, which it would replace by the address of a network card (see `start`)."""
    from ray._private import services

    before = services.resolve_ip_for_localhost
    if wanted:
        services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = before


def _importable() -> bool:
    """Whether Ray is installed, checked before any process is started; raises an error if not."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise MissingDependencyError(f"a cluster needs Ray (it is not installed): {_INSTALL}.")
    return True


def connect(hosts: Hosts, request: NodeRequest, beat: Beat) -> Sequence[Link]:
    """Links to all nodes of a cluster, each ready; closing the last link ends all that was started.

    Raises:
        HarnessError: Ray is missing, the cluster cannot be joined, or a node fails; nothing is left behind.
    """
    cluster = RayCluster(hosts, beat)
    try:
        return cluster.links_to(request, beat)
    except BaseException:
        cluster.close()
        raise
