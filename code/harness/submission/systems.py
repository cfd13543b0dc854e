"""The system descriptions of a package, and whether they agree with the runs."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.descriptions.description import (
    FRAMEWORKS,
    WHOLE,
    describe_machine,
    init_command,
    marked,
    read_system,
    unfilled,
    wanted,
)
from harness.errors import ConfigError
from harness.paths import ROOT
from harness.rules.rehearsal import REHEARSAL, REHEARSAL_PREFIX
from harness.submission.request import Submission
from harness.submission.select import ScenarioRuns


def describe_systems(
    submission: Submission, results: Sequence[ScenarioRuns]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The system descriptions for the results, by system, and what is wrong with them, one sentence each.

    The field ``framework`` names the engines that ran.

    Raises:
        ConfigError: one does not exist, or cannot be read.
    """
    described: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name in dict.fromkeys(runs.scene.system for runs in results):
        mine = [runs for runs in results if runs.scene.system == name]
        path = submission.source.system_file(name)
        values = _rehearsed_system(name) if submission.rehearsal else _system(path)
        written = str(values.get("framework") or "")
        values["framework"] = framework(written, mine)
        problems += () if submission.rehearsal else other_versions(written, _engines(mine), path)
        described[name] = values | {"division": submission.division, "submitter": submission.submitter}
        if missing := unfilled(described[name]):
            needed = ", ".join(f"{field} ({wanted(field)})" for field in missing)
            problems.append(f"{path} lacks {needed}: fill it in, or run `{init_command(path)}` first.")
        for runs in () if submission.rehearsal else mine:
            what = f"{runs.scene.benchmark} {runs.scene.scenario} ran"
            problems += wrong_nodes(described[name], runs.performance.machines or 1, what, path)
    return described, list(dict.fromkeys(problems))


def _system(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} is missing: create it with `{init_command(path)}`, and fill it in.")
    return read_system(path)


def _rehearsed_system(name: str) -> dict[str, Any]:
    """The description of the real system, else of this machine, marked as a rehearsal."""
    real = ROOT / "systems" / f"{name.removeprefix(REHEARSAL_PREFIX)}.json"
    values = read_system(real) if real.is_file() else describe_machine()
    known = name if "system_name" in unfilled(values) else values["system_name"]
    values |= {"system_name": f"REHEARSAL on {known}", "sw_notes": REHEARSAL}
    defaults = {**dict.fromkeys(WHOLE, "1"), "status": "available", "system_type": "edge"}
    return values | {field: defaults.get(field, "REHEARSAL") for field in unfilled(values)}


def framework(written: str, results: Sequence[ScenarioRuns]) -> str:
    """The field of a system description: as a person wrote it, with the engines that ran and without the others.

    `harness system init` writes all that are installed, and the organisers print the field unchanged.
    """
    return _framework(written, _engines(results))


def _framework(written: str, engines: Mapping[str, Sequence[str]]) -> str:
    parts = [] if marked(written) else _parts(written)
    idle = set(FRAMEWORKS.values()) - engines.keys()
    parts = [part for part in parts if _names(part, engines) or not _names(part, idle)]
    missing = [title for title in engines if not any(_names(part, [title]) for part in parts)]
    return ", ".join([*parts, *(f"{title} {' and '.join(engines[title])}".rstrip() for title in missing)])


def other_versions(written: str, engines: Mapping[str, Sequence[str]], path: Path) -> Iterator[str]:
    """Where the field ``framework`` has another version of an engine than the tests; ``engines`` are theirs."""
    for title, versions in engines.items():
        said = [part for part in _parts(written) if _names(part, [title])]
        known = {word.lstrip("v") for part in said for word in re.findall(r"[\w.+-]+", part)}
        if said and not known.issuperset(versions):
            value = _framework(", ".join(part for part in _parts(written) if part not in said), engines)
            yield (
                f"{path} has framework {', '.join(said)}, but the tests use {title} {' and '.join(versions)}: "
                f"correct it with `{init_command(path)} --set {shlex.quote(f'framework={value}')}`."
            )


def _parts(written: str) -> list[str]:
    return [part.strip() for part in written.split(",") if part.strip()]


def _engines(results: Sequence[ScenarioRuns]) -> dict[str, list[str]]:
    """The recorded versions of the engines that ran, by their names in `FRAMEWORKS`."""
    found: dict[str, list[str]] = {}
    for engine in (runs.performance.engine for runs in results):
        versions = found.setdefault(FRAMEWORKS.get(engine.name, engine.name), [])
        if engine.version and engine.version not in versions:
            versions.append(engine.version)
    return found


def _names(part: str, titles: Iterable[str]) -> bool:
    """Whether a part of the field names one of these engines, however it is spelt.

    >>> _names("onnxruntime 1.22.0", ["ONNX Runtime"]), _names("Intel OpenVINO", ["ONNX Runtime"])
    (True, False)
    """
    spelt = part.replace(" ", "").casefold()
    return any(title.replace(" ", "").casefold() in spelt for title in titles)


def wrong_nodes(values: Mapping[str, Any], machines: int, what: str, path: Path) -> Iterator[str]:
    """Why a system description does not fit the number of ``machines``; ``what`` is "these tests run" or similar."""
    said = values.get("number_of_nodes")
    if "number_of_nodes" in unfilled(values):
        return
    if int(str(said)) != machines:
        yield (
            f"{path} has number_of_nodes {said}, but {what} on {machines}: "
            f"correct it, or describe this system under another name."
        )
    for field in ("host_networking", "host_networking_topology"):
        if machines > 1 and str(values.get(field)).startswith("N/A"):
            yield f"{path} has {field} {values[field]}, but {machines} machines are networked: describe the network."
