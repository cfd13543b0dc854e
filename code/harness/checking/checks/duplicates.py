"""Logs that occur twice: each must come from its own test, unless the rules let a result be inferred from another."""

import hashlib
import re
from collections.abc import Iterable, Iterator

from harness.checking.checks.subject import Package, Result
from harness.checking.tree import Findings, Problem, Tree
from harness.loadgen.logs import ACCURACY, DETAIL
from harness.results.layout import SCORES
from harness.rules.inference import LOWER_ACCURACY


def check_duplicates(tree: Tree, packages: Iterable[Package]) -> Findings[None]:
    """Compare all logs of a tree with each other."""
    origins: dict[str, str] = {}
    copies: tuple[str, ...] = ()
    for package in packages:
        for result in package.results():
            origins |= dict(_origins(result))
            if package.layout.copies:
                copies = (*copies, f"{result.folder}/TEST")
    paths = [path for path in sorted(tree.entries) if not path.startswith((".", *copies))]
    yield from _details(tree, paths, origins)
    yield from _accuracy(tree, paths)


def _origins(result: Result) -> Iterator[tuple[str, str]]:
    """The detail logs of a result, each with the path that the log of the measured result would have."""
    scene, package = result.scene, result.package
    measured = "/".join((package.path, scene.system, _measured(scene.benchmark), result.measured))
    folders = [result.folder, *(result.test(audit.name).rpartition("/")[0] for audit in result.tests())]
    for folder in dict.fromkeys(folders):
        for path in result.tree.below(folder, "file"):
            if path.endswith(f"/{DETAIL}"):
                yield path, measured + path.removeprefix(folder)


def _measured(benchmark: str) -> str:
    """The variant of ``benchmark`` with the higher accuracy target, from which its results may be inferred."""
    return next((high for high, low in LOWER_ACCURACY.items() if low == benchmark), benchmark)


def _details(tree: Tree, paths: Iterable[str], origins: dict[str, str]) -> Findings[None]:
    first: dict[str, str] = {}
    for path in paths:
        if path.rpartition("/")[2] == DETAIL and (content := tree.read(path)):
            digest = hashlib.sha256(content).hexdigest()
            known = first.setdefault(digest, path)
            if known != path and origins.get(known, known) != origins.get(path, path):
                other = path.split("/")[:2] != known.split("/")[:2]
                cure = "remove one of the two packages" if other else "run each test separately"
                yield Problem(path, f"it is the same log as {known}", cure)


def _accuracy(tree: Tree, paths: Iterable[str]) -> Findings[None]:
    """Accuracy logs with the same hash must be the same."""
    first: dict[str, tuple[str, bytes]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        text, log = tree.read(path), tree.read(f"{folder}/{ACCURACY}")
        found = re.search(rb"^hash=([0-9a-fA-F]{64})\s*$", text or b"", re.MULTILINE) if name == SCORES else None
        if found and log:
            known, content = first.setdefault(found[1].decode().lower(), (path, log))
            if content != log:
                what = f"it has the same hash as {known}, but the logs differ"
                yield Problem(path, what, "hash each accuracy log itself, or package it again")
