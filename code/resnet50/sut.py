"""Image classification as a SUT: one class for every engine."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from harness.engines.base import Engine, Signature
from harness.errors import ConfigError
from harness.graph import Tensor
from harness.task.base import FROM_GRAPH
from harness.task.shape import Array, Integers, Shape
from harness.task.sut import SUT, Responses
from resnet50.interface import match_input, match_output, number_of_classes, settled_outputs
from resnet50.labels import CLASSES
from resnet50.qsl import IMAGES, ImageSamples


class ResNet50SUT(SUT):
    """Feeds images to a classifier and answers with the label of its largest output.

    The graph has one input, (N, 3, 224, 224) or (N, 224, 224, 3), float32, float16, or uint8 for raw pixels. It has an
    output of 1000 or 1001 values per image (logits or probabilities), or its arg-max. A response is one float32: the
    label, 0 to 999, or -1 for the background, the first of 1001 classes.
    """

    qsl: ImageSamples
    unit: ClassVar[str] = "images"

    def __init__(self, engine: Engine, qsl: ImageSamples, label_offset: int | None = None) -> None:
        """Match the graph's input and output; ``label_offset`` is the output index of label 0.

        Raises:
            ConfigError: the graph is not such a classifier (the message lists its tensors), or contradicts the offset.
        """
        super().__init__(engine, qsl)
        self._input, fitting = match_input(engine.inputs)
        if qsl.layout not in fitting:
            raise ConfigError(
                f"the images are held as {qsl.layout}, but {engine.name} takes {self._input}; this is a bug in the "
                "harness."
            )
        # An engine without a graph (null) gets the number of classes that matches the offset.
        unknown = Tensor("logits", np.dtype(np.float32), (None, CLASSES + (label_offset or 0)))
        outputs = settled_outputs(engine.outputs, engine.model, self._input, qsl.layout) or [unknown]
        found, self._classes = match_output(outputs)
        self.output, self._dims = found.name, found.dims[1:]
        self.offset = _offset(label_offset, classes=self._classes or _classes_beside(outputs))
        if not engine.reshapes:
            self.static = Shape(self._input.dims[0] or 0, 0)

    @property
    def layout_source(self) -> str:
        """How the layout was found: by trying, if the graph leaves both possible channel axes open."""
        first, last = self._input.dims[1], self._input.dims[3]
        return "by trying both" if first is None and last is None else FROM_GRAPH

    def signature(self, shape: Shape) -> Signature:
        """One input (batch, *dims) and one output, (batch, classes) or the arg-max (batch,), and perhaps axes of 1."""
        dims = (shape.batch, *(dim or 1 for dim in self._dims))
        return Signature({self._input.name: (shape.batch, *self.qsl.layout.dims)}, {self.output: dims})

    def feed(self, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        """The images under the graph's name; the QSL holds them in the graph's dtype."""
        return {self._input.name: tensors[IMAGES]}

    def encode(self, outputs: Sequence[Array], indices: Integers) -> Responses:
        """One float32 each, the default of vision/classification_and_detection/tools/accuracy-imagenet.py."""
        found = self._rows(outputs).argmax(axis=1) if self._classes else self._rows(outputs)[:, 0].astype(np.int64)
        labels = (found[: len(indices)] - self.offset).astype(np.float32)
        offsets = np.arange(len(indices), dtype=np.int64) * labels.itemsize
        return Responses(offsets, np.full(len(indices), labels.itemsize), labels)

    def values(self, outputs: Sequence[Array], indices: Integers) -> list[Array]:
        """The model's value for each class, float32; empty if the model returns only the arg-max."""
        return list(self._rows(outputs)[: len(indices)].astype(np.float32)) if self._classes else []

    def _rows(self, outputs: Sequence[Array]) -> Array:
        return outputs[0].reshape(len(outputs[0]), -1)


def _classes_beside(outputs: Sequence[Tensor]) -> int | None:
    """The number of classes behind an arg-max, if the graph also returns their values."""
    return next((classes for tensor in outputs if (classes := number_of_classes(tensor))), None)


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
