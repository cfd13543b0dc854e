"""Files and folders: none missing, none stray, none that git or the official checkers refuse."""

from collections.abc import Iterable

import yaml  # type: ignore[import-untyped]

from harness.checking.checks.subject import Package, Result, scenario_of
from harness.checking.tree import Findings, Problem, Tree, printable, read_text
from harness.registry import SCENARIOS
from harness.results.layout import CONF, MAPPING, README
from harness.rules.limits import LARGEST_FILE
from harness.rules.rounds import DIVISIONS, RULES
from harness.settings.advised import package_command

_DOCUMENTS = (".md", ".pdf")
_PLAIN = ("LICENSE", "NOTICE")
_MEASURED = ("mlperf.conf",)
"""Files that may be next to user.conf."""
_MOVE = "remove it, or move it to the right folder"


def check_names(tree: Tree) -> Findings[None]:
    """Each file and folder on its own."""
    for path, why in tree.unreadable:
        yield Problem(path, f"it cannot be read: {why}", "fix its permissions")
    for path, entry in tree.entries.items():
        name = path.rpartition("/")[2]
        if name.startswith("."):
            yield Problem(path, "hidden files and folders are not allowed in a submission", "remove it")
        if " " in name or any(not c.isprintable() or 0xD800 <= ord(c) < 0xE000 for c in name):
            yield Problem(path, "its name contains a space or an unprintable character", "rename it")
        if name == "__pycache__" or name.endswith((".pyc", ".pyo")):
            yield Problem(path, "it is a Python cache", "remove it")
        if entry.kind == "folder" and not tree.names(path):
            yield Problem(path, "the folder is empty", "remove it")
        if entry.kind in ("link", "other"):
            what = "it is a symbolic link" if entry.kind == "link" else "it is neither a file nor a folder"
            yield Problem(path, what, "replace it with a regular file")
        if entry.size > LARGEST_FILE:
            yield Problem(path, f"it is larger than {LARGEST_FILE >> 20} MiB", "shrink or remove it")


def check_top(tree: Tree) -> Findings[list[tuple[str, str]]]:
    """The root and the divisions; returns the packages, as division and submitter."""
    found = []
    for name in tree.names(""):
        if name in DIVISIONS and tree.kind(name) == "folder":
            for submitter in tree.names(name):
                if tree.kind(f"{name}/{submitter}") == "folder":
                    found.append((name, submitter))
                else:
                    yield Problem(f"{name}/{submitter}", "a division may contain only folders of submitters", _MOVE)
        elif name.startswith(".") and name.endswith(".partial"):
            yield Problem(name, "it is a leftover of packaging that was killed", "remove it, or package again")
        elif tree.kind(name) == "folder" or not name.endswith(_DOCUMENTS):
            yield Problem(name, f"the root may contain only the divisions {' and '.join(DIVISIONS)}", _MOVE)
    if not found:
        yield Problem(".", "it does not contain <division>/<submitter>", f"create the tree with `{package_command()}`")
    return found


def check_package(package: Package) -> Findings[None]:
    """The folders of a submitter, the system descriptions, and the description of the calibration."""
    tree, layout, path = package.tree, package.layout, package.path
    folders = {layout.code, "systems", "documentation", *layout.trees}
    if layout.copies:
        folders.add(layout.copies.code)
    for name in tree.names(path):
        kind = tree.kind(f"{path}/{name}")
        mapping = name == MAPPING and not package.closed
        if kind == "folder" and name not in folders:
            what = f"in {package.round.name}, a submitter's folder may contain only {', '.join(sorted(folders))}"
            yield Problem(f"{path}/{name}", what, _MOVE)
        elif kind == "file" and not (mapping or name in _PLAIN or name.endswith(_DOCUMENTS)):
            yield Problem(f"{path}/{name}", "it does not belong here", _MOVE)
    if package.closed:
        calibration = package.at(layout.calibration)
        elsewhere = f"{path}/calibration.md"
        used = elsewhere if tree.kind(calibration) is None and tree.kind(elsewhere) == "file" else calibration
        yield from read_text(tree, used, "describe the calibration or state that there was none, or package it again")
    for name in tree.names(f"{path}/systems"):
        # <system>_power.yaml contains the power on the system's nameplate.
        ending = next((each for each in (".json", "_power.yaml") if name.endswith(each)), None)
        system = name.removesuffix(ending or "")
        if ending is None or ".json" in system or tree.kind(f"{path}/systems/{name}") != "file":
            yield Problem(f"{path}/systems/{name}", "it is not a system description", "remove it")
        elif tree.kind(f"{path}/results/{system}") != "folder":
            yield Problem(f"{path}/systems/{name}", "the system has no results", "remove it, or add the results")
        elif ending == "_power.yaml":
            yield from _yaml(tree, f"{path}/systems/{name}")


