"""`ray start` for a node on this machine: `python -m harness.machines.start CPUS OPTION...`, CPUS such as "0,1"."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

from harness.host.parent import end_with_parent


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
    sys.argv = ["ray", "start", *sys.argv[2:]]
    run: Any = import_module("ray.scripts.scripts").main
    run()


def _private(module: str) -> Any:
    return import_module(f"ray._private.{module}")


def _write_port(node: Any) -> None:
    """Write the agent's port where the raylet looks for it: its wait of 15 s is too short on a busy machine."""
    raylet: Any = import_module("ray._raylet")
    name, port = raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME, node._ray_params.dashboard_agent_listen_port
    raylet.persist_port(node.get_session_dir_path(), node._node_id, name, port)


if __name__ == "__main__":
    main()
