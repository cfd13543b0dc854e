"""Nodes as actors of Ray. The only file that loads Ray, which it does only when a run has a cluster.

A node is known to live by a heartbeat of the harness's own: Ray itself takes from 14 to 65 s to notice that a machine
is gone. What does not answer is lost, and a lost node ends the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import pickle
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from harness.cluster import files
from harness.cluster.hosts import Hosts
from harness.cluster.launch import TOKEN, LocalCluster, clean_environment, credentials, head_address
from harness.cluster.link import Link
from harness.cluster.local_link import find_prepare
from harness.cluster.messages import Answers, NodeReady, NodeRequest, Parcel
from harness.cluster.node import Node
from harness.errors import ConfigError, HarnessError, MissingDependencyError, RunFailed
from harness.host import console
from harness.host.usage import Reading, reading
from harness.task.shape import Integers

BEAT = 0.5
"""Seconds between two heartbeats."""
SILENT = 4.0
"""Seconds without an answer after which a node is lost."""
_JOINING = 120.0  # seconds until all nodes have joined and their processes have started
_PATIENCE = 30.0  # seconds that the driver promises its own supervisor between two reports
_LOADING = 600.0  # seconds to load samples or to open a test
_PROBE = 200_000  # bytes: so many go through the raylet, whose state the heartbeat is to show
_WHOLE = 1 << 20  # bytes from which arrays travel by Ray's object store, without a copy
_CHUNK = 64 << 20  # bytes of a file in one message
_ENDING = 5.0  # seconds
_T = TypeVar("_T")


class Beat(Protocol):
    """Reports progress, and the maximum seconds until the next report."""

    def __call__(self, within: float, doing: str = "") -> None:
        """``doing`` says what happens until then."""


@dataclass(frozen=True)
class Failure:
    """What ended a test on a node."""

    error: BaseException


@dataclass(frozen=True)
class About:
    """What a node's process says of itself before it prepares anything."""

    host: str
    pid: int
    parent: int
    """The raylet."""
    cpus: int


class NodeActor:
    """The process of a node. Its methods run on four threads: in order, for answers, for heartbeats, for checks."""

    def __init__(self) -> None:
        # Ray sets it, and the engine's threads are the harness's to decide.
        os.environ.pop("OMP_NUM_THREADS", None)
        _end_with_parent()
        self._node: Node | None = None
        self._files: _Arriving | None = None
        self._outbox: queue.SimpleQueue[tuple[int, Answers | Failure]] = queue.SimpleQueue()
        self._test = 0
        self._promise = (time.monotonic(), 600.0, "")

    def about(self) -> About:
        """Who this is."""
        return About(socket.gethostname(), os.getpid(), os.getppid(), len(os.sched_getaffinity(0)))

    def missing(self, needed: Sequence[files.Needed]) -> list[str]:
        """The names of the files that the driver must send."""
        return files.missing(needed)

    def begin_file(self, name: str, sha256: str) -> None:
        """The chunks that follow are a file's."""
        self._files = _Arriving(name, sha256)

    def more(self, chunk: bytes) -> None:
        """The next part of the file."""
        assert self._files
        self._files.put(chunk)

    def end_file(self) -> None:
        """The file is complete; raises what kept it from being stored."""
        assert self._files
        self._files.end()

    def prepare(self, request: NodeRequest, name: str) -> NodeReady:
        """Make the node; raises what ends the run."""
        self._node, ready = find_prepare(request.prepare)(request, name, self._beat)
        return ready

    def _beat(self, within: float, doing: str = "") -> None:
        self._promise = (time.monotonic(), within, doing)

    def beat(self) -> tuple[float, str]:
        """Seconds by which the preparation is late, and what it does; goes through the raylet of this machine."""
        ray = _ray()
        ray.put(np.zeros(_PROBE, np.uint8))
        since, within, doing = self._promise
        return time.monotonic() - since - within, doing

    def open(self, test: int) -> None:
        """Begin a test."""
        assert self._node
        self._test = test
        self._node.open(lambda error: self._outbox.put((test, Failure(_portable(error)))))

    def take(self, message: bytes | list[Parcel]) -> None:
        """Answer parcels, some time."""
        assert self._node
        back = partial(self._back, self._test)
        for parcel in pickle.loads(message) if isinstance(message, bytes) else message:
            self._node.answer(parcel, back)

    def _back(self, test: int, answers: Answers) -> None:
        self._outbox.put((test, answers))

    def collect(self) -> bytes | list[tuple[int, Answers | Failure]]:
        """What is answered, each with the number of its test; waits until something is."""
        found = [self._outbox.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._outbox.get_nowait())
        return _message(found, sum(len(each.buffer) for _, each in found if isinstance(each, Answers)))

    def give_up(self) -> None:
        """Answer the rest without computing it."""
        if self._node:
            self._node.give_up()

    def load(self, indices: Integers) -> None:
        """Hold these samples of the own data set."""
        assert self._node
        self._node.load(indices)

    def close(self) -> None:
        """End the test."""
        if self._node:
            self._node.close()

    def facts(self, module: str, function: str) -> Any:
        """What a function without parameters says on this machine."""
        return getattr(importlib.import_module(module), function)()

    def echo(self, payload: Any) -> Any:
        """The same, so that the driver can measure the way."""
        return payload

    def clock(self) -> float:
        """Seconds of the realtime clock."""
        return time.time()

    def usage(self) -> Reading | None:
        """Who uses the cores."""
        return reading()


