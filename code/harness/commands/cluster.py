"""`harness cluster`: starts, stops and checks the machines that form one system."""

from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.text import Text

from harness.commands.options import AsJson
from harness.errors import on_interrupt
from harness.terminal import console, findings
from harness.terminal.progress import Progress

cluster_app = typer.Typer(
    help="Start, stop or check the machines of a cluster, which form one system (docs/cluster.md).",
    no_args_is_help=True,
)
HostsFile = Annotated[str, typer.Argument(metavar="HOSTS", help="The hosts file, such as hosts.toml.")]


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

    with on_interrupt("nothing was changed."), Progress("checking", unit="nodes") as bar:
        found = examining.check(read(hosts), installed(), INSTALLED, bar.advance)
    if as_json:
        console.print_json(findings.as_json(found))
    else:
        for level, text in findings.lines(found):
            console.out.print(Text.assemble((f"{level:7}  ", findings.STYLES[level]), text))
        console.out.print(findings.summary(found))
    raise typer.Exit(findings.blocked(found))
