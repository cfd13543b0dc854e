"""`harness doctor`, `harness help` and `harness completion`."""

from typing import Annotated

import typer
from rich.table import Table

from harness.commands import completion
from harness.commands.options import AsJson
from harness.errors import on_interrupt
from harness.host import console


def doctor(
    official: Annotated[
        bool, typer.Option("--official", help="What only an official run needs stops one, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look for what stops a run or makes it slow: each line good, warning or bad, with the cure.

    The exit code is 1 if something stops a run.
    """
    from harness.doctor.examine import examine

    with on_interrupt("nothing was changed."):
        raise typer.Exit(examine(official=official, as_json=as_json))


def help_(
    topic: Annotated[list[str] | None, typer.Argument(help="Such as early_stopping.")] = None,
) -> None:
    """Explain one of MLPerf's words, and what it means in this harness; without a topic, list them."""
    from rich.markdown import Markdown

    from harness.commands.topics import overview, text

    if topic:
        words = text("_".join(topic))
        shown = Markdown(words) if console.out.is_terminal else words.rstrip()
        console.out.print(shown, soft_wrap=not console.out.is_terminal)
        return
    table = Table("topic", "is about", box=None, pad_edge=False)
    for row in overview().items():
        table.add_row(*row)
    console.print_table(table)


def completion_(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
) -> None:
    """Print the script that completes this command in your shell: `eval "$(harness completion bash)"`."""
    console.out.print(completion.script(shell))
