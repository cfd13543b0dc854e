"""A wrong tree as the argument: a level too high or too low, a tarball, or another round; each is one sentence."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
from submission_tree import SUBMITTER, SYSTEM, check, make_tree, put

from harness.checking.check import examine
from harness.errors import ConfigError
from harness.rules.rounds import find_round


def advised(error: pytest.ExceptionInfo[ConfigError]) -> str:
    """The folder of the command that a message advises."""
    assert "\n" not in str(error.value)
    return shlex.split(re.search(r"harness check ([^`]+)`", str(error.value))[1])[0]


@pytest.mark.parametrize("below", ["open", f"open/{SUBMITTER}", f"open/{SUBMITTER}/results/{SYSTEM}/bert-99"])
def test_a_part_of_a_tree_is_checked_as_a_whole(tmp_path, below):
    tree = tmp_path / "a tree"
    make_tree(tree, "v6.1", "open")
    with pytest.raises(ConfigError, match="is only a part of the tree in") as caught:
        check(tree / below)
    assert advised(caught) == str(tree)


def test_a_folder_above_names_the_trees_in_it(tmp_path):
    make_tree(tmp_path / "build" / "submission", "v6.1", "open")
    for above in (tmp_path, tmp_path / "build"):
        with pytest.raises(
            ConfigError, match=r"does not contain a tree itself, but (build/)?submission does"
        ) as caught:
            check(above)
        assert advised(caught) == str(tmp_path / "build" / "submission")
    make_tree(tmp_path / "build" / "rehearsal-submission", "v6.1", "open")
    with pytest.raises(ConfigError, match="but rehearsal-submission, submission do: check one of them"):
        check(tmp_path / "build")


@pytest.mark.parametrize("below", ["results", f"results/{SYSTEM}", "compliance"])
def test_a_part_of_our_own_results_is_checked_as_a_whole(tmp_path, below):
    put(tmp_path / "results" / SYSTEM / "bert-99" / "Offline" / "accuracy" / "run.json", "{}")
    (tmp_path / "compliance").mkdir()
    with pytest.raises(ConfigError, match="is only a part of the official runs in") as caught:
        check(tmp_path / below)
    assert advised(caught) == str(tmp_path)


def test_the_advice_for_a_rehearsal_is_to_check_it_as_one(tmp_path):
    make_tree(tmp_path / "rehearsal-submission", "v6.1", "open")
    with pytest.raises(ConfigError, match=r"rehearsal-submission --rehearsal`"):
        check(tmp_path)


def test_a_submitter_without_a_division(tmp_path):
    layout = make_tree(tmp_path / "tree", "v6.1", "open")
    layout.root.rename(tmp_path / "Acme")
    with pytest.raises(ConfigError, match="the folder of a submitter without its division"):
        check(tmp_path / "Acme")


def test_the_advised_command_unpacks_a_tarball(tmp_path):
    make_tree(tmp_path / "tree", "v6.1", "open")
    archive = tmp_path / "submission-Acme.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path / "tree", "open"], check=True)
    with pytest.raises(ConfigError, match="is an archive, not a folder") as caught:
        examine(archive)
    unpack, _, harness = re.search("`([^`]+)`", str(caught.value))[1].rpartition(" && ")
    subprocess.run(["sh", "-c", unpack], check=True)
    assert not check(tmp_path / shlex.split(harness)[2])


def test_another_round_is_one_sentence(tmp_path):
    layout = make_tree(tmp_path, "v6.0")
    with pytest.raises(
        ConfigError, match=r"belongs to v6\.0, not to v6\.1: check with `harness check .* --round v6\.0`"
    ):
        check(tmp_path, find_round("v6.1"))
    for log in layout.root.rglob("mlperf_log_detail.txt"):
        put(log, re.sub(r'(_rng_seed", "value": )\d+', r"\g<1>7", log.read_text()))
    with pytest.raises(ConfigError, match=r"no log in .* has the seeds of a round that this project knows"):
        check(tmp_path)


def test_an_empty_or_broken_tree_is_still_examined(tmp_path):
    assert [problem.path for problem in check(tmp_path)] == ["."]
    layout = make_tree(tmp_path / "tree", "v6.1", "open")
    shutil.rmtree(layout.root / "systems")
    assert check(tmp_path / "tree")
