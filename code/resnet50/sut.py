"""Image classification as a SUT: one class for every engine."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from harness.engines.base import Engine, Signature
from harness.errors import ConfigError
from harness.graph import Tensor, listing
from harness.task.base import ASSUMED, FROM_GRAPH
from harness.task.shape import Array, Integers, Shape
from harness.task.sut import SUT, Responses
from resnet50.labels import CLASSES
from resnet50.preprocess import SIDE
from resnet50.qsl import IMAGES, ImageLayout, ImageQSL

_DEFAULT = Tensor("images", np.dtype(np.float32), (None, 3, SIDE, SIDE))


class ResNet50SUT(SUT):
    """Feeds images to a classifier and answers with the label of its largest output.

    The graph has one input, (N, 3, 224, 224) or (N, 224, 224, 3), float32, float16, or uint8 for raw pixels. It has an
    output of 1000 or 1001 values per image (logits or probabilities), or its arg-max. A response is one float32: the
    label, 0 to 999, or -1 for the background, the first of 1001 classes.
    """

    qsl: ImageQSL
    unit: ClassVar[str] = "images"

    def __init__(self, engine: Engine, qsl: ImageQSL, label_offset: int | None = None) -> None:
        """Match the graph's input and output; ``label_offset`` is the output index of label 0.

        Raises:
            ConfigError: the graph is not such a classifier (the message lists its tensors), or contradicts the offset.
        """
        super().__init__(engine, qsl)
        self._input, layout = match_input(engine.inputs)
        if layout != qsl.layout:
            raise ConfigError(f"the images are held as {qsl.layout}, and {engine.name} takes {self._input}.")
        # An engine without a graph (null) gets the number of classes that matches the offset.
        unknown = ("logits", CLASSES + (label_offset or 0))
        self.output, self._classes = _match_output(engine.outputs) if engine.outputs else unknown
        self.offset = _offset(label_offset, classes=self._classes or _classes_beside(engine.outputs))
        if not engine.reshapes:
            self.static = Shape(self._input.dims[0] or 0, 0)

    @property
    def layout_source(self) -> str:
        """Whether the graph shows its layout; it does not if both places of the channels are open."""
        first, last = self._input.dims[1], self._input.dims[3]
        return ASSUMED if first is None and last is None else FROM_GRAPH

    def signature(self, shape: Shape) -> Signature:
        """One input (batch, *dims) and one output, (batch, classes) or the arg-max (batch,)."""
        output = (shape.batch, self._classes) if self._classes else (shape.batch,)
        return Signature({self._input.name: (shape.batch, *self.qsl.layout.dims)}, {self.output: output})

    def feed(self, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        """The images under the graph's name; the QSL holds them in the graph's dtype."""
        return {self._input.name: tensors[IMAGES]}

    def encode(self, outputs: Sequence[Array], indices: Integers) -> Responses:
        """One float32 each, the default of vision/classification_and_detection/tools/accuracy-imagenet.py."""
        found = outputs[0].argmax(axis=1) if self._classes else outputs[0].astype(np.int64)
        labels = (found[: len(indices)] - self.offset).astype(np.float32)
        rows = np.arange(len(indices), dtype=np.int64) * labels.itemsize + labels.ctypes.data
        return Responses(rows.tolist(), [labels.itemsize] * len(indices), labels)

    def values(self, outputs: Sequence[Array], indices: Integers) -> list[Array]:
        """The model's value for each class, float32; empty if the model returns only the arg-max."""
        return list(outputs[0][: len(indices)].astype(np.float32)) if self._classes else []


def match_input(inputs: Sequence[Tensor]) -> tuple[Tensor, ImageLayout]:
    """The one input of a graph and how it takes images; the usual one for an engine without a graph.

    Raises:
        ConfigError: the graph does not take images.
    """
    if not inputs:
        return _DEFAULT, ImageLayout()
    if len(inputs) == 1 and len(inputs[0].dims) == 4:
        tensor = inputs[0]
        for channels_first, wanted in ((True, (3, SIDE, SIDE)), (False, (SIDE, SIDE, 3))):
            fits = all(dim in (None, size) for dim, size in zip(tensor.dims[1:], wanted, strict=True))
            if fits and tensor.dtype in (np.float32, np.float16, np.uint8):
                return tensor, ImageLayout(tensor.dtype, channels_first)
    raise ConfigError(
        f"the model is not an image classifier: its inputs are {listing(inputs)}; expected is one, "
        f"(N, 3, {SIDE}, {SIDE}) or (N, {SIDE}, {SIDE}, 3), of float32, float16 or uint8."
    )


def _match_output(outputs: Sequence[Tensor]) -> tuple[str, int]:
    """Name and classes of the output to read: preferably an arg-max, with 0 classes, else the values of each class."""
    for tensor in outputs:
        if tensor.dtype.kind == "i" and len(tensor.dims) == 1:
            return tensor.name, 0
    for tensor in outputs:
        if classes := _number_of_classes(tensor):
            return tensor.name, classes
    raise ConfigError(
        f"the model is not an ImageNet classifier: its outputs are {listing(outputs)}; expected are {CLASSES} or "
        f"{CLASSES + 1} values per image, or their arg-max."
    )


def _classes_beside(outputs: Sequence[Tensor]) -> int | None:
    """The number of classes behind an arg-max, if the graph also returns their values."""
    return next((classes for tensor in outputs if (classes := _number_of_classes(tensor))), None)


def _number_of_classes(tensor: Tensor) -> int | None:
    fits = tensor.dtype.kind == "f" and len(tensor.dims) == 2 and tensor.dims[1] in (CLASSES, CLASSES + 1)
    return tensor.dims[1] if fits else None


def _offset(given: int | None, classes: int | None) -> int:
    if classes is None:
        if given is None:
            raise ConfigError(
                "the model returns only the arg-max, and the number of its classes is unknown: pass --set "
                "label_offset=1 if there are 1001, with the background first, or label_offset=0 if there are 1000."
            )
        return given
    if given is not None and given != classes - CLASSES:
        raise ConfigError(
            f"label_offset is {given}, but the model has {classes} classes, of which output "
            f"{classes - CLASSES} is label 0: omit label_offset."
        )
    return classes - CLASSES
