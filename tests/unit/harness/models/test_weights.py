from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.errors import ConfigError, MissingDependencyError
from harness.models.weights import Checkpoint, RandomWeights, filled, normal

VALUES = np.array([[1.5, -2.0, 0.0], [3.0, 0.25, 1e-3]], np.float32)


@pytest.fixture
def save():
    return pytest.importorskip("safetensors.numpy", reason="safetensors is not installed").save_file


def read(path: Path, name: str = "a.weight", shape: tuple[int, ...] = (2, 3)) -> np.ndarray:
    return Checkpoint(path).tensor(name, shape, filled(9))


def bfloat16(path: Path, values: np.ndarray) -> None:
    """A file by hand, as numpy has no bfloat16, with another tensor before it."""
    body = bytes(4) + (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    about = {
        "first": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "a.weight": {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [4, len(body)]},
    }
    header = json.dumps(about).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)


def test_random_weights_depend_on_the_seed_and_the_name_alone():
    weights = RandomWeights(3)
    first = weights.tensor("a", (400,), normal(0.5))
    weights.tensor("b", (4,), normal(0.5))
    assert (weights.tensor("a", (400,), normal(0.5)) == first).all()
    assert first.dtype == np.float32
    assert 0.4 < first.std() < 0.6
    assert (RandomWeights(4).tensor("a", (400,), normal(0.5)) != first).any()
    assert (weights.tensor("b", (400,), normal(0.5)) != first).any()
    assert weights.tensor("c", (2,), filled(1)).tolist() == [1, 1]
    assert weights.source == "random weights, seed 3"
    weights.finish()


def test_a_tensor_is_read_from_a_file_or_its_folder(tmp_path, save):
    path = tmp_path / "model.safetensors"
    save({"a.weight": VALUES}, path)
    for given, name in ((path, path.name), (tmp_path, tmp_path.name)):
        assert (read(given) == VALUES).all()
        assert Checkpoint(given).source == f"{name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def test_a_name_cannot_pass_for_random_weights(tmp_path, save):
    save({"a.weight": VALUES}, tmp_path / "random.safetensors")
    weights = Checkpoint(tmp_path / "random.safetensors")
    assert weights.source.startswith("random.safetensors, sha256 ")
    assert not weights.random


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(tmp_path, save, dtype):
    save({"a.weight": VALUES.astype(dtype)}, tmp_path / "model.safetensors")
    found = read(tmp_path)
    assert found.dtype == np.float32
    assert (found == VALUES.astype(dtype).astype(np.float32)).all()


def test_bfloat16_becomes_float32(tmp_path, save):
    bfloat16(tmp_path / "model.safetensors", VALUES)
    found = read(tmp_path)
    assert found.dtype == np.float32
    assert np.allclose(found, VALUES, rtol=2**-7, atol=0)
    assert (found.view(np.uint32) & 0xFFFF == 0).all()


def test_shards_are_read_through_their_index(tmp_path, save):
    shards = {"one.safetensors": {"a.weight": VALUES}, "two.safetensors": {"b.weight": VALUES + 1}}
    for name, tensors in shards.items():
        save(tensors, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, tensors in shards.items() for key in tensors}}))
    weights = Checkpoint(tmp_path)
    assert (weights.tensor("b.weight", (2, 3), filled(0)) == VALUES + 1).all()
    assert (weights.tensor("a.weight", (2, 3), filled(0)) == VALUES).all()
    weights.finish()
    content = b"".join((tmp_path / name).read_bytes() for name in shards)
    assert weights.source.endswith(hashlib.sha256(content).hexdigest()[:16])
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks two\.safetensors, which .* lists: download it again"):
        Checkpoint(tmp_path)
    for text in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        index.write_text(text)
        with pytest.raises(ConfigError, match=r"index\.json is not a checkpoint index"):
            Checkpoint(tmp_path)


def test_a_layer_norm_may_have_the_names_of_the_first_ports(tmp_path, save):
    tensors = {"x.LayerNorm.gamma": VALUES, "x.LayerNorm.beta": VALUES + 1}
    save(tensors, tmp_path / "model.safetensors")
    assert (read(tmp_path, "x.LayerNorm.weight") == VALUES).all()
    assert (read(tmp_path, "x.LayerNorm.bias") == VALUES + 1).all()


def test_what_is_left_over_is_refused_unless_it_is_to_be_ignored(tmp_path, save):
    save(dict.fromkeys(("a.weight", "cls.bias", "b.weight"), VALUES), tmp_path / "model.safetensors")
    weights = Checkpoint(tmp_path)
    weights.tensor("a.weight", (2, 3), filled(0))
    weights.finish(("cls.*", "b.*"))
    with pytest.raises(ConfigError, match=r"tensors that the model does not use: b\.weight; give the"):
        weights.finish(("cls.*",))
    with pytest.raises(ConfigError, match=r"a\.weight is requested twice"):
        weights.tensor("a.weight", (2, 3), filled(0))


def test_a_tensor_that_does_not_fit_is_named(tmp_path, save):
    save({"a.weight": VALUES, "b": VALUES.astype(np.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"tensor c is not in the checkpoint"):
        read(tmp_path, "c")
    with pytest.raises(ConfigError, match=r"tensor a\.weight of .* has the shape \(2, 3\) instead of \(3, 2\)"):
        read(tmp_path, shape=(3, 2))
    with pytest.raises(ConfigError, match=r"tensor b of .* has the type I64, and only F64, F32, F16, BF16 are"):
        read(tmp_path, "b")


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path, save):
    with pytest.raises(ConfigError, match=r"there is no checkpoint .*nothing"):
        Checkpoint(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"contains no model\.safetensors"):
        Checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(ConfigError, match=r"pytorch_model\.bin is a pickle.*save_pretrained.*safetensors\.torch"):
            Checkpoint(path)
    for content in (b"", b"not a checkpoint", bytes(100)):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ConfigError, match=r"model\.safetensors is not a safetensors file, or is damaged"):
            Checkpoint(tmp_path)


def test_a_truncated_file_is_refused(tmp_path, save):
    path = tmp_path / "model.safetensors"
    save({"a.weight": VALUES}, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ConfigError, match="is not a safetensors file, or is damaged"):
        Checkpoint(path)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(MissingDependencyError, match=r"needs the package safetensors .* run `make setup`"):
        Checkpoint(tmp_path)