def _yaml(tree: Tree, path: str) -> Findings[None]:
    """A file that the official checker reads as YAML; invalid YAML would make it crash."""
    text = yield from read_text(tree, path, "write it as UTF-8")
    try:
        yaml.safe_load(text or "")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        what = getattr(error, "problem", None) or type(error).__name__
        yield Problem(path, f"it is not YAML ({what}{line})", "fix it")


def check_results(package: Package) -> Findings[None]:
    """The folders of results, and of the other trees with the same structure."""
    tree, path = package.tree, package.path
    results = package.results()
    if not results:
        yield Problem(f"{path}/results", "there are no results", f"create the tree with `{package_command()}`")
    for folder in dict.fromkeys(f"{path}/results/{r.scene.system}/{r.scene.benchmark}" for r in results):
        if "," in folder or '"' in folder:
            yield Problem(
                folder, "its name contains a comma or a quotation mark, which breaks summary.csv", "rename it"
            )
    scenes = {f"{r.scene.system}/{r.scene.benchmark}/{r.scene.scenario}" for r in results}
    for top in package.layout.trees:
        for depth, folder in _upper(tree, f"{path}/{top}"):
            for name in tree.names(folder):
                kind, place = tree.kind(f"{folder}/{name}"), f"{folder}/{name}"
                if kind != "folder":
                    yield Problem(place, "only folders are allowed here", _MOVE)
                elif depth == 2 and place.removeprefix(f"{path}/{top}/") not in scenes:
                    other = next((each for each in scenes if _same_scene(f"{path}/{top}/{each}", place)), None)
                    cure = f"rename it to {other.rpartition('/')[2]}, as in results" if other else ""
                    yield Problem(place, "it does not belong to any result", cure or "remove it, or add the result")
    for system in tree.names(f"{path}/results", "folder"):
        if not tree.names(f"{path}/results/{system}", "folder"):
            yield Problem(f"{path}/results/{system}", "the system has no results", "remove it, or add the results")
        for benchmark in tree.names(f"{path}/results/{system}", "folder"):
            yield from _benchmark(package, system, benchmark)


def _same_scene(one: str, other: str) -> bool:
    """Whether two scenario folders have the same path, ignoring the case of the scenario's name."""
    parts = [path.rpartition("/") for path in (one, other)]
    return parts[0][0] == parts[1][0] and parts[0][2].lower() == parts[1][2].lower()


def _upper(tree: Tree, top: str) -> list[tuple[int, str]]:
    """The folders above the scenario folders, each with its depth."""
    found = [(0, top)]
    for depth, folder in found:
        if depth < 2:
            found += [(depth + 1, f"{folder}/{name}") for name in tree.names(folder, "folder")]
    return found


def _benchmark(package: Package, system: str, benchmark: str) -> Findings[None]:
    folder = f"{package.path}/results/{system}/{benchmark}"
    known = package.benchmark(benchmark)
    if known is None:
        cure = f"use one of {', '.join(RULES)}"
        if not package.closed:
            cure += f", or map the name in {MAPPING}"
        yield Problem(folder, "the benchmark is unknown", cure)
    else:
        yield from _scenarios(package, system, benchmark, known)
    yield from _code(package, benchmark)


