"""The measurements file, user.conf and README.md of a result."""

from harness.errors import ConfigError
from harness.loadgen.conf import check_official, read_user_conf
from harness.results.layout import CONF, README
from harness.rules.limits import MIN_DURATION_MS
from harness.submission.checks.subject import Result
from harness.submission.measurements import FIELDS
from harness.submission.tree import Findings, Problem, read_object, read_text, required_text, writable

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
    pattern = layout.measurements_file(scene, "*").name
    if "*" not in pattern:
        path = f"{folder}/{pattern}"
    else:
        start, end = pattern.split("*")
        names = [n for n in result.tree.names(folder, "file") if n.endswith(".json")]
        good = [n for n in names if n.startswith(start) and n.endswith(end) and len(n) > len(pattern) - 1]
        if len(names) != 1 or not good:
            found = ", ".join(names) or "none"
            what = f"it needs exactly one file {start}<implementation>{end} (found: {found})"
            yield Problem(folder, what, _AGAIN)
            return
        path = f"{folder}/{good[0]}"
        implementation = good[0][len(start) : -len(end)]
        code = f"{result.package.path}/{layout.code}/{scene.benchmark}/{implementation}"
        if result.tree.kind(code) != "folder":
            yield Problem(path, f"it names the implementation {implementation}, but {code} does not exist", _AGAIN)
    values = yield from read_object(result.tree, path, _AGAIN)
    if values is not None:
        yield from required_text(path, values, FIELDS)
        yield from writable(path, values)


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
