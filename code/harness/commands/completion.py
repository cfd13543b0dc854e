"""Completion of names in the shell: models, engines, scenarios, data sets, options of --set, help topics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, get_type_hints

from harness.errors import HarnessError

if TYPE_CHECKING:
    from typer import Typer

    from harness.catalog.manifests import DatasetEntry, ModelEntry

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_HARNESS_COMPLETE"
"""The environment variable through which a shell's script requests completions from the command."""
_ALIASES = {
    **{"compliance": "test", "round_name": "round_", "compare a": "runs", "compare b": "runs"},
    **{"models show name": "model", "models verify names": "model"},
}
"""Parameters that are completed like another one, given alone or after their command."""


def script(shell: str, program: str = "harness") -> str:
    """The script that makes a shell complete the command.

    Raises:
        ConfigError: the shell is not supported.
    """
    from typer.completion import get_completion_script

    from harness.registry import choose

    return get_completion_script(prog_name=program, complete_var=VARIABLE, shell=choose("shell", SHELLS, shell))


def attach(app: Typer, path: tuple[str, ...] = ()) -> None:
    """Give every parameter of a command line the completer for its command and name, or for its name alone."""
    from typer.completion import completion_init

    completion_init()
    known = _candidates().keys() | _ALIASES.keys()
    for command in app.registered_commands:
        callback = command.callback
        if callback is None:
            continue
        name = (*path, command.name or callback.__name__)
        # Resolve and store the annotations, so that typer reads the objects changed below, not new ones.
        callback.__annotations__ = get_type_hints(callback, include_extras=True)
        for parameter, annotation in callback.__annotations__.items():
            kinds = [each for each in (" ".join((*name, parameter)), parameter) if each in known]
            for info in getattr(annotation, "__metadata__", ()) if kinds else ():
                info.autocompletion = _completer(kinds[0])
    for group in app.registered_groups:
        if group.typer_instance is not None:
            attach(group.typer_instance, (*path, str(group.name or group.typer_instance.info.name)))


def complete(kind: str, typed: str) -> list[tuple[str, str]]:
    """The values of a kind that begin with ``typed``, each with its meaning.

    ``kind`` is a parameter's name, or a command and a parameter. A broken manifest or an unreadable folder completes
    nothing: the command itself says what is wrong.
    """
    try:
        found = _candidates()[_ALIASES.get(kind, kind)]()
    except (HarnessError, OSError):
        return []
    meanings = found if isinstance(found, Mapping) else dict.fromkeys(found, "")
    return [(name, words) for name, words in meanings.items() if name.startswith(typed)]


def _completer(kind: str) -> Callable[[str], list[tuple[str, str]]]:
    def completer(typed: str) -> list[tuple[str, str]]:  # typer accepts only a function, and inspects its parameters
        return complete(kind, typed)

    return completer


def _candidates() -> dict[str, Callable[[], Mapping[str, str] | Iterable[str]]]:
    """The function that lists the values of each kind, with or without their meanings."""
    from harness.commands import topics
    from harness.registry import ENGINES, MODES, SCENARIOS
    from harness.rules.audits import AUDITS
    from harness.rules.rounds import DIVISIONS, ROUNDS, SYSTEM_TYPES

    return {
        "model": lambda: _models(lambda entry: True),
        "models fetch name": lambda: _models(lambda entry: not entry.file),
        "models build name": lambda: _models(lambda entry: entry.builder),
        "models train recipe": _recipes,
        "models train start": lambda: ("dense", "one-shot"),
        "engine": lambda: list(ENGINES),
        "scenario": lambda: list(SCENARIOS),
        "mode": lambda: MODES,
        "dataset": lambda: _datasets(lambda entry: entry.kind == "dataset"),
        "data fetch name": lambda: _datasets(lambda entry: entry.urls),
        "test": lambda: {name: audit.purpose for name, audit in AUDITS.items()},
        "option": _options,
        "topic": topics.overview,
        "shell": lambda: SHELLS,
        "runs": _runs,
        "format_": _formats,
        "division": lambda: DIVISIONS,
        "system_type": lambda: SYSTEM_TYPES,
        "round_": lambda: [round_.name for round_ in reversed(ROUNDS)],
    }


# Each function imports its modules when it is called, since every TAB builds the command line again.
def _models(wanted: Callable[[ModelEntry], object]) -> dict[str, str]:
    from harness.catalog import manifests

    return {name: entry.description for name, (_, entry) in manifests.models().items() if wanted(entry)}


def _datasets(wanted: Callable[[DatasetEntry], object]) -> dict[str, str]:
    from harness.catalog import manifests
    from harness.registry import BENCHMARKS

    entries = (item for benchmark in BENCHMARKS for item in manifests.datasets(benchmark).items())
    return {name: entry.description for name, entry in entries if wanted(entry)}


def _options() -> dict[str, str]:
    from harness.settings.options import options_help

    return {f"{name}=": f"{owner}: {meaning}" for owner, name, meaning in options_help()}


def _runs() -> Iterable[str]:
    from harness.paths import ROOT
    from harness.results import finished

    return reversed(finished.names(ROOT / "build" / "runs"))


def _recipes() -> dict[str, str]:
    from harness.training.recipe import recipes

    return {name: recipe.description for name, recipe in recipes().items()}


def _formats() -> Iterable[str]:
    from harness.report.report import FORMATS

    return FORMATS
