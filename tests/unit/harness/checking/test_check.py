from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from breakages import BREAKAGES, TREES, Breakage, appended, logged, system
from submission_tree import SUBMITTER, SYSTEM, check, make_tree
from variants import VARIANTS

from harness.checking.check import examine
from harness.errors import ConfigError
from harness.results.layout import LAYOUTS, Layout
from harness.rules.rounds import find_round


@pytest.fixture(scope="session")
def good_trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    trees = {}
    for name, (round_name, division) in TREES.items():
        trees[name] = tmp_path_factory.mktemp("good") / name
        make_tree(trees[name], round_name, division)
    return trees


@pytest.fixture
def copy(good_trees: dict[str, Path], tmp_path: Path):
    def make(name: str) -> Layout:
        root = tmp_path / "tree"
        shutil.copytree(good_trees[name], root)
        round_name, division = TREES[name]
        return LAYOUTS[find_round(round_name).layout](root / division / SUBMITTER)

    return make


def root_of(layout: Layout) -> Path:
    return layout.root.parents[1]


@pytest.mark.parametrize(
    ("name", "division", "system_type", "results"),
    [
        ("v6.1", "closed", "edge", 5),
        ("v6.1", "open", "edge", 3),
        ("v6.1", "closed", "datacenter,edge", 6),
        ("v6.0", "closed", "edge", 5),
        ("v5.1", "closed", "edge", 5),
        ("v5.1", "open", "datacenter,edge", 3),
        ("v5.0", "closed", "edge", 5),
    ],
)
def test_a_good_tree_has_no_problem(tmp_path, name, division, system_type, results):
    make_tree(tmp_path, name, division, system_type=system_type)
    report = examine(tmp_path)
    assert not report.problems
    assert (report.round.name, report.results, report.packages) == (name, results, (f"{division}/{SUBMITTER}",))


