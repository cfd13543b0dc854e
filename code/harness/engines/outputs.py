"""Checks an engine's outputs before they become answers: arrays of the right shapes and dtypes, all finite."""

from collections.abc import Mapping, Sequence

import numpy as np

from harness.engines.base import Array, Dims, Signature
from harness.errors import EngineError

Dtypes = Mapping[str, np.dtype[np.generic]]
"""The dtype of each output that a graph declares."""

_FLOAT32 = np.dtype(np.float32)
_FLOATS = {np.dtype(kind): (np.dtype(kind), _FLOAT32) for kind in (np.float16, np.float32, np.float64)}
_INTEGERS = (np.dtype(np.int32), np.dtype(np.int64))


def checked_outputs(engine: str, outputs: object, signature: Signature, declared: Dtypes) -> list[Array]:
    """The outputs in their order: integers unchanged, all others as float32.

    Types that numpy lacks, such as bfloat16, are expected as float32, and so are the outputs of an engine without a
    graph. float32 is also accepted for any other float type, and int32 and int64 for each other.

    Raises:
        EngineError: an output is missing, is not a plain array, has a shape or dtype other than the graph's, or holds
            NaN, infinity or a number beyond float32.
    """
    expected = signature.outputs
    if not isinstance(outputs, Sequence) or isinstance(outputs, str | bytes):
        kind = type(outputs).__name__
        raise EngineError(f"{engine} returned {kind} instead of a list of the outputs {', '.join(expected)}.")
    if len(outputs) != len(expected):
        raise EngineError(f"{engine} returned {len(outputs)} outputs where the model has {len(expected)}.")
    return [
        _checked(engine, name, array, dims, declared.get(name, _FLOAT32))
        for array, (name, dims) in zip(outputs, expected.items(), strict=True)
    ]


def _checked(engine: str, name: str, array: object, dims: Dims, declared: np.dtype[np.generic]) -> Array:
    # A subclass can change what operators do: the NaN of a masked array counts as finite.
    if type(array) is not np.ndarray:
        raise EngineError(f"{engine} returned '{name}' as {type(array).__name__}; expected an array.")
    if array.shape != dims:
        raise EngineError(f"{engine} returned '{name}' with shape {array.shape}; expected {dims}.")
    allowed = _INTEGERS if declared in _INTEGERS else _FLOATS.get(declared, (_FLOAT32,))
    if array.dtype not in allowed:
        names = " or ".join(dict.fromkeys(map(str, allowed)))
        raise EngineError(f"{engine} returned '{name}' as an array of {array.dtype}; expected {names}.")
    if array.dtype.kind == "i":
        return array
    values = array if array.dtype == _FLOAT32 else _narrowed(array)
    finite = np.isfinite(values)
    if not finite.all():
        bad = int(finite.size - finite.sum())
        raise EngineError(f"{engine} returned {bad} NaN or infinite values in '{name}'; nothing was answered.")
    return values


def _narrowed(array: Array) -> Array:
    with np.errstate(over="ignore"):  # infinity is found later; errstate takes 7 us, so float32 skips this
        return array.astype(_FLOAT32)
