"""A run as a TOML file: read into requests, where a list of values is a sweep, and written beside each finished run.

A file holds the options of `harness run` by name, those of `--set` in the table `set`:

    model = "minilm-l6-squad-int8"
    engine = ["onnxruntime", "openvino"]    # a list: one test for each
    repeat = 3                              # the whole sweep three times

    [set]
    max_batch = [8, 32]

    [[run]]                                 # optional: each adds to the settings above, or replaces them
    scenario = "Offline"

    [[run]]
    scenario = "Server"
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeAlias, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from harness.catalog import manifests
from harness.catalog.manifests import Model
from harness.catalog.models import model_file
from harness.engines.base import find_engine
from harness.errors import ConfigError, did_you_mean
from harness.files.disk import read_toml, user_path
from harness.registry import BENCHMARKS, ENGINES
from harness.rules.rehearsal import REHEARSAL_TREE
from harness.settings.identity import options_to_repeat
from harness.settings.request import NameOrPath, RunRequest
from harness.settings.run import RunSettings
from harness.task.base import find_benchmark
from harness.validation import first_error

RUNFILE = "run.toml"
"""The name of the file that repeats a run, in the folder of its record."""
_SET, _RUN, REPEAT = "set", "run", "repeat"
_TYPES = {name.replace("_", "-"): kind for name, kind in get_type_hints(RunRequest, include_extras=True).items()}
KEYS = tuple(key for key in _TYPES if key not in ("options", "shown", "cache-dir"))
"""The keys of a file, which are the options of `harness run`."""


def _keys_of(*kinds: object) -> frozenset[str]:
    """The keys whose values have one of these types."""
    return frozenset(key for key in KEYS if set(kinds) & {_TYPES[key], *get_args(_TYPES[key])})


_PATHS = _keys_of(Path)
_NAMES_OR_PATHS = _keys_of(NameOrPath)
_NUMBERS = _keys_of(int, float)  # checked here, since pydantic accepts true as 1
_MAX_TESTS = 10_000  # of a file: more are a mistake

Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True)
class SweepPoint:
    """One test of a run file."""

    values: Mapping[str, Value]
    """By key; an option of the table ``set`` by its own name, and the number of the repeat, if there are several."""
    request: RunRequest


def read(path: Path, given: Mapping[str, Value], options: Mapping[str, Value]) -> list[SweepPoint]:
    """The tests of a run file, repeats last; paths in it are relative to its folder.

    ``given`` (by key) and ``options`` (of ``set``) come from the command line, and replace those of the file.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
    """
    table = read_toml(path, "a run file", "harness help runfile")
    variants = table.pop(_RUN, [{}])
    if not isinstance(variants, list) or not variants or not all(isinstance(each, dict) for each in variants):
        raise ConfigError(f"{path}: {_RUN} is not a list of tables: write each as [[{_RUN}]].")
    typed = {**given, **{f"{_SET}.{name}": value for name, value in options.items()}}
    above = _lists(path, table)
    fixed = {key: [value] for key, value in typed.items()}
    sweeps = [{**above, **_lists(path, each), **fixed} for each in variants]
    asked = sum(_repeats(path, each) * math.prod(map(len, each.values())) for each in sweeps)
    if asked > _MAX_TESTS:
        raise ConfigError(
            f"{path} asks for {asked:,} tests: lower {REPEAT} or shorten its lists, to at most {_MAX_TESTS:,}."
        )
    rows = [row for each in sweeps for row in _rows(path, each)]
    rows.sort(key=lambda row: row.get(REPEAT, 1))
    return [_point(path, row, typed) for row in rows]


def written(settings: RunSettings) -> str:
    """The run file that repeats a run, to be stored beside the user.conf that LoadGen read.

    A path that is not UTF-8 cannot be in a TOML file: it is written like ``\\xfc``, with a comment on the option.
    """
    values, options = options_to_repeat(settings)
    values["model"] = _model(settings.model)
    for key in _NAMES_OR_PATHS - {"model"}:
        values[key] = _absolute(values[key])
    values |= {"profile": True} if settings.profile else {}
    values |= {"timeline": settings.timeline, "stall-timeout": settings.stall_timeout, **_places(settings)}
    lines = [
        "# Repeats this run, with all settings that were in force: harness run FILE",
        *(_line(key, value, f"--{key}=PATH") for key, value in values.items() if value is not None),
        *(["", f"[{_SET}]"] if options else []),
        *(
            _line(name, value.resolve() if isinstance(value, Path) else value, f"--set {name}=PATH")
            for name, value in options.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _places(settings: RunSettings) -> dict[str, str]:
    """The folders that the run wrote to, where they are not the default: a repetition must not write elsewhere."""
    usual = {key: RunSettings.model_fields[key].default for key in ("tree", "runs_dir")}
    if settings.rehearsal:
        usual["tree"] = REHEARSAL_TREE
    chosen = {key: getattr(settings, key).resolve() for key in usual}
    return {key.replace("_", "-"): str(path) for key, path in chosen.items() if path != usual[key].resolve()}


def _model(model: Model) -> str:
    """The model's name if that finds the same file, otherwise its path."""
    benchmark, entry = manifests.models().get(model.name, (None, None))
    if benchmark and entry:
        home = manifests.folder(benchmark) / entry.file if entry.file else model_file(model.name)
        if home.resolve() == model.path.resolve():
            return model.name
    return str(model.path.resolve())


