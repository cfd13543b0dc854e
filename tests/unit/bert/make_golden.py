"""Makes data/golden-*.npz: tiny models with drawn weights, and the logits that transformers gives with them.

Needs torch and transformers, which the project does not: python make_golden.py, in an environment of its own. Made with
torch 2.14.1 and transformers 5.24.0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForQuestionAnswering, MobileBertConfig, MobileBertForQuestionAnswering

COMMON = {"vocab_size": 50, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 12}
MODELS = {
    "bert": BertForQuestionAnswering(BertConfig(**COMMON, hidden_size=16, intermediate_size=24)),
    "mobilebert": MobileBertForQuestionAnswering(
        MobileBertConfig(
            **COMMON,
            hidden_size=24,
            intermediate_size=20,
            embedding_size=8,
            intra_bottleneck_size=16,
            num_feedforward_networks=3,
        )
    ),
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of such a scale that every part of the model shows in its logits."""
    normal = np.random.default_rng(list(name.encode())).standard_normal(shape, dtype=np.float32)
    if name.endswith("LayerNorm.weight"):
        return 1 + normal / 10
    if len(shape) == 1:
        return normal / 5
    return normal if name.endswith("embeddings.weight") else normal * np.float32(shape[1] ** -0.5)


def main() -> None:
    for name, model in MODELS.items():
        state = {key: draw(key, tuple(value.shape)) for key, value in model.state_dict().items()}
        model.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
        ids = np.random.default_rng(1).integers(0, 50, (3, 12))
        mask = (np.arange(12) < np.array([[12], [7], [1]])).astype(np.int64)
        segments = (np.arange(12) >= np.array([[5], [3], [12]])).astype(np.int64)
        with torch.no_grad():
            found = model.eval()(torch.tensor(ids), torch.tensor(mask), torch.tensor(segments))
        np.savez_compressed(
            Path(__file__).parent / "data" / f"golden-{name}.npz",
            **{f"weights/{key}": value for key, value in state.items()},
            input_ids=ids,
            attention_mask=mask,
            token_type_ids=segments,
            start_logits=found.start_logits.numpy(),
            end_logits=found.end_logits.numpy(),
        )


if __name__ == "__main__":
    main()
