"""Options shared by several commands."""

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
        help="deepsparse, onnxruntime, openvino, null (computes nothing), or module:Class.",
        show_default="tuned one, else fastest for the model",
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
    str | None, typer.Option(help="System name, as used for its folders.", show_default="from the processor")
]
UserConf = Annotated[Path | None, typer.Option(help="LoadGen's user.conf.", show_default="the project's")]
RunsDir = Annotated[Path | None, typer.Option(help="Folder for the records of runs.", show_default="build/runs")]
Tree = Annotated[
    Path | None,
    typer.Option(help="Folder with results/ and compliance/ of official runs.", show_default="the repository"),
]
StallTimeout = Annotated[float, typer.Option(help="Stop a run after this many seconds without a finished batch.")]
Cluster = Annotated[
    str | None,
    typer.Option(metavar="HOSTS", help="Machines that form one system: a hosts.toml, or local:N (docs/cluster.md)."),
]
ClusterSamples = Annotated[
    str,
    typer.Option(
        metavar="data|indices",
        help="What is sent to the nodes: samples, or only their numbers (ask the working group before submitting).",
    ),
]
MeasurementsDir = Annotated[
    Path, typer.Option(help="Folder of tuned settings, by system.", show_default="measurements")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Name or path, or NAME@ENGINE; may be repeated.", show_default="embedded"),
]
Scenarios = Annotated[
    list[str] | None,
    typer.Option("--scenario", help="May be repeated.", show_default="those that the closed division requires"),
]
SystemType = Annotated[
    str | None,
    typer.Option(help="edge, datacenter, or datacenter,edge.", show_default="from systems/SYSTEM.json, else edge"),
]
Rehearsal = Annotated[
    bool, typer.Option("--rehearsal", help="Use stand-ins for data, engine and weights; writes to build/rehearsal.")
]
RehearsalDuration = Annotated[
    float | None,
    typer.Option("--duration", help="Minimum duration of each performance run in seconds. Rehearsals only."),
]
EngineOfModels = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="Engine for models given without @ENGINE.",
        show_default="tuned one, else fastest for the model",
    ),
]
FullDataset = Annotated[str | None, typer.Option("--dataset", help="Name or path.", show_default="the full set")]
Retry = Annotated[bool, typer.Option("--retry", help="Rerun failed tests.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the plan: tests, durations, what packaging needs.")]
StateDir = Annotated[Path, typer.Option(help="Folder of the journal.", show_default="build/campaign")]


R = TypeVar("R", bound="DataclassInstance")


def takes(request: type[R]) -> Callable[[Callable[[R], None]], Callable[..., None]]:
    """Turn a function of one dataclass into a command with the dataclass's fields as options."""
    hints = get_type_hints(request, include_extras=True)
    options = [
        Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(request)
    ]

    def decorate(function: Callable[[R], None]) -> Callable[..., None]:
        @wraps(function)
        def command(**given: Any) -> None:
            function(request(**given))

        command.__signature__ = Signature(options)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = dict(hints)
        return command

    return decorate


def parse_options(pairs: list[str]) -> dict[str, str]:
    """The values of --set by option name; "-" in a name becomes "_".

    Raises:
        ConfigError: a pair is not of the form NAME=VALUE.
    """
    values = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {pair}: write NAME=VALUE, such as --set threads=2.")
        values[name.strip().replace("-", "_")] = value.strip()
    return values