def _absolute(value: Value | None) -> Value | None:
    """The path of a file or folder that exists here; a name stays unchanged."""
    if not isinstance(value, str) or value in _known() or not user_path(value).exists():
        return value
    return str(user_path(value).resolve())


def _line(key: str, value: object, option: str) -> str:
    """The line of a key; of a path that is not UTF-8, which nothing has, with the command-line ``option`` to add."""
    line = f"{key} = {_toml(value)}"
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        escaped = os.fsencode(str(value)).decode("utf-8", "backslashreplace")
        return f"{key} = {_toml(escaped)}  # this path is not UTF-8: add {option} to the command"
    return line


def _toml(value: object) -> str:
    """A value as TOML, whose basic strings have JSON's escapes."""
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")


def _lists(path: Path, table: Mapping[str, object]) -> dict[str, list[Value]]:
    """The values of each key, with those of ``set`` as ``set.NAME``."""
    found: dict[str, list[Value]] = {}
    for name, value in table.items():
        key = name.replace("_", "-")
        if key == _SET and isinstance(value, dict):
            inner = {k: f"{_SET}.{k.replace('-', '_')}" for k in value}
            _check_once(path, inner)
            found |= {inner[k]: _values(path, f"{_SET}.{k}", v) for k, v in value.items()}
        elif key == _SET:
            raise ConfigError(f"{path}: {_SET} is not a table: write [{_SET}] with NAME = VALUE below it.")
        elif key in KEYS or key == REPEAT:
            found[key] = _values(path, name, value)
        else:
            raise _unknown(path, name)
    _check_once(path, {name: name.replace("_", "-") for name in table})
    return found


def _check_once(path: Path, keys: Mapping[str, str]) -> None:
    """Reject two spellings, with - and with _, of the same key."""
    for name, key in keys.items():
        if twin := next((other for other in keys if other != name and keys[other] == key), None):
            raise ConfigError(f"{path}: {name} and {twin} are the same key: remove one of them.")


def _unknown(path: Path, name: str) -> ConfigError:
    if name == _RUN:
        return ConfigError(f"{path}: a [[{_RUN}]] cannot contain {_RUN}: write each [[{_RUN}]] at the top level.")
    if name.replace("-", "_") in _options():
        return ConfigError(f"{path}: {name} is an option of --set: write it below [{_SET}].")
    return ConfigError(f"{path}: unknown key '{name}': {did_you_mean(name, [*KEYS, _SET, _RUN, REPEAT])}")


