"""Makes data/golden-torchvision.npz: names and shapes of torchvision's resnet50, and its logits with drawn weights.

Needs torch and torchvision, which the project does not: python make_golden.py, in an environment of its own. Made with
torch 2.14.1 and torchvision 0.29.1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision
from golden import draw, images


def main() -> None:
    model = torchvision.models.resnet50(weights=None).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.tensor(draw(key, shape)) for key, shape in shapes.items() if shape}
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        logits = model(torch.tensor(images())).numpy()
    np.savez_compressed(
        Path(__file__).parent / "data" / "golden-torchvision.npz",
        names=np.array(list(shapes)),
        shapes=np.array([" ".join(map(str, shape)) for shape in shapes.values()]),
        logits=logits,
    )


if __name__ == "__main__":
    main()
