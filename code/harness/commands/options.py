"""Options that several commands have, each said once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from harness.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[
    str | None,
    typer.Option(help="Name (see `harness models`) or path of an ONNX file.", show_default="embedded"),
]
Engine = Annotated[
    str | None,
    typer.Option(
        help="deepsparse, onnxruntime, null (computes nothing), or module:Class.",
        show_default="deepsparse if installed",
    ),
]
Scenario = Annotated[str, typer.Option(help="LoadGen scenario: Offline, Server, SingleStream, MultiStream.")]
Dataset = Annotated[
    str | None,
    typer.Option(help="Name (see `harness data list`) or path.", show_default="full set if fetched, else sample"),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Option of engine or benchmark (see `harness options`)."),
]
System = Annotated[
    str | None, typer.Option(help="Name of the system, as of its folders.", show_default="from the processor")
]
UserConf = Annotated[Path | None, typer.Option(help="LoadGen's user.conf.", show_default="the project's")]
RunsDir = Annotated[Path | None, typer.Option(help="Where runs are recorded.", show_default="build/runs")]
Tree = Annotated[
    Path | None,
    typer.Option(help="Where results/ and compliance/ of official runs are.", show_default="the repository"),
]
StallTimeout = Annotated[float, typer.Option(help="Seconds without a finished batch that end a run.")]
MeasurementsDir = Annotated[
    Path, typer.Option(help="Where tuned settings lie, by system.", show_default="measurements")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Name or path, or NAME@ENGINE; may be repeated.", show_default="embedded"),
]
Scenarios = Annotated[
    list[str] | None,
    typer.Option("--scenario", help="May be repeated.", show_default="those that the closed division demands"),
]
SystemType = Annotated[
    str | None,
    typer.Option(help="edge, datacenter, or datacenter,edge.", show_default="that of systems/SYSTEM.json, or edge"),
]
Rehearsal = Annotated[
    bool, typer.Option("--rehearsal", help="Stand-ins for data, engine and weights; into build/rehearsal.")
]
RehearsalDuration = Annotated[
    float | None, typer.Option("--duration", help="Least seconds of each performance run. Rehearsals only.")
]
EngineOfModels = Annotated[
    str | None,
    typer.Option("--engine", help="Of models without @ENGINE.", show_default="deepsparse if installed"),
]
FullDataset = Annotated[str | None, typer.Option("--dataset", help="Name or path.", show_default="the full set")]
Retry = Annotated[bool, typer.Option("--retry", help="Run tests that failed once more.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what is done and what is left.")]
StateDir = Annotated[Path, typer.Option(help="Where the journal lies.", show_default="build/campaign")]


R = TypeVar("R", bound="DataclassInstance")


def takes(request: type[R]) -> Callable[[Callable[[R], None]], Callable[..., None]]:
    """Make a command of a function that takes one dataclass, whose fields are the command's options."""
    hints = get_type_hints(request, include_extras=True)
    options = [
        Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(request)
    ]

    def decorate(function: Callable[[R], None]) -> Callable[..., None]:
        @wraps(function)
        def command(**given: Any) -> None:
            function(request(**given))

        command.__signature__ = Signature(options)  # type: ignore[attr-defined]  # it is what typer reads
        command.__annotations__ = dict(hints)
        return command

    return decorate


def parse_options(pairs: list[str]) -> dict[str, str]:
    """The pairs of --set as a table.

    Raises:
        ConfigError: one is not of the form NAME=VALUE.
    """
    values = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {pair}: write NAME=VALUE, such as --set threads=2.")
        values[name.strip().replace("-", "_")] = value.strip()
    return values
