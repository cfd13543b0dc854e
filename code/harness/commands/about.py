"""`harness doctor`, `harness help` and `harness completion`."""

from typing import Annotated

import typer
from rich.table import Table

from harness.commands import completion
from harness.commands.options import AsJson
from harness.errors import ConfigError, on_interrupt
from harness.terminal import console


def doctor(
    official: Annotated[bool, typer.Option("--official", help="Also fail on requirements of official runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find what would block or slow a run: each line is good, warning or bad, with the fix.

    The exit code is 1 if something would block a run.
    """
    from harness.doctor.examine import examine

    with on_interrupt("nothing was changed."):
        raise typer.Exit(examine(official=official, as_json=as_json))


def help_(
    context: typer.Context,
    topic: Annotated[list[str] | None, typer.Argument(help="For example early_stopping.")] = None,
) -> None:
    """Explain an MLPerf term and its meaning in this harness; without a topic, list all topics."""
    from rich.markdown import Markdown

    from harness.commands.topics import overview, text

    if topic:
        if topic[0] in getattr(context.find_root().command, "commands", {}):
            raise ConfigError(f"{topic[0]} is a command, not a topic: type it with --help.")
        words = text("_".join(topic))
        shown = Markdown(words) if console.out.is_terminal else words.rstrip()
        console.out.print(shown, soft_wrap=not console.out.is_terminal)
        return
    table = Table("topic", "about", box=None, pad_edge=False)
    for row in overview().items():
        table.add_row(*row)
    console.print_table(table)


def completion_(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
) -> None:
    """Print the completion script for your shell: `eval "$(harness completion bash)"`."""
    console.out.print(completion.script(shell))
