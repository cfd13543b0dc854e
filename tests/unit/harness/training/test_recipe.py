"""Recipes: the packaged ones are whole and sourced, and the user's have plain errors."""

import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from harness.catalog import manifests
from harness.errors import ConfigError
from harness.training.recipe import FOLDER, Recipe, check_patterns, read_recipe, recipes
from harness.training.schedule import prunes_at, rate_at, sparsity_at

_OWN = sorted(path.stem for path in FOLDER.glob("*.toml"))
_TEXTS = {"description", "source", "model", "sources"}


def _figures(table: dict[str, object], before: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{before}{key}.")
        else:
            yield before + key


@pytest.mark.parametrize("name", _OWN)
def test_each_figure_of_a_recipe_has_a_source_and_each_source_a_figure(name: str) -> None:
    table = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    figures = {key for key in _figures(table) if key.partition(".")[0] not in _TEXTS}
    sources = table["sources"]
    assert all(isinstance(text, str) and text for text in sources.values())
    lacking = {key for key in figures if not any(key == own or key.startswith(f"{own}.") for own in sources)}
    assert not lacking
    assert not {own for own in sources if not any(key == own or key.startswith(f"{own}.") for key in figures)}


@pytest.mark.parametrize("name", _OWN)
def test_a_recipe_rises_to_its_sparsity_and_leaves_steps_to_recover(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert rate_at(recipe, recipe.steps - 1) < 0.1 * recipe.learning_rate.peak
    pruning = recipe.pruning
    if pruning:
        found = [sparsity_at(pruning, step) for step in _prunings(recipe)]
        assert found[0] == pytest.approx(pruning.sparsity if pruning.method == "acdc" else pruning.initial)
        assert all(now >= before for before, now in pairwise(found))
        assert len(found) >= 3
        assert pruning.end < recipe.steps


def _prunings(recipe: Recipe) -> list[int]:
    pruning = recipe.pruning
    assert pruning
    every = range(pruning.begin, recipe.steps, pruning.every)
    return sorted(step for step in {*every, pruning.end} if prunes_at(pruning, step))


def test_recipes_of_published_models_have_their_sparsity_and_form() -> None:
    models = manifests.models()
    published = {name: recipe for name, recipe in recipes().items() if recipe.model}
    assert len(published) == 4
    for recipe in published.values():
        form = models[str(recipe.model)][1].recipe
        assert form
        assert (recipe.quantisation is not None) == (form.precision == "int8")
        assert (recipe.pruning.sparsity if recipe.pruning else 0) == form.sparsity
        assert (recipe.pruning.block if recipe.pruning else 1) == form.block


def test_the_large_recipe_prunes_every_two_epochs_of_the_publication() -> None:
    pruning = read_recipe("obert-large-int8").pruning
    assert pruning
    assert [step / 5533 for step in range(0, 177056, 5533) if prunes_at(pruning, step)] == list(range(2, 29, 2))


_SMALL = """
description = "small"
source = "none"
steps = 100
batch = 4
learning_rate = { peak = 1e-3 }
sources = {}
"""


def _read(folder: Path, text: str) -> str:
    path = folder / "own.toml"
    path.write_text(_SMALL + text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(str(path))
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "PATH")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "the recipe PATH is invalid: stepz: Extra inputs are not permitted."),
        ("clip = 'x'", "clip: Input should be a valid number"),
        ("layers = [1, 0]", "layers must be ascending numbers"),
        ("layers = []", "layers must be ascending numbers"),
        ("[pruning]\nmethod='magnitude'\nsparsity=0.5\nend=101\nevery=5", "pruning.end (101) is after the last step"),
        ("[pruning]\nmethod='magnitude'\nsparsity=0.5\nbegin=9\nend=8\nevery=5", "begin (9) is after end (8)"),
        ("[pruning]\nmethod='magnitude'\nsparsity=0.5\ninitial=0.6\nend=8\nevery=5", "initial (0.6) is above sparsity"),
        ("[pruning]\nmethod='acdc'\nsparsity=0.5\nend=30\nevery=10", "acdc needs an even number of phases"),
        ("[pruning]\nmethod='best'\nsparsity=0.5\nend=30\nevery=10", "pruning.method: Input should be 'magnitude'"),
        (
            "[pruning]\nmethod='second-order'\nsparsity=0.5\nend=30\nevery=10\nblock=4\nfisher={block=2}",
            "fisher.block (2) is smaller than block (4)",
        ),
        ("[quantisation]\nbegin=9\nfreeze=8", "freeze (8) is before begin (9)"),
        ("[quantisation]\nbegin=9\nfreeze=101", "quantisation.freeze (101) is after the last step (100)"),
        ("[distillation]\nlogits=0", "at least one of logits, hidden and labels"),
        ("[[", "is not TOML"),
    ],
)
def test_a_wrong_recipe_is_reported_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    assert message in _read(tmp_path, text)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ("[{until=50, start=1e-3}, {until=40, start=1e-3}]", "each phase must end later"),
        ("[{until=50, start=1e-3}]", "must end at the last step (100)"),
        ("[{until=100, start=1e-2}]", "peak must be the largest start"),
    ],
)
def test_phases_of_the_rate_cover_the_training(tmp_path: Path, phases: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(_SMALL.replace("peak = 1e-3", f"peak = 1e-3, phases = {phases}"))
    with pytest.raises(ConfigError, match=r"the recipe .* is invalid") as caught:
        read_recipe(str(path))
    assert message in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no recipe 'minilm80': did you mean 'minilm-80'"):
        read_recipe("minilm80")


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_recipe(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("name", _OWN)
@pytest.mark.parametrize("factor", [2.0, 0.5, 0.3])
def test_another_number_of_steps_moves_all_in_proportion(name: str, factor: float) -> None:
    recipe = read_recipe(name)
    steps = round(recipe.steps * factor)
    other = recipe.with_steps(steps)
    assert other.steps == steps
    assert other.digest != recipe.digest
    if steps > 100:
        assert rate_at(other, int(0.45 * steps)) == pytest.approx(rate_at(recipe, int(0.45 * recipe.steps)), rel=0.3)
    if recipe.pruning and other.pruning:
        if steps > 100:
            assert len(_prunings(other)) == len(_prunings(recipe))
        assert other.pruning.end == pytest.approx(recipe.pruning.end * factor, rel=0.4)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("minilm-80", 200), ("obert-large-int8", 1000), ("obert-large-int8", 400), ("resnet50-pruned85-int8", 1000)],
)
def test_few_steps_prune_as_often(name: str, steps: int) -> None:
    recipe = read_recipe(name)
    assert len(_prunings(recipe.with_steps(steps))) == len(_prunings(recipe))


