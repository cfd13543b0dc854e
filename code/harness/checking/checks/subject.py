"""The subjects of the checks: the package of one submitter in one division, and each of its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.checking.checks.log import read_log
from harness.checking.tree import Findings, Problem, Tree, printable, read_object, values_of
from harness.registry import SCENARIOS
from harness.results.layout import LAYOUTS, MAPPING, Layout, Scene
from harness.rules.audits import AUDITS, Audit
from harness.rules.inference import Inference, find_inference, may_infer
from harness.rules.rehearsal import REHEARSAL_PREFIX
from harness.rules.rounds import RULES, Round, Rules, recognise
from harness.scenarios.base import Scenario, known_scenario

_MAPPED = {rules.mapped: name for name, rules in RULES.items()}
"""The official name of each benchmark, which results are filed under, by its name in a mapping."""

_FOLDERS = {name.lower(): name for name in SCENARIOS}
"""Scenarios by their lower-case folder names, which both official checkers accept."""

_OTHERS = (
    *("3d-unet", "deepseek", "dlrm", "e2e-rag", "gpt", "llama", "mixtral", "pointpainting", "qwen", "retinanet"),
    *("rgat", "ssd-resnet", "stable-diffusion", "wan-", "whisper", "yolo"),
)
"""Prefixes of names that the official checkers may take for other benchmarks, regardless of a mapping."""


@dataclass(frozen=True)
class Package:
    """<division>/<submitter>."""

    tree: Tree
    division: str
    submitter: str
    round: Round
    systems: Mapping[str, Mapping[str, object]]
    """The readable system descriptions, by system."""
    mapping: Mapping[str, str]
    """The submitter's own benchmark names, with the names that they map to; only in the open division."""

    @property
    def closed(self) -> bool:
        """Whether the rules of the closed division apply."""
        return self.division == "closed"

    @property
    def path(self) -> str:
        """The package's folder."""
        return f"{self.division}/{self.submitter}"

    @cached_property
    def layout(self) -> Layout:
        """The layout of the round."""
        return LAYOUTS[self.round.layout](self.tree.root / self.division / self.submitter)

    def at(self, path: Path) -> str:
        """A path of the layout, relative to the tree's root."""
        return self.tree.relative(path)

    def results(self) -> list[Result]:
        """All folders at the depth of results."""
        return self._results

    @cached_property
    def _results(self) -> list[Result]:
        found = []
        results = f"{self.path}/results"
        for system in self.tree.names(results, "folder"):
            for benchmark in self.tree.names(f"{results}/{system}", "folder"):
                for scenario in self.tree.names(f"{results}/{system}/{benchmark}", "folder"):
                    found.append(Result(self, Scene(system, benchmark, scenario)))
        return found

    def benchmark(self, name: str) -> str | None:
        """The official name of the benchmark whose results are in a folder ``name``; None if it is unknown."""
        official = name if name in RULES else _MAPPED.get(name)
        if official or self.closed:
            return official
        return _MAPPED.get(self.mapping.get(name, "")) or recognise(name)


