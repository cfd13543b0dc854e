"""How a graph takes images and returns classes: as it declares or, if it leaves that open, as found by trying."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from harness.engines.onnxruntime import try_shapes
from harness.errors import ConfigError
from harness.graph import Tensor, listing
from resnet50.labels import CLASSES
from resnet50.preprocess import SIDE
from resnet50.qsl import ImageLayout

LAYOUTS = {"NCHW": True, "NHWC": False}
"""Whether the channels come first."""
_DEFAULT = Tensor("images", np.dtype(np.float32), (None, 3, SIDE, SIDE))


def match_input(inputs: Sequence[Tensor]) -> tuple[Tensor, list[ImageLayout]]:
    """The only input of a graph and the layouts that it may have; the usual one for an engine without a graph.

    Raises:
        ConfigError: the graph does not take images.
    """
    if not inputs:
        return _DEFAULT, [ImageLayout()]
    if len(inputs) == 1 and len(inputs[0].dims) == 4:
        tensor = inputs[0]
        known = tensor.dtype in (np.float32, np.float16, np.uint8)
        layouts = [ImageLayout(tensor.dtype, first) for first in LAYOUTS.values()] if known else []
        if fitting := [layout for layout in layouts if _fits(tensor, layout)]:
            return tensor, fitting
    raise ConfigError(
        f"the model is not an image classifier: its inputs are {listing(inputs)}; one is expected: "
        f"(N, 3, {SIDE}, {SIDE}) or (N, {SIDE}, {SIDE}, 3) of float32, float16 or uint8."
    )


def choose_layout(inputs: Sequence[Tensor], model: Path | None = None, given: str | None = None) -> ImageLayout:
    """The layout of a graph: ``given``, or the declared one, or the first with which the model runs.

    Raises:
        ConfigError: the graph does not take images, or not in the given layout, or runs with neither.
    """
    tensor, fitting = match_input(inputs)
    if given is not None:
        chosen = [layout for layout in fitting if layout.channels_first == LAYOUTS[given]]
        if not chosen:
            raise ConfigError(f"layout is {given}, but the model has the input {tensor}: omit layout.")
        return chosen[0]
    if len(fitting) > 1 and model:
        fitting = [layout for layout in fitting if try_shapes(model, {tensor.name: _blank(tensor, layout)})]
        if not fitting:
            raise ConfigError(
                f"the model is not an image classifier: its input {tensor} leaves the layout open, and ONNX Runtime "
                f"runs it neither with (N, 3, {SIDE}, {SIDE}) nor with (N, {SIDE}, {SIDE}, 3)."
            )
    return fitting[0]


def match_output(outputs: Sequence[Tensor]) -> tuple[Tensor, int]:
    """The output to read and its classes: preferably an arg-max, with 0 classes, else the values of each class.

    Raises:
        ConfigError: there is none.
    """
    for tensor in outputs:
        if tensor.dtype.kind == "i" and tensor.dims and _per_image(tensor) == 1:
            return tensor, 0
    for tensor in outputs:
        if classes := number_of_classes(tensor):
            return tensor, classes
    raise ConfigError(
        f"the model is not an ImageNet classifier: its outputs are {listing(outputs)}; {CLASSES} or "
        f"{CLASSES + 1} values per image, or their arg-max, are expected."
    )


def number_of_classes(tensor: Tensor) -> int | None:
    """1000 or 1001; None if the output is not a value for each class."""
    values = _per_image(tensor)
    return values if tensor.dtype.kind == "f" and values in (CLASSES, CLASSES + 1) else None


def settled_outputs(
    outputs: Sequence[Tensor], model: Path | None, tensor: Tensor, layout: ImageLayout
) -> Sequence[Tensor]:
    """The outputs with the shapes that the model returns, if it declares them open; ``tensor`` is its input."""
    if model is None or all(output.dims and _per_image(output) is not None for output in outputs):
        return outputs
    shapes = try_shapes(model, {tensor.name: _blank(tensor, layout)}) or {}
    return [
        replace(output, dims=(None, *shapes[output.name][1:])) if output.name in shapes else output
        for output in outputs
    ]


def _fits(tensor: Tensor, layout: ImageLayout) -> bool:
    return all(dim in (None, size) for dim, size in zip(tensor.dims[1:], layout.dims, strict=True))


def _blank(tensor: Tensor, layout: ImageLayout) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """The smallest batch of black images."""
    return np.zeros((tensor.dims[0] or 1, *layout.dims), layout.dtype)


def _per_image(tensor: Tensor) -> int | None:
    """The number of values for each image; None if the graph leaves it open."""
    dims = [dim for dim in tensor.dims[1:] if dim is not None]
    return prod(dims) if tensor.dims and len(dims) == len(tensor.dims) - 1 else None
