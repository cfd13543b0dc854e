"""The measurements file, user.conf and README.md of a result."""

from harness.checking.checks.subject import Result
from harness.checking.checks.system import exportable
from harness.checking.tree import Findings, Problem, read_object, read_text, required_text, writable
from harness.descriptions.measurements import FIELDS
from harness.errors import ConfigError
from harness.loadgen.conf import check_official, read_user_conf
from harness.results.layout import CONF, README
from harness.rules.limits import MIN_DURATION_MS

_AGAIN = "package it again"


def check_measurements(result: Result) -> Findings[None]:
    """The files that describe how a result was measured."""
    tree, folder = result.tree, result.measurements
    if tree.kind(folder) != "folder":
        yield Problem(folder, "the measurements of this result are missing", _AGAIN)
        return
    yield from _file(result, folder)
    yield from read_text(tree, f"{folder}/{README}", "describe how to repeat the measurement, or package it again")
    path = f"{folder}/{CONF}"
    if (yield from read_text(tree, path, _AGAIN)) is not None:
        yield from _conf(result, path)


def _file(result: Result, folder: str) -> Findings[None]:
    scene, layout = result.scene, result.package.layout
    pattern = layout.measurements_file(scene, "<implementation>").name
    if "<" not in pattern:
        path = f"{folder}/{pattern}"
    else:
        names = [n for n in result.tree.names(folder, "file") if n.endswith(".json")]
        implementation = result.implementation(names[0]) if len(names) == 1 else None
        if implementation is None:
            what = f"it needs exactly one file {pattern} (found: {', '.join(names) or 'none'})"
            yield Problem(folder, what, _AGAIN)
            return
        path = f"{folder}/{names[0]}"
        code = f"{result.package.path}/{layout.code}/{scene.benchmark}/{implementation}"
        if result.tree.kind(code) != "folder":
            yield Problem(path, f"it names the implementation {implementation}, but {code} does not exist", _AGAIN)
    values = yield from read_object(result.tree, path, _AGAIN)
    if values is not None:
        yield from required_text(path, values, FIELDS)
        yield from writable(path, values)
        yield from exportable(path, {"weight_data_types": values.get("weight_data_types")})


def _conf(result: Result, path: str) -> Findings[None]:
    """LoadGen must be able to read the file, and an official run must not change what the rules set."""
    file = result.tree.root / path
    model = result.rules.model if result.rules else "*"
    try:
        conf = read_user_conf(file)
        if result.scenario:
            check_official(conf, model, result.scenario.name, 0 if result.rehearsed else MIN_DURATION_MS)
    except (ConfigError, ValueError, OverflowError) as error:
        what = str(error).removeprefix(f"{file}, ").rstrip(".")
        yield Problem(path, what, "measure again with a user.conf that LoadGen can read and the rules allow")