def _scenarios(package: Package, system: str, benchmark: str, known: str) -> Findings[None]:
    folder = f"{package.path}/results/{system}/{benchmark}"
    present = package.tree.names(folder, "folder")
    kinds = package.systems.get(system, {}).get("system_type")
    required = package.round.required(known, kinds) if isinstance(kinds, str) else frozenset(SCENARIOS)
    if not required:
        what = f"{package.round.name} does not have {known} for systems of type {printable(kinds)}"
        yield Problem(folder, what, "set system_type to edge or datacenter,edge")
        return
    if isinstance(kinds, str) and package.closed:
        for name in sorted(required - {scenario_of(name) for name in present}):
            what = f"the scenario is missing; the closed division requires it for systems of type {kinds}"
            yield Problem(f"{folder}/{name}", printable(what, 120), "measure it, or submit to the open division")
    allowed = required if package.closed else frozenset(SCENARIOS)
    for name in present:
        if scenario_of(name) not in allowed:
            right = next((each for each in allowed if each.lower() == name.lower()), None)
            cure = f"rename it to {right}" if right else f"remove it, or use one of {', '.join(sorted(allowed))}"
            yield Problem(f"{folder}/{name}", "the scenario is not allowed here", cure)
    measured: dict[str, str] = {}
    for result in package.results():
        # The official preprocess_submission.py puts inferred results next to measured ones: offline next to Offline.
        if (result.scene.system, result.scene.benchmark) == (system, benchmark) and not result.inference:
            first = measured.setdefault(result.filed, result.scene.scenario)
            if first != result.scene.scenario:
                yield Problem(result.folder, f"it is the same scenario as {first}", "keep one of them")


def _code(package: Package, benchmark: str) -> Findings[None]:
    folder = f"{package.path}/{package.layout.code}/{benchmark}"
    tree = package.tree
    if not any(tree.below(f"{folder}/{name}", "file") for name in tree.names(folder, "folder")):
        what = f"the code is missing: {benchmark}/<implementation> has no files"
        yield Problem(folder, what, "package it again")


def check_scene(result: Result) -> Findings[None]:
    """The folders of one result, its measurements and its compliance tests must contain nothing else."""
    package, tree = result.package, result.tree
    tests = result.rules.tests if result.rules else ()
    allowed = {package.at(package.layout.performance(result.scene).parent), f"{result.folder}/accuracy"}
    allowed |= {result.test(test) for test in tests}
    allowed |= {f"{result.measurements}/{name}" for name in (README, CONF, *_MEASURED)}
    compliance = result.test("*").rpartition("/")[0]
    copies = _copies(result, tests)
    allowed |= copies.keys()
    for copy, original in copies.items():
        yield from _same(tree, copy, original)
    for folder in dict.fromkeys((result.folder, result.measurements, compliance)):
        for name in tree.names(folder):
            path = f"{folder}/{name}"
            measurements = folder == result.measurements and result.implementation(name) is not None
            if path not in allowed and not measurements:
                yield Problem(path, "it does not belong here", "remove it")


def _copies(result: Result, tests: Iterable[str]) -> dict[str, str]:
    """The copies for the older official checker (`Layout.copies`), as {copy: original}."""
    package, new, measured = result.package, result.package.layout.copies, result.measurements
    if new is None:
        return {}
    copies = {f"{result.folder}/{name}": f"{measured}/{name}" for name in (README, CONF)}
    for name in package.tree.names(measured, "file"):
        if result.implementation(name) is not None:
            copies[package.at(new.measurements_file(result.scene, ""))] = f"{measured}/{name}"
    return copies | {package.at(new.compliance(result.scene, test)): result.test(test) for test in tests}


def _same(tree: Tree, copy: str, original: str) -> Findings[None]:
    """A copy, if it exists, must equal its original, file by file."""
    kind = tree.kind(copy)
    files = [copy] if kind == "file" else tree.below(copy, "file") if kind else []
    for path in files:
        if tree.read(path) != tree.read(original + path.removeprefix(copy)):
            yield Problem(path, f"it is a copy of {original}, but differs from it", "package it again")
