"""Sources of weights for a new graph: random numbers, or a checkpoint."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError, MissingDependencyError
from harness.paths import SETUP

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float32]]
"""Draws a random tensor of the given shape, with statistics that suit its place in the graph."""


def normal(deviation: float) -> Draw:
    """Independent normal values with mean 0 and this standard deviation."""
    return lambda generator, shape: generator.standard_normal(shape, dtype=np.float32) * np.float32(deviation)


def filled(value: float) -> Draw:
    """The same value everywhere."""
    return lambda generator, shape: np.full(shape, value, np.float32)


class Weights(ABC):
    """Provides a builder with tensors, each once, by their names in the architecture's Hugging Face checkpoint."""

    source: str
    """Origin of the weights, for the model's metadata."""
    random: ClassVar[bool] = False

    @abstractmethod
    def tensor(self, name: str, shape: tuple[int, ...], draw: Draw) -> NDArray[np.float32]:
        """The float32 tensor with this name; ``draw`` is used for random weights only.

        Raises:
            ConfigError: the checkpoint does not contain the tensor, or with another shape or dtype.
        """

    @abstractmethod
    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Check that every tensor was used, except names that match a pattern in ``ignored`` ("cls.*").

        Raises:
            ConfigError: the checkpoint has tensors that the graph does not use, so it is of another model.
        """


class RandomWeights(Weights):
    """Random tensors: the same seed gives the same ones, in any order of requests."""

    random = True

    def __init__(self, seed: int) -> None:
        self.source = f"random weights, seed {seed}"
        self._seed = seed

    def tensor(self, name: str, shape: tuple[int, ...], draw: Draw) -> NDArray[np.float32]:
        """Draw the tensor with its own generator."""
        generator = np.random.default_rng([self._seed, *name.encode()])
        return draw(generator, shape).astype(np.float32, copy=False)

    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Do nothing: there are no other tensors."""


class _Slice(Protocol):
    """A tensor that has not been read yet."""

    def get_shape(self) -> list[int]: ...
    def get_dtype(self) -> str: ...


class _SafetensorsFile(Protocol):
    """The part of safetensors.safe_open that is used here; the package has no types."""

    def keys(self) -> list[str]: ...
    def get_slice(self, name: str, /) -> _Slice: ...
    def get_tensor(self, name: str, /) -> NDArray[np.generic]: ...


_SINGLE = "model.safetensors"
_INDEX = f"{_SINGLE}.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
# The first PyTorch ports of BERT used these names for a LayerNorm's weight and bias; transformers also renames them.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class Checkpoint(Weights):
    """Trained weights: a ``.safetensors`` file, or a folder written by ``save_pretrained`` of transformers.

    A folder contains ``model.safetensors``, or ``model.safetensors.index.json`` and the shards that it lists. Tensors
    of float64, float16 and bfloat16 become float32; each is read when it is requested, never all at once.
    """

    def __init__(self, path: Path) -> None:
        """Open the files.

        Raises:
            ConfigError: the file does not exist, is not a safetensors file, or is damaged.
            MissingDependencyError: the package safetensors is not installed.
        """
        self._path = path
        try:
            files = _files(path)
            self.source = f"{path.absolute().name}, sha256 {_digest(files)[:16]}"
        except OSError as error:
            raise ConfigError(f"the checkpoint {path} cannot be read: {error.strerror}; check the path.") from error
        self._left: dict[str, tuple[Path, _SafetensorsFile, str]] = {}
        for file in files:
            opened = _open(file)
            self._left |= {_name(key): (file, opened, key) for key in opened.keys()}  # noqa: SIM118  not a mapping
        self._taken: set[str] = set()

    def tensor(self, name: str, shape: tuple[int, ...], draw: Draw) -> NDArray[np.float32]:
        """Read the tensor from its file."""
        if name not in self._left:
            problem = "requested twice" if name in self._taken else f"not in the checkpoint {self._path}"
            raise ConfigError(f"the tensor {name} is {problem}: give the checkpoint of the model to build.")
        file, opened, key = self._left.pop(name)
        self._taken.add(name)
        found = opened.get_slice(key)
        dims, kind = tuple(found.get_shape()), found.get_dtype()
        if dims != shape:
            raise ConfigError(
                f"the tensor {name} of the checkpoint {self._path} has the shape {dims} instead of {shape}: give the "
                "checkpoint of the model to build."
            )
        if kind not in _FLOATS:
            raise ConfigError(
                f"the tensor {name} of the checkpoint {self._path} has the type {kind}, and only {', '.join(_FLOATS)} "
                "are supported: convert it to one of these."
            )
        values = _bfloat16(file, key, shape) if kind == "BF16" else opened.get_tensor(key)
        return values.astype(np.float32, copy=False)

    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Check that the builder requested every tensor that is not ignored."""
        left = [name for name in self._left if not any(fnmatchcase(name, pattern) for pattern in ignored)]
        if left:
            several = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise ConfigError(
                f"the checkpoint {self._path} has tensors that the model does not use: "
                f"{', '.join(sorted(left)[:3])}{several}; give the checkpoint of the model to build."
            )


def _name(key: str) -> str:
    for old, new in _OLD_NAMES.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise ConfigError(f"there is no checkpoint {path}: give a .safetensors file or its folder.")
        if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
            raise ConfigError(_convert(path))
        return [path]
    if (path / _SINGLE).is_file():
        return [path / _SINGLE]
    if (path / _INDEX).is_file():
        return _shards(path)
    if (path / "pytorch_model.bin").is_file() or (path / "pytorch_model.bin.index.json").is_file():
        raise ConfigError(_convert(path / "pytorch_model.bin"))
    raise ConfigError(
        f"the folder {path} contains no {_SINGLE}: give the folder or the .safetensors file of a checkpoint."
    )


def _convert(path: Path) -> str:
    return (
        f"{path} is a pickle, which is not read because it can run any code: convert it with "
        "model.save_pretrained(FOLDER, safe_serialization=True) of transformers or save_file of safetensors.torch."
    )


def _shards(folder: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values()))
        shards = [folder / Path(name).name for name in names]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / _INDEX} is not a checkpoint index: download it again.") from error
    for shard in shards:
        if not shard.is_file():
            raise ConfigError(f"the checkpoint {folder} lacks {shard.name}, which {_INDEX} lists: download it again.")
    return shards


def _digest(files: Sequence[Path]) -> str:
    """The sha256 of the concatenated files; for a single file, its own."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _open(path: Path) -> _SafetensorsFile:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingDependencyError(f"a checkpoint needs the package safetensors ({error}): {SETUP}.") from error
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} is not a safetensors file, or is damaged: download or convert it again.") from error


def _bfloat16(path: Path, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A bfloat16 tensor as float32; numpy lacks the type, which is the upper half of a float32's bits.

    Layout of a safetensors file: the header's length in 8 bytes, the header in JSON, the tensors.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start, end = json.loads(file.read(length))[key]["data_offsets"]
        file.seek(8 + length + start)
        halves = np.frombuffer(file.read(end - start), "<u2")
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