def _portable(error: BaseException) -> BaseException:
    """The error, or its words if it cannot travel."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  whatever an exception of an engine does
        return RunFailed(f"{type(error).__name__}: {error}")
    return error


class _Arriving:
    """A file whose chunks come one by one, on its way to the disk."""

    def __init__(self, name: str, sha256: str) -> None:
        self._chunks: queue.Queue[bytes] = queue.Queue(2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._store, args=(name, sha256), daemon=True)
        self._thread.start()

    def _store(self, name: str, sha256: str) -> None:
        try:
            files.store(name, sha256, iter(self._chunks.get, b""))
        except BaseException as error:  # noqa: BLE001  raised by `end`
            self._error = error

    def put(self, chunk: bytes) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                return self._chunks.put(chunk, timeout=1.0)
        return None

    def end(self) -> None:
        self.put(b"")
        self._thread.join()
        if self._error:
            raise self._error


def _end_with_parent() -> None:
    """Let the kernel kill this process with its raylet, also when it is stopped."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _message(found: list[_T], size: int) -> bytes | list[_T]:
    """Small ones pickled here, which is several times faster than Ray's own pickling."""
    return pickle.dumps(found, 5) if size < _WHOLE else found


def _ray() -> Any:  # the optional package
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(f"a cluster needs Ray ({error}): run `make setup CLUSTER=1`.") from error
    return ray