@dataclass(frozen=True)
class Result:
    """One scenario of one benchmark on one system."""

    package: Package
    scene: Scene

    @property
    def tree(self) -> Tree:
        """The tree that contains it."""
        return self.package.tree

    @property
    def benchmark(self) -> str | None:
        """The official name of the benchmark; None if it is unknown."""
        return self.package.benchmark(self.scene.benchmark)

    @property
    def rules(self) -> Rules | None:
        """The rules of the benchmark; None if it is unknown, which check_results reports."""
        return RULES.get(self.benchmark or "")

    @property
    def filed(self) -> str:
        """LoadGen's name of the scenario that the result is filed under; the folder's name if that is unknown."""
        return scenario_of(self.scene.scenario)

    @cached_property
    def inference(self) -> Inference | None:
        """How the result was inferred, according to its performance log; None if it was measured itself."""
        log = values_of(read_log(self.tree, self.package.at(self.package.layout.performance(self.scene))))
        return find_inference(log.values.get("effective_scenario"), self.filed) if log else None

    @property
    def system_type(self) -> object:
        """The system type in the system description."""
        return self.package.systems.get(self.scene.system, {}).get("system_type")

    @property
    def measured(self) -> str:
        """The scenario that LoadGen ran: the one that the result is filed under, unless it was inferred."""
        return self.inference.source if self.inference and may_infer(self.system_type) else self.filed

    @property
    def scenario(self) -> type[Scenario] | None:
        """The class of the scenario that LoadGen ran; None if it is unknown, which check_results reports."""
        return known_scenario(self.measured)

    @property
    def rehearsed(self) -> bool:
        """Whether it is from a rehearsal, according to the name of its system."""
        return self.scene.system.startswith(REHEARSAL_PREFIX)

    @property
    def folder(self) -> str:
        """The folder of the results."""
        return self.package.at(self.package.layout.results(self.scene))

    @property
    def measurements(self) -> str:
        """The folder of the measurements file, user.conf and README.md."""
        return self.package.at(self.package.layout.measurements(self.scene))

    def implementation(self, name: str) -> str | None:
        """The implementation in ``name``, "" if such names have none; None if it does not name a measurements file."""
        for scenario in (self.scene.scenario, self.filed):
            scene = Scene(self.scene.system, self.scene.benchmark, scenario)
            pattern = self.package.layout.measurements_file(scene, "*").name
            start, star, end = pattern.partition("*")
            if name == pattern and not star:
                return ""
            if star and name.startswith(start) and name.endswith(end) and len(name) >= len(pattern):
                return name[len(start) : -len(end)]
        return None

    def tests(self) -> list[Audit]:
        """The required compliance tests; in the open division, those that exist."""
        tests = self.rules.tests if self.rules else ()
        return [AUDITS[t] for t in tests if self.package.closed or self.tree.kind(self.test(t)) == "folder"]

    def test(self, test: str) -> str:
        """The folder of a compliance test."""
        return self.package.at(self.package.layout.compliance(self.scene, test))


def scenario_of(folder: str) -> str:
    """LoadGen's name of the scenario of a folder; an unknown name is returned unchanged.

    >>> scenario_of("singlestream"), scenario_of("Offline"), scenario_of("OFFLINE")
    ('SingleStream', 'Offline', 'OFFLINE')
    """
    return _FOLDERS.get(folder, folder)


def read_mapping(tree: Tree, package: str) -> Findings[dict[str, str]]:
    """The optional model mapping of an open package."""
    path = f"{package}/{MAPPING}"
    if not package.startswith("open/") or tree.kind(path) is None:
        return {}
    values = yield from read_object(tree, path, 'write an object such as {"mynet": "resnet"}, or remove the file')
    good: dict[str, str] = {}
    for name, benchmark in (values or {}).items():
        if name.startswith(_OTHERS):
            yield Problem(path, f"{name} is the name of another benchmark and cannot be mapped", "rename it")
        elif isinstance(benchmark, str) and benchmark in _MAPPED:
            good[name] = benchmark
            yield from _consistent(path, name, benchmark)
        else:
            what = f"{printable(name)} is mapped to {printable(benchmark)}, which is not a benchmark of this project"
            yield Problem(path, what, f"map it to one of {', '.join(_MAPPED)}")
    return good


def _consistent(path: str, name: str, mapped: str) -> Findings[None]:
    """A name that denotes one benchmark must not be mapped to another, which both official checkers would accept."""
    official = name if name in RULES else _MAPPED.get(name)
    shown = official or recognise(name)
    if shown is None or shown == _MAPPED[mapped]:
        return
    if official:
        what = f"{printable(name)} is an official name, but is mapped to {mapped}: the official checkers ignore that"
        yield Problem(path, what, f"remove it, or rename the folder if its results are of {mapped}")
    elif RULES[shown].model != RULES[_MAPPED[mapped]].model:
        what = f"{printable(name)} names {shown}, but is mapped to {mapped}"
        yield Problem(path, what, f"map it to {RULES[shown].mapped}, or rename the folder")