def _values(path: Path, key: str, value: object) -> list[Value]:
    given: list[object] = value if isinstance(value, list) else [value]
    if not given:
        raise ConfigError(f"{path}: {key} is an empty list: give a value, or remove the line.")
    values: list[Value] = []
    for each in given:
        if not isinstance(each, str | int | float):
            raise ConfigError(f"{path}: {key} = {each}: give a string, a number, true or false, or a list of these.")
        if isinstance(each, bool) and key.replace("_", "-") in _NUMBERS:
            raise ConfigError(f"{path}: {key} = {str(each).lower()}: give a number.")
        values.append(each)
    return values


def _repeats(path: Path, lists: Mapping[str, list[Value]]) -> int:
    """The number of times that each combination of the values is requested."""
    count, *others = lists.get(REPEAT, [1])
    if others or type(count) is not int or count < 1:
        raise ConfigError(f"{path}: {REPEAT} must be a whole number of at least 1, such as {REPEAT} = 3.")
    return count


def _rows(path: Path, lists: Mapping[str, list[Value]]) -> Iterator[dict[str, Value]]:
    """Every combination of the values, as often as requested: a row by key."""
    count = _repeats(path, lists)
    lists = {key: values for key, values in lists.items() if key != REPEAT}
    for values in product(*lists.values()):
        row = dict(zip(lists, values, strict=True))
        for number in range(1, count + 1):
            yield {**row, **({REPEAT: number} if count > 1 else {})}


def _point(path: Path, row: Mapping[str, Value], typed: Mapping[str, Value]) -> SweepPoint:
    folder = path.parent
    fields: dict[str, object] = {}
    options: dict[str, str] = {}
    for key, value in row.items():
        place = None if key in typed else folder  # a path on the command line is relative to the current folder
        if key.startswith(f"{_SET}."):
            options[key.partition(".")[2]] = _option(key.partition(".")[2], value, place)
        elif key != REPEAT:
            fields[key.replace("-", "_")] = _located(key, value, place)
    request = _request(f"{path}: ", fields, options)
    return SweepPoint({key.removeprefix(f"{_SET}."): value for key, value in row.items()}, request)


def _option(name: str, value: Value, folder: Path | None) -> str:
    """An option's value as text, as `--set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if folder is not None and isinstance(value, str) and _options().get(name) is Path:
        return str(folder / user_path(value))
    return str(value)


def _options() -> dict[str, object]:
    """The options of `--set`, with their types."""
    owners = [
        *(find_engine(name).Settings for name in ENGINES),
        *(find_benchmark(name).Settings for name in BENCHMARKS),
    ]
    return {name: field.annotation for each in owners for name, field in each.model_fields.items()}


def _located(key: str, value: Value, folder: Path | None) -> Value:
    """A path relative to the file's folder; a name stays unchanged."""
    if folder is None or not isinstance(value, str):
        return value
    path = folder / user_path(value)
    if key in _PATHS:
        return str(path)
    if key not in _NAMES_OR_PATHS or value in _known():
        return value
    return str(path) if "/" in value or path.exists() else value


def _known() -> set[str]:
    """The names of models and data sets."""
    return {*manifests.models(), *(name for benchmark in BENCHMARKS for name in manifests.datasets(benchmark))}


def varying(points: Sequence[SweepPoint]) -> list[str]:
    """The keys in which the tests of a file differ, in its order."""
    keys = dict.fromkeys(key for point in points for key in point.values)
    return [key for key in keys if len({repr(point.values.get(key)) for point in points}) > 1]


def request_of(given: Mapping[str, Value], options: Mapping[str, str]) -> RunRequest:
    """The request of a command without a file, from its options by name and those of `--set`.

    Raises:
        ConfigError: a value is wrong.
    """
    return _request("", {key.replace("-", "_"): value for key, value in given.items()}, options)


def _request(where: str, fields: Mapping[str, object], options: Mapping[str, str]) -> RunRequest:
    try:
        return _REQUEST.validate_python({**fields, "options": options})
    except ValidationError as error:
        first = first_error(error)
        raise ConfigError(f"{where}{first.key.replace('_', '-')} = {first.value}: {first.reason}.") from None


_REQUEST = TypeAdapter(RunRequest)
