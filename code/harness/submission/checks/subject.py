"""The subjects of the checks: the package of one submitter in one division, and each of its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.results.layout import LAYOUTS, MAPPING, Layout, Scene
from harness.rules.audits import AUDITS, Audit
from harness.rules.rehearsal import REHEARSAL_PREFIX
from harness.rules.rounds import RULES, Round, Rules, recognise
from harness.scenarios.base import Scenario, known_scenario
from harness.submission.tree import Findings, Problem, Tree, printable, read_object

_MAPPED = {rules.mapped: name for name, rules in RULES.items()}
"""The names of benchmarks in a mapping, and in the paths of results."""

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
    """The submitter's own names of benchmarks, with their mapped names; only in the open division."""

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
        found = []
        results = f"{self.path}/results"
        for system in self.tree.names(results, "folder"):
            for benchmark in self.tree.names(f"{results}/{system}", "folder"):
                for scenario in self.tree.names(f"{results}/{system}/{benchmark}", "folder"):
                    found.append(Result(self, Scene(system, benchmark, scenario)))
        return found

    def benchmark(self, name: str) -> str | None:
        """The official name of the benchmark of results in a folder ``name``; None if it is unknown."""
        if name in RULES:
            return name
        if self.closed:
            return None
        return _MAPPED.get(name) or _MAPPED.get(self.mapping.get(name, "")) or recognise(name)


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
    def scenario(self) -> type[Scenario] | None:
        """The scenario; None if it is unknown, which check_results reports."""
        return known_scenario(self.scene.scenario)

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

    def names_measurements(self, name: str) -> bool:
        """Whether ``name`` is a possible name of the measurements file."""
        parts = self.package.layout.measurements_file(self.scene, "*").name.split("*")
        return name.startswith(parts[0]) and name.endswith(parts[-1])

    def tests(self) -> list[Audit]:
        """The required compliance tests; in the open division, those that exist."""
        tests = self.rules.tests if self.rules else ()
        return [AUDITS[t] for t in tests if self.package.closed or self.tree.kind(self.test(t)) == "folder"]

    def test(self, test: str) -> str:
        """The folder of a compliance test."""
        return self.package.at(self.package.layout.compliance(self.scene, test))


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
        else:
            what = f"{printable(name)} is mapped to {printable(benchmark)}, which is not a benchmark of this project"
            yield Problem(path, what, f"map it to one of {', '.join(_MAPPED)}")
    return good
