"""The command line. It loads neither engines nor LoadGen: only the process of a test does."""

import errno
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness import __version__
from harness.commands import (
    about,
    cluster,
    compare,
    completion,
    data,
    exporting,
    models,
    reporting,
    running,
    submission,
    training,
)
from harness.errors import HarnessError, on_interrupt, os_words
from harness.terminal import console
from harness.terminal.streams import keep_streams


class _Group(TyperGroup):
    """Also accepts -v and --log-file after the command, where users of make must put them.

    The class of the contexts is private to typer.
    """

    def invoke(self, ctx: Any) -> Any:
        # typer would exit silently on Ctrl-C.
        with on_interrupt("no partial results were kept."):
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, rest, words = [], [], iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
            elif word in ("-v", "--verbose") or word.startswith("--log-file="):
                given.append(word)
            elif word == "--log-file":
                value = next(words, None)
                if value is None:  # before the command, it would take the command as its value
                    return super().parse_args(ctx, [word])
                given += [word, value]
            else:
                rest.append(word)
        return super().parse_args(ctx, [*given, *rest])


app = typer.Typer(
    name="harness",
    cls=_Group,
    help="Measure this CPU with MLPerf Inference: LoadGen drives BERT and ResNet50 on DeepSparse, ONNX Runtime or "
    "OpenVINO.",
    epilog="Exit codes: 0 success, 1 a run failed or is INVALID, or a check found a problem, 2 a command or setting is "
    "wrong, 130 interrupted. See `harness help exit_codes`; `harness help` lists all topics.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        console.out.print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Show details: settings in force, estimates, shapes and times."),
    ] = False,
    log_file: Annotated[
        Path | None, typer.Option(help="Append all output to a file, with details and times.", show_default=False)
    ] = None,
) -> None:
    console.configure(console.Output(verbose, log_file))
    if log_file:
        console.detail(shlex.join(["harness", *sys.argv[1:]]))


for _command in (running.run, running.tune, submission.campaign, submission.package, submission.check, data.options):
    app.command()(_command)
app.command()(compare.compare)
app.command()(reporting.report)
app.command()(about.doctor)
app.command("help")(about.help_)
app.command("completion")(about.completion_)
models.models_app.command("train")(training.models_train)
app.add_typer(models.models_app, name="models", invoke_without_command=True)
app.add_typer(exporting.export_app, name="export")
app.add_typer(data.data_app, name="data")
app.add_typer(submission.compliance_app, name="compliance")
app.add_typer(submission.system_app, name="system")
app.add_typer(cluster.cluster_app, name="cluster")


def main() -> None:
    """Run the command line; a user's mistake becomes one line and an exit code."""
    try:
        keep_streams()
        if completion.VARIABLE in os.environ:
            completion.attach(app)
        app(prog_name="harness")
    except HarnessError as error:
        console.error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.error("interrupted: nothing was started.")
        sys.exit(130)
    except OSError as error:  # such as a full disk behind stdout, or an unreadable folder
        console.error(os_words(error))
        if error.errno == errno.ENOSPC:
            os._exit(1)  # Python would try to write the rest again, and print its own error
        sys.exit(1)


if __name__ == "__main__":
    main()