class RayLink(Link):
    """The driver's side of one actor."""

    def __init__(self, cluster: RayCluster, name: str, actor: Any) -> None:
        self.name, self.actor = name, actor
        self.ready: NodeReady
        self.about = About("?", 0, 0, 0)
        self.failure: BaseException | None = None
        self.late = 0.0
        self.doing = ""
        self._cluster = cluster
        self._lock = threading.Lock()
        self._waiting: list[Parcel] = []
        self._sending = False
        self._closed = False
        self._test = 0
        self._answered: Callable[[Answers], None] = lambda answers: None
        self._failed: Callable[[BaseException], None] = lambda error: None

    def where(self) -> str:
        """For messages."""
        return f"node {self.name} on {self.about.host}"

    def listen(self) -> None:
        """Begin to collect answers."""
        threading.Thread(target=self._collect, name=f"answers-{self.name}", daemon=True).start()

    def open(self, answered: Callable[[Answers], None], failed: Callable[[BaseException], None]) -> None:
        """Begin a test."""
        with self._lock:
            self._test += 1
            self._waiting.clear()
            self._answered, self._failed = answered, failed
        if self.failure:
            failed(self.failure)
            return
        try:
            self.call(_LOADING, "open", self._test)
        except HarnessError as error:
            failed(error)

    def send(self, parcel: Parcel) -> None:
        """The caller that finds nobody sending sends also what others add meanwhile."""
        with self._lock:
            self._waiting.append(parcel)
            if self._sending:
                return
            self._sending = True
        while True:
            with self._lock:
                parcels, self._waiting = self._waiting, []
                if not parcels:
                    self._sending = False
                    return
            try:
                self.actor.take.remote(_message(parcels, sum(map(_size, parcels))))
            except Exception as error:  # noqa: BLE001  Ray raises many kinds
                self.lose(self._cluster.in_words(error))

    def give_up(self) -> None:
        """In order with the parcels."""
        with contextlib.suppress(Exception):  # a node that is lost needs not be told
            self.actor.give_up.remote()

    def load(self, indices: Integers) -> None:
        """Wait until the node holds these samples."""
        self.call(_LOADING, "load", indices)

    def call(self, within: float, method: str, *given: Any) -> Any:
        """What a method of the actor returns; gives up as soon as the node is lost.

        Raises:
            HarnessError: the node's own error with its name, or its loss.
        """
        ray = _ray()
        try:
            found = getattr(self.actor, method).remote(*given)
            ends = time.monotonic() + within
            while not ray.wait([found], timeout=BEAT)[0]:
                if self.failure:
                    raise self.failure
                if time.monotonic() > ends:
                    raise RunFailed(f"{self.where()} has not done {method} for {within:.0f} s.")
            return ray.get(found)
        except HarnessError as error:
            raise self._named(error) from error
        except Exception as error:
            raise self.lost(error) from error

    def lost(self, error: BaseException) -> BaseException:
        """The failure that an error of Ray means: of the node's own code, or its loss."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, BaseException):
            return self._named(cause)
        self.lose(self._cluster.in_words(error))
        return self.failure or error

    def _named(self, cause: BaseException) -> HarnessError:
        if self.where() in str(cause):
            assert isinstance(cause, HarnessError)
            return cause
        kind = type(cause) if isinstance(cause, HarnessError) else RunFailed
        words = str(cause) if isinstance(cause, HarnessError) else f"{type(cause).__name__}: {cause}"
        return kind(f"{self.where()}: {words}")

    def lose(self, why: str) -> None:
        """The node is gone: end the test."""
        self._fail(RunFailed(f"{self.where()} was lost: {why}."))

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._closed or self.failure:
                return
            self.failure = error
            failed = self._failed
        failed(error)

    def _collect(self) -> None:
        ray = _ray()
        while not self._closed:
            try:
                found = ray.get(self.actor.collect.remote())
                for test, each in pickle.loads(found) if isinstance(found, bytes) else found:
                    if test != self._test:
                        continue
                    if isinstance(each, Failure):
                        self._failed(self._named(each.error))
                    else:
                        self._answered(each)
            except BaseException as error:  # noqa: BLE001  of Ray, or of a defect: the test must not wait for ever
                self._fail(self.lost(error))
                return

    def close(self) -> None:
        """The actor ends, and with the last one the cluster."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._cluster.leave(self)


def _size(parcel: Parcel) -> int:
    return sum(array.nbytes for array in (parcel.samples or {}).values())


