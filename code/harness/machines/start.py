"""`ray start` for a node on this machine: `python -m harness.machines.start CPUS OPTION...`, CPUS such as "0,1"."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from harness.host.parent import end_with_parent

_AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
_IDLE = "tail -f /dev/null"  # a raylet ends if its agents do


def main() -> None:
    """Start a node on these CPUs; never returns, since --block makes `ray start` wait for its processes."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
    services, node = _private("services"), _private("node")
    # Ray would replace 127.0.0.1 by the address of a network card, and listen on all of them.
    services.resolve_ip_for_localhost = lambda host: host
    begin = node.Node.start_raylet

    def start_raylet(node: Any, *given: Any, **named: Any) -> None:
        _write_port(node)
        begin(node, *given, **named)

    node.Node.start_raylet = start_raylet
    node.Node.start_api_server = lambda node, **named: None
    services.start_ray_process = partial(_start_process, services.start_ray_process)
    sys.argv = ["ray", "start", *sys.argv[2:]]
    run: Any = import_module("ray.scripts.scripts").main
    run()


def _start_process(begin: Callable[..., object], command: Sequence[str], *given: Any, **named: Any) -> object:
    """Start one of Ray's processes; a raylet gets no agents.

    They serve a dashboard and install packages, which nobody asks for here, but each imports Ray: they took 40 % of the
    processor time in which a cluster starts.
    """
    return begin([_without_agent(word) for word in command], *given, **named)


def _without_agent(word: str) -> str:
    return next((option + _IDLE for option in _AGENTS if word.startswith(option)), word)


def _private(module: str) -> Any:
    return import_module(f"ray._private.{module}")


def _write_port(node: Any) -> None:
    """Write the agent's port where the raylet looks for it: its wait of 15 s is too short on a busy machine."""
    raylet: Any = import_module("ray._raylet")
    name, port = raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME, node._ray_params.dashboard_agent_listen_port
    raylet.persist_port(node.get_session_dir_path(), node._node_id, name, port)


if __name__ == "__main__":
    main()