def test_closed_and_open_side_by_side(tmp_path):
    make_tree(tmp_path, "v6.1", "closed")
    opened = make_tree(tmp_path, "v6.1", "open")
    for path in opened.root.rglob("mlperf_log_detail.txt"):  # of other runs than in the closed division
        path.write_text(
            path.read_text().replace("10:40:46.079", "11:40:46.079").replace("10:50:46.079", "11:50:46.079")
        )
    assert not check(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_a_broken_tree_is_found(copy, breakage: Breakage):
    layout = copy(breakage.tree)
    breakage.apply(layout)
    round_ = find_round(TREES[breakage.tree][0])
    problems = check(root_of(layout), round_)
    found = [problem for problem in problems if problem.path == breakage.where()]
    assert any(breakage.word in problem.what or breakage.word in problem.cure for problem in found), problems
    assert all(problem.what and problem.cure for problem in problems)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_what_the_rules_allow_is_accepted(copy, variant: Breakage):
    layout = copy(variant.tree)
    variant.apply(layout)
    assert not check(root_of(layout), find_round(TREES[variant.tree][0]))


def test_names_of_breakages_are_unique():
    assert len({breakage.name for breakage in BREAKAGES}) == len(BREAKAGES)


def test_a_rehearsal_may_have_its_marks_and_no_other_problem(copy):
    layout = copy("open")
    system(sw_notes="REHEARSAL: not for submission, null engine, random weights, stand-in data")(layout)
    for name in ("results", "systems"):
        for path in (layout.root / name).glob(f"{SYSTEM}*"):
            path.rename(path.with_name(f"rehearsal-{path.name}"))
    results = f"results/rehearsal-{SYSTEM}/bert-99/Offline"
    appended(f"{results}/README.md", "REHEARSAL, not for submission\n")(layout)
    appended(f"{results}/accuracy/accuracy.txt", "REHEARSAL: not for submission\n")(layout)
    marked = check(root_of(layout))
    assert {problem.path for problem in marked} >= {
        f"open/{SUBMITTER}/{place}"
        for place in (
            f"systems/rehearsal-{SYSTEM}.json",
            f"results/rehearsal-{SYSTEM}",
            f"{results}/README.md",
            f"{results}/accuracy/accuracy.txt",
        )
    }
    assert all(problem.mark for problem in marked)
    assert check(root_of(layout), rehearsal=True) == []
    logged(f"{results}/performance/run_1", effective_min_duration_ms=5000)(layout)
    appended(f"{results}/user.conf", "*.Offline.min_duration = 5000\n")(layout)
    short = {problem.what for problem in check(root_of(layout)) if problem.stand_in}
    assert "effective_min_duration_ms is 5000, but must be 600000 or more" in short
    assert check(root_of(layout), rehearsal=True) == []
    appended(f"{results}/user.conf", "# FILL IN\n")(layout)
    assert [problem.path for problem in check(root_of(layout), rehearsal=True)] == [
        f"open/{SUBMITTER}/{results}/user.conf"
    ]


def test_responses_may_differ_if_the_scores_are_close(copy):
    layout = copy("closed")
    next(b for b in BREAKAGES if b.name == "TEST01 scores differ").apply(layout)
    for path in layout.root.rglob("compliance_accuracy.txt"):
        path.write_text("accuracy=76.400%, good=1, total=1\n")
    for path in layout.root.rglob("resnet50/Offline/TEST01/verify_accuracy.txt"):
        path.write_text(path.read_text().replace("data_mismatch = 0", "data_mismatch = 17"))
    assert not check(root_of(layout))


def test_a_name_can_be_mapped_in_open(copy):
    layout = copy("open")
    for top in ("src", f"results/{SYSTEM}"):
        (layout.root / top / "bert-99").rename(layout.root / top / "mynet")
    (layout.root / "model_mapping.json").write_text('{"mynet": "bert-99"}')
    assert not check(root_of(layout))


def test_a_missing_tree_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        check(tmp_path / "nowhere")
    assert [problem.path for problem in check(tmp_path)] == ["."]


def test_unprintable_names(copy):
    layout = copy("open")
    (layout.root / "src" / "caf\udce9").write_text("x")
    assert any("\\udce9" in problem.path for problem in check(root_of(layout)))


GARBAGE = ["", "null", "[]", "3", '"x"', "{}", "[" * 5000, '{"a": ' * 5000, "1" * 5000, "\ufeff{}", "{\x00}", "NaN"]


@pytest.mark.slow
def test_garbage_never_crashes(copy):
    """Each file of a tree in turn: garbage, cut off anywhere, bytes missing or changed."""
    layout = copy("closed")
    root, draw = root_of(layout), random.Random(5)
    scenes = ("/resnet50/SingleStream", "/resnet50/MultiStream", "/bert-99/SingleStream")
    for place in root.rglob("results/*/*/*"):
        if str(place).endswith(scenes):
            shutil.rmtree(place)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for n in range(4):
            broken = bytearray(content)
            start = draw.randrange(max(1, len(broken)))
            if n == 0:
                broken = bytearray(draw.choice(GARBAGE).encode())
            elif n == 1:
                del broken[start:]
            elif n == 2:
                del broken[start : start + draw.randrange(1, 100)]
            else:
                for _ in range(5):
                    broken[draw.randrange(len(broken))] = draw.randrange(256)
            path.write_bytes(broken)
            assert isinstance(check(root), list)
        path.write_bytes(content)


VALUES = [None, True, False, -1, 0, 1e400, float("nan"), 10**40, "", "x", "9" * 400, [], [1], {}, {"a": 1}]


@pytest.mark.slow
def test_values_of_any_type_never_crash(copy):
    layout = copy("closed")
    root, draw = root_of(layout), random.Random(6)
    for place in root.rglob("results/*/*/*Stream"):
        shutil.rmtree(place)
    for path in sorted(root.rglob("*.json")):
        if path.name == "mlperf_log_accuracy.json":
            continue
        values = json.loads(path.read_text())
        for key in values:
            path.write_text(json.dumps(values | {key: draw.choice(VALUES)}))
            check(root, find_round("v6.1"))
        path.write_text(json.dumps(values))
    for path in sorted(root.rglob("mlperf_log_detail.txt"))[:3]:
        lines = path.read_text().splitlines(keepends=True)
        for number, line in enumerate(lines):
            entry = json.loads(line[9:])
            part = draw.choice(("key", "value", "value", "value", "metadata"))
            changed = f":::MLLOG {json.dumps(entry | {part: draw.choice(VALUES)})}\n"
            path.write_text("".join([*lines[:number], changed, *lines[number + 1 :]]))
            check(root)
        path.write_text("".join(lines))