class RayCluster:
    """This process as the driver of a cluster, and the heartbeats of all its nodes."""

    def __init__(self, hosts: Hosts, beat: Beat) -> None:
        """Start or join it.

        Raises:
            HarnessError: Ray is missing, or the cluster is not there.
        """
        self.links: list[RayLink] = []
        self._left: set[str] = set()
        self._own_probe = time.monotonic()
        self._over = threading.Event()
        self.local = LocalCluster(hosts.local) if _importable() and hosts.local else None
        try:
            self._join(hosts, beat)
        except BaseException:
            self.close()
            raise

    def _join(self, hosts: Hosts, beat: Beat) -> None:
        if self.local:
            clean_environment(self.local.environment)
            address = self.local.address
        else:
            clean_environment(credentials(hosts))
            address = head_address(hosts)
            if TOKEN not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
                console.warn(
                    f"the cluster at {address} is joined without a token: whoever reaches its ports can run code on "
                    "all its machines; give `token` in the hosts file (docs/cluster.md)."
                )
        beat(_JOINING, "the nodes of the cluster start")
        self._wait_for_port(address, beat)
        beat(_JOINING, "the cluster is joined")
        ray = _ray()
        try:
            with _loopback(bool(self.local)):
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=False)
        except Exception as error:
            raise ConfigError(f"the cluster at {address} cannot be joined ({_first_line(error)}).") from error
        wanted = self.local.names if self.local else [host.called for host in hosts.nodes]
        for name, node in self._nodes(wanted, beat):
            self.links.append(self._actor(name, node))
        threading.Thread(target=self._watch, name="heartbeats", daemon=True).start()
        threading.Thread(target=self._probe, name="own-heartbeat", daemon=True).start()
        self._meet(beat)

    def _wait_for_port(self, address: str, beat: Beat) -> None:
        host, _, port = address.rpartition(":")
        ends = time.monotonic() + (_JOINING if self.local else _ENDING)
        while True:
            try:
                with socket.create_connection((host, int(port)), 1.0):
                    return
            except OSError as error:
                if time.monotonic() > ends:
                    raise ConfigError(
                        f"the cluster at {address} cannot be reached ({error.strerror or error}): start it with "
                        "`harness cluster up`, or fix its address."
                    ) from error
            self._check_local()
            beat(_PATIENCE, "the nodes of the cluster start")
            time.sleep(0.1)

    def _check_local(self) -> None:
        if self.local:
            self.local.check()

    def _nodes(self, wanted: Sequence[str], beat: Beat) -> list[tuple[str, dict[str, Any]]]:
        """Ray's description of each node, by name: of those that are ``wanted``, else all that have cores."""
        ray = _ray()
        ends = time.monotonic() + _JOINING
        while True:
            alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            found = {str(node["NodeName"]): node for node in alive}
            if len(found) < len(alive):
                found = {f"{node['NodeName']}-{place}": node for place, node in enumerate(alive)}
            if alive and set(wanted) <= found.keys():
                return [(name, found[name]) for name in wanted or sorted(found)]
            if time.monotonic() > ends or not (self.local or not wanted):
                absent = ", ".join(sorted(set(wanted) - found.keys())) or "every one"
                raise ConfigError(f"of the cluster's nodes, {absent} has not joined: see `harness cluster up`.")
            self._check_local()
            beat(_PATIENCE, "the nodes of the cluster start")
            time.sleep(0.1)

    def _actor(self, name: str, node: dict[str, Any]) -> RayLink:
        ray = _ray()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        kind = ray.remote(
            num_cpus=node["Resources"]["CPU"],  # all: nothing else is to run there
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=1,
            concurrency_groups={"answers": 1, "beats": 1, "checks": 1},
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )(_with_groups(ray))
        return RayLink(self, name, kind.remote())

    def _meet(self, beat: Beat) -> None:
        """Wait until every node's process has begun."""
        for link, about in self._all(beat, _JOINING, [link.actor.about.remote() for link in self.links]):
            link.about = about

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
                link.call(_JOINING, "begin_file", name, sha256)
                with path.open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        link.call(_LOADING, "more", chunk)
                        beat(_PATIENCE, f"{path} is sent to node {link.name}")
                link.call(_LOADING, "end_file")

    def _all(self, beat: Beat, within: float, waiting: Sequence[Any]) -> Iterator[tuple[RayLink, Any]]:
        """Each link with what its call returned, in the order of the nodes; raises the first failure of any."""
        ray = _ray()
        ends = time.monotonic() + within
        left = dict(zip(waiting, self.links, strict=True))
        found: dict[str, Any] = {}
        while left:
            for ref in ray.wait(list(left), num_returns=len(left), timeout=BEAT)[0]:
                link = left.pop(ref)
                try:
                    found[link.name] = ray.get(ref)
                except Exception as error:
                    raise link.lost(error) from error
            for link in self.links:
                if link.failure:
                    raise link.failure
            for link in left.values():
                if link.late > 0:
                    raise RunFailed(f"{link.where()}: no progress in time{f': {link.doing}' if link.doing else ''}.")
                if time.monotonic() > ends:
                    raise RunFailed(f"{link.where()} did not start in {within:.0f} s: its cores may be in use.")
            self._check_local()
            beat(_PATIENCE, next((link.doing for link in left.values()), ""))
        yield from ((link, found[link.name]) for link in self.links)

    def _watch(self) -> None:
        """Ask every node for a sign of life; also notices when this process itself was suspended."""
        ray = _ray()
        pending: dict[Any, RayLink] = {}
        heard = dict.fromkeys((link.name for link in self.links), time.monotonic() + _JOINING)
        looked = time.monotonic()
        while not self._over.is_set():
            asked = set(pending.values())
            for link in self.links:
                if link not in asked and not link.failure:
                    pending[link.actor.beat.remote()] = link
            done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=BEAT) if pending else ([], [])
            now = time.monotonic()
            if now - looked > SILENT / 2:
                heard = {name: max(now, when) for name, when in heard.items()}
                self._own_probe = now
            looked = now
            for ref in done:
                link = pending.pop(ref)
                try:
                    link.late, link.doing = ray.get(ref)
                    heard[link.name] = now
                except Exception as error:  # noqa: BLE001  Ray raises many kinds
                    link.lose(self.in_words(error))
            for link in self.links:
                if now - heard[link.name] > SILENT:
                    link.lose(f"no answer for {SILENT:.0f} s")
                elif now - self._own_probe > SILENT:
                    link.lose(f"Ray on this machine has not answered for {SILENT:.0f} s")
            self._over.wait(BEAT - (time.monotonic() - now) if len(done) else 0.0)

    def _probe(self) -> None:
        """The raylet of this machine also has to answer."""
        ray = _ray()
        while not self._over.is_set():
            with contextlib.suppress(Exception):
                ray.put(np.zeros(_PROBE, np.uint8))
                self._own_probe = time.monotonic()
            self._over.wait(BEAT)

    def in_words(self, error: BaseException) -> str:
        """What an error of Ray says of a node."""
        name = type(error).__name__
        known = {"ActorDiedError": "its process ended", "ActorUnavailableError": "its process cannot be reached"}
        return known.get(name, f"{name}: {_first_line(error)}")

    def leave(self, link: RayLink) -> None:
        """A link is closed; with the last one, all ends."""
        self._left.add(link.name)
        if len(self._left) == len(self.links):
            self.close()

    def close(self) -> None:
        """End the nodes' processes; of nodes on this machine also Ray. Takes seconds at most, whatever is stopped."""
        self._over.set()
        ending = threading.Thread(target=self._shut_down, daemon=True)
        ending.start()
        ending.join(_ENDING)
        if self.local:
            self.local.close()

    def _shut_down(self) -> None:
        try:
            ray = _ray()
        except MissingDependencyError:
            return
        with contextlib.suppress(Exception):
            for link in self.links:
                ray.kill(link.actor, no_restart=True)
            ray.shutdown()


