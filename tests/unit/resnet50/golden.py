"""The weights and images for which torchvision's answers are in data/golden-torchvision.npz."""

from __future__ import annotations

import math

import numpy as np


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of such a scale that every part of the model shows in its logits, by the name of torchvision's tensor."""
    generator = np.random.default_rng(list(name.encode()))
    if name.endswith("running_var"):
        return generator.uniform(0.5, 2, shape).astype(np.float32)
    if "weight" in name and len(shape) == 1:  # the scale of a batch normalisation; small at the end of a block
        return generator.uniform(0.5, 1.2, shape).astype(np.float32) * np.float32(0.3 if ".bn3." in name else 1)
    normal = generator.standard_normal(shape, dtype=np.float32)
    return normal * np.float32(math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1)


def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 3, 224, 224), dtype=np.float32)