def test_ac_dc_in_very_few_steps_has_fewer_phases() -> None:
    other = read_recipe("resnet50-pruned85-int8").with_steps(30)
    assert other.pruning
    assert other.pruning.end <= 30
    assert len(_prunings(other)) > 10


def test_the_same_number_of_steps_changes_nothing() -> None:
    for recipe in recipes().values():
        assert recipe.with_steps(recipe.steps).digest == recipe.digest


def test_patterns_that_match_nothing_are_refused_in_a_users_recipe(caplog: pytest.LogCaptureFixture) -> None:
    own = read_recipe("minilm-80").model_copy(update={"name": "mine", "frozen": ("*table*",)})
    layers, parameters = ["pooler", "pooler.weight"], ["pooler.weight", "embedding.table"]
    check_patterns(own, layers, parameters)
    with pytest.raises(ConfigError, match=r"mine: pruning.keep: no name in this model matches \*pooler\*; correct or"):
        check_patterns(own, ["query"], ["embedding.table"])
    with pytest.raises(ConfigError, match=r"mine: frozen: no name in this model matches \*table\*"):
        check_patterns(own, layers, ["embedding.weight"])
    caplog.set_level("INFO")
    check_patterns(read_recipe("minilm-80"), ["query"], ["embedding.table"])
    assert "minilm-80: pruning.keep: no name in this model matches *pooler*" in caplog.text


def test_the_digest_ignores_the_texts() -> None:
    recipe = read_recipe("test-tiny")
    assert recipe.model_copy(update={"description": "other"}).digest == recipe.digest
    assert recipe.model_copy(update={"seed": 1}).digest != recipe.digest


def test_a_setting_that_is_off_does_not_end_the_trainings_of_an_earlier_version() -> None:
    figures = {"steps": 8, "batch": 2, "learning_rate": {"peak": 1e-3}}
    recipe = Recipe.model_validate({"name": "x", "description": "", "source": "", "sources": {}, **figures})
    assert recipe.digest.startswith("8dfdc6bd6cbb2623")  # as before there was `augment`
    assert recipe.model_copy(update={"augment": True}).digest != recipe.digest


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="obert-large-int8 cannot be trained in 2 steps"):
        read_recipe("obert-large-int8").with_steps(2)


def test_another_pruning_method_changes_nothing_else():
    recipe = read_recipe("minilm-80")
    other = recipe.with_method("magnitude")
    assert other.pruning.method == "magnitude"
    assert other.with_method("layer-wise") == recipe
    assert other.digest != recipe.digest
    with pytest.raises(ConfigError, match=r"--method random: pruning\.method: "):
        recipe.with_method("random")
    with pytest.raises(ConfigError, match="minilm-int8 prunes nothing"):
        read_recipe("minilm-int8").with_method("magnitude")