def _with_groups(ray: Any) -> type[NodeActor]:
    """`NodeActor` whose answers, heartbeats and checks do not wait for the other calls."""
    groups = {"collect": "answers", "beat": "beats", "echo": "checks", "clock": "checks", "usage": "checks"}
    for name, group in groups.items():
        ray.method(concurrency_group=group)(getattr(NodeActor, name))
    for name in ("take", "give_up"):
        ray.method(num_returns=0)(getattr(NodeActor, name))
    return NodeActor


@contextlib.contextmanager
def _loopback(wanted: bool) -> Iterator[None]:
    """Let Ray take 127.0.0.1 as it is: it would replace it by the address of a network card (see `launch`)."""
    from ray._private import services

    before = services.resolve_ip_for_localhost
    if wanted:
        services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = before


def _importable() -> bool:
    """Before any process is started."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise MissingDependencyError("a cluster needs Ray (it is not installed): run `make setup CLUSTER=1`.")
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200].rstrip(".")


def connect(hosts: Hosts, request: NodeRequest, beat: Beat) -> Sequence[Link]:
    """Links to all nodes of a cluster, each ready; closing the last ends what was started.

    Raises:
        HarnessError: Ray is missing, the cluster cannot be joined, or a node fails; nothing is left behind.
    """
    cluster = RayCluster(hosts, beat)
    try:
        return cluster.links_to(request, beat)
    except BaseException:
        cluster.close()
        raise
