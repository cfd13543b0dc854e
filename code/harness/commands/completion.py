"""Shell completion of names: models, engines, scenarios, data sets, options of --set, help topics.

Each function takes the text typed so far and returns pairs of value and meaning. A broken manifest or an unreadable
folder completes nothing: the command itself reports the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, get_type_hints

from harness.catalog import manifests
from harness.errors import HarnessError

if TYPE_CHECKING:
    from typer import Typer

    from harness.catalog.manifests import ModelEntry

Offered = list[tuple[str, str]]

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_HARNESS_COMPLETE"
"""The environment variable with which a shell's script asks the command for completions."""


def script(shell: str, program: str = "harness") -> str:
    """The completion script for a shell.

    Raises:
        ConfigError: the shell is not supported.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer lists no exports

    from harness.registry import choose

    return get_completion_script(prog_name=program, complete_var=VARIABLE, shell=choose("shell", SHELLS, shell))


def attach(app: Typer, path: tuple[str, ...] = ()) -> None:
    """Give every parameter of a command line the completer for its name, before a shell is answered."""
    from typer.completion import completion_init  # type: ignore[attr-defined]  # typer lists no exports

    completion_init()
    for command in app.registered_commands:
        callback = command.callback
        if callback is None:
            continue
        name = (*path, command.name or callback.__name__)
        # Resolved here and kept, so that typer finds the changed objects instead of creating new ones.
        callback.__annotations__ = get_type_hints(callback, include_extras=True)
        for parameter, annotation in callback.__annotations__.items():
            completer = _OF_COMMANDS.get((*name, parameter)) or _BY_NAME.get(parameter)
            for info in getattr(annotation, "__metadata__", ()) if completer else ():
                info.autocompletion = completer
    for group in app.registered_groups:
        if group.typer_instance is not None:
            attach(group.typer_instance, (*path, str(group.name or group.typer_instance.info.name)))


def models(typed: str) -> Offered:
    """All models known by name."""
    return _matching(typed, lambda: _models(lambda entry: True))


def fetchable(typed: str) -> Offered:
    """The models that are not part of the repository."""
    return _matching(typed, lambda: _models(lambda entry: not entry.file))


def buildable(typed: str) -> Offered:
    """The models with a builder."""
    return _matching(typed, lambda: _models(lambda entry: bool(entry.builder)))


def engines(typed: str) -> Offered:
    """The engines."""
    from harness.registry import ENGINES

    return _matching(typed, lambda: ((name, "") for name in ENGINES))


def scenarios(typed: str) -> Offered:
    """The scenarios."""
    from harness.registry import SCENARIOS

    return _matching(typed, lambda: ((name, "") for name in SCENARIOS))


def modes(typed: str) -> Offered:
    """performance and accuracy."""
    from harness.registry import MODES

    return _matching(typed, lambda: ((name, "") for name in MODES))


def runs(typed: str) -> Offered:
    """The finished runs, newest first."""
    from harness.paths import ROOT
    from harness.results.finished import names

    return _matching(typed, lambda: ((name, "") for name in reversed(names(ROOT / "build" / "runs"))))


def formats(typed: str) -> Offered:
    """The formats of reports."""
    from harness.report.report import FORMATS

    return _matching(typed, lambda: ((name, "") for name in FORMATS))


def tests(typed: str) -> Offered:
    """The compliance tests."""
    from harness.rules.audits import AUDITS

    return _matching(typed, lambda: ((name, audit.purpose) for name, audit in AUDITS.items()))


def datasets(typed: str) -> Offered:
    """The data sets."""
    return _matching(typed, lambda: _datasets(fetched=False))


def downloads(typed: str) -> Offered:
    """The data sets and files that `harness data fetch` downloads."""
    return _matching(typed, lambda: _datasets(fetched=True))


def options(typed: str) -> Offered:
    """The options of --set, each with its "="."""
    from harness.running.options import options_help

    return _matching(typed, lambda: ((f"{name}=", f"{owner}: {meaning}") for owner, name, meaning in options_help()))


def topics(typed: str) -> Offered:
    """The topics of `harness help`."""
    from harness.commands.topics import overview

    return _matching(typed, lambda: overview().items())


def shells(typed: str) -> Offered:
    """The supported shells."""
    return _matching(typed, lambda: ((name, "") for name in SHELLS))


def divisions(typed: str) -> Offered:
    """closed and open."""
    from harness.rules.rounds import DIVISIONS

    return _matching(typed, lambda: ((name, "") for name in DIVISIONS))


def system_types(typed: str) -> Offered:
    """The types of system."""
    from harness.rules.rounds import SYSTEM_TYPES

    return _matching(typed, lambda: ((name, "") for name in SYSTEM_TYPES))


def rounds(typed: str) -> Offered:
    """The known rounds, newest first."""
    from harness.rules.rounds import ROUNDS

    return _matching(typed, lambda: ((round_.name, "") for round_ in reversed(ROUNDS)))


def _matching(typed: str, offered: Callable[[], Iterable[tuple[str, str]]]) -> Offered:
    try:
        found = dict(offered())
    except (HarnessError, OSError):
        return []
    return [(name, words) for name, words in found.items() if name.startswith(typed)]


def _models(wanted: Callable[[ModelEntry], bool]) -> Iterator[tuple[str, str]]:

    return ((name, entry.description) for name, (_, entry) in manifests.models().items() if wanted(entry))


def _datasets(*, fetched: bool) -> Iterator[tuple[str, str]]:
    from harness.registry import BENCHMARKS

    for benchmark in BENCHMARKS:
        for name, entry in manifests.datasets(benchmark).items():
            if entry.urls if fetched else entry.kind == "dataset":
                yield name, entry.description


_BY_NAME = {
    "model": models,
    "engine": engines,
    "scenario": scenarios,
    "mode": modes,
    "dataset": datasets,
    "compliance": tests,
    "test": tests,
    "option": options,
    "topic": topics,
    "shell": shells,
    "runs": runs,
    "format_": formats,
    "division": divisions,
    "system_type": system_types,
    "round_": rounds,
    "round_name": rounds,
}
"""By parameter name of the command's function."""
_OF_COMMANDS = {
    ("models", "show", "name"): models,
    ("models", "verify", "names"): models,
    ("models", "fetch", "name"): fetchable,
    ("models", "build", "name"): buildable,
    ("data", "fetch", "name"): downloads,
    ("compare", "a"): runs,
    ("compare", "b"): runs,
}
"""By command and parameter, where the name alone is ambiguous."""
