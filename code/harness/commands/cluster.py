"""`harness cluster`: starts, stops and checks the machines that form one system."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from harness.commands.options import AsJson
from harness.errors import on_interrupt
from harness.host import console

if TYPE_CHECKING:
    from harness.machines.check import ClusterFinding

cluster_app = typer.Typer(
    help="Start, stop or check the machines of a cluster, which form one system (docs/cluster.md).",
    no_args_is_help=True,
)
HostsFile = Annotated[str, typer.Argument(metavar="HOSTS", help="The hosts file, such as hosts.toml.")]
_STYLES = {"good": "green", "warning": "yellow", "bad": "bold red"}


@cluster_app.command("up")
def up(hosts: HostsFile) -> None:
    """Start Ray on this machine and, over ssh, on all machines of HOSTS; create the token file if it is missing.

    Where it already runs, nothing changes: if you changed HOSTS, run `harness cluster down` first.
    """
    from harness.machines import launch

    _each(hosts, launch.up, "what was started is still running: `harness cluster down` stops it.")
    console.out.print(
        "the cluster is running: check it with `harness cluster check`, use it with `make run-offline CLUSTER=...`"
    )


@cluster_app.command("down")
def down(hosts: HostsFile) -> None:
    """Stop what `harness cluster up` started."""
    from harness.machines import launch

    _each(hosts, launch.down, "some machines may still be running: run the same command again.")


def _each(hosts: str, work: Callable[..., Iterator[str]], kept: str) -> None:
    from harness.machines.hosts import read

    with on_interrupt(kept):
        for line in work(read(hosts)):
            console.out.print(Text(line))


@cluster_app.command("check")
def check(
    hosts: Annotated[str, typer.Argument(metavar="HOSTS", help="The hosts file, or local:N.")],
    as_json: AsJson = False,
) -> None:
    """Compare the machines: versions, code, models, clocks, round trip, bandwidth, cores and other busy processes.

    The exit code is 1 if something would block a run.
    """
    from harness.machines import check as examining
    from harness.machines.hosts import read
    from harness.machines.installed import INSTALLED, installed

    with on_interrupt("nothing was changed."), console.Progress("checking", unit="nodes") as bar:
        lines = examining.check(read(hosts), installed(), INSTALLED, bar.advance)
    blocked = any(line.level == examining.BAD for line in lines)
    if as_json:
        console.print_json({"good": not blocked, "findings": [asdict(line) for line in lines]})
    else:
        _show(lines)
        console.out.print(examining.summary(lines))
    raise typer.Exit(blocked)


def _show(lines: "Sequence[ClusterFinding]") -> None:
    width = max((len(line.node) for line in lines), default=0)
    about = max((len(line.subject) for line in lines), default=0)
    for line in lines:
        text = f"{line.node:{width}}  {line.subject:{about}}  {line.what}" + (f" -> {line.cure}" if line.cure else "")
        console.out.print(Text.assemble((f"{line.level:7}  ", _STYLES[line.level]), text))
