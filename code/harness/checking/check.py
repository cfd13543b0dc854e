"""Our own check of a packaged submission: it finds the problems that the official checkers find, and some they miss.

Each check is a function in harness.checking.checks that yields problems; this module runs them on a tree.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.checking.checks.accuracy import check_accuracy
from harness.checking.checks.compliance import check_compliance
from harness.checking.checks.duplicates import check_duplicates
from harness.checking.checks.log import read_log
from harness.checking.checks.marks import check_marks
from harness.checking.checks.measurements import check_measurements
from harness.checking.checks.performance import check_performance
from harness.checking.checks.structure import check_names, check_package, check_results, check_scene, check_top
from harness.checking.checks.subject import Package, Result, read_mapping
from harness.checking.checks.system import check_system
from harness.checking.place import check_place, check_round
from harness.checking.recorded import Recorded, check_recorded, find_recorded
from harness.checking.tree import Findings, Problem, T, Tree, printable, values_of
from harness.loadgen.logs import DETAIL
from harness.rules.rounds import DEFAULT_ROUND, SEEDS, Round, round_of


@dataclass(frozen=True)
class CheckReport:
    """The findings of a check."""

    round: Round
    packages: tuple[str, ...]
    """Each as division/submitter."""
    results: int
    problems: tuple[Problem, ...]
    """Sorted by path."""
    recorded: Recorded | None = None
    """The findings on our own results, for which only the digests are checked; None if the tree is a submission."""
    notes: tuple[str, ...] = ()
    """For a rehearsal, the findings that only real data and full-length tests can change."""


def examine(root: Path, round_: Round | None = None, rehearsal: bool = False) -> CheckReport:
    """Check a tree for a round, by default the one that most of its logs belong to.

    For our own results, which are not a submission yet, only the digests are checked. A rehearsal may contain its
    marks, and problems that only real data and full-length tests can change become notes; all others count.

    Raises:
        ConfigError: the folder does not exist, the tree is above or below it, or it belongs to another round.
    """
    if root.is_dir() and (folders := find_recorded(root)):
        recorded = check_recorded(root, folders)
        return CheckReport(round_ or DEFAULT_ROUND, (), len(folders), recorded.problems, recorded)
    check_place(root, rehearsal)
    tree = Tree(root)
    logs = list(_rounds(tree))
    check_round(root, logs, round_, rehearsal)
    known = Counter(each for each in logs if each)
    wanted = round_ or (known.most_common(1)[0][0] if known else DEFAULT_ROUND)
    problems: list[Problem] = []
    found = _collect(check_top(tree), problems)
    packages = [_package(tree, division, name, wanted, problems) for division, name in found]
    for package in packages:
        for findings in _checks(package):
            _collect(findings, problems)
    code = tuple(package.at(package.layout.root / package.layout.code) for package in packages)
    _collect(check_duplicates(tree, packages), problems)
    _collect(check_marks(tree, code), problems)
    _collect(check_names(tree), problems)
    kept = (replace(p, path=printable(p.path, 400)) for p in problems if not (rehearsal and p.mark))
    ordered = sorted(dict.fromkeys(kept), key=lambda problem: problem.path)
    notes = [problem for problem in ordered if rehearsal and problem.stand_in]
    ordered = [problem for problem in ordered if problem not in notes]
    names = tuple(package.path for package in packages)
    results = sum(len(package.results()) for package in packages)
    return CheckReport(wanted, names, results, tuple(ordered), notes=tuple(f"{p.path}: {p.what}" for p in notes))


def _collect(findings: Findings[T], problems: list[Problem]) -> T:
    """Append all problems that a check yields, and return its return value."""
    while True:
        try:
            problems.append(next(findings))
        except StopIteration as end:
            value: T = end.value
            return value


def _rounds(tree: Tree) -> Iterator[Round | None]:
    """The round of each log; None if its seeds belong to no known round."""
    for path in tree.entries:
        folder, _, name = path.rpartition("/")
        if name == DETAIL and folder.startswith(("closed/", "open/")):
            log = values_of(read_log(tree, folder))
            if log and set(SEEDS) & {key.removeprefix("effective_") for key in log.values}:
                yield round_of(log.values)


def _package(tree: Tree, division: str, submitter: str, wanted: Round, problems: list[Problem]) -> Package:
    path = f"{division}/{submitter}"
    mapping = _collect(read_mapping(tree, path), problems)
    systems = {}
    for system in tree.names(f"{path}/results", "folder"):
        values = _collect(check_system(tree, path, system), problems)
        if values is not None:
            systems[system] = values
    return Package(tree, division, submitter, wanted, systems, mapping)


def _checks(package: Package) -> Iterator[Findings[None]]:
    yield check_package(package)
    yield check_results(package)
    for result in package.results():
        yield _result(result)


def _result(result: Result) -> Findings[None]:
    yield from check_scene(result)
    yield from check_measurements(result)
    log = yield from check_performance(result)
    yield from check_accuracy(result)
    yield from check_compliance(result, log)
