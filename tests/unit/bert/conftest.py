# ruff: noqa: RUF001 - look-alike characters are what is tested
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[4] / "shared"

# Words fall to pieces, to [UNK], or stay whole with these.
VOCAB = [
    *(
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "steve",
        "smith",
        "cafe",
        "1895",
        "中",
        "σ",
        "##σ",
        "½",
    ),
    *".,;:'\"()[]-#$^`¿",
    *(prefix + letter for letter in "abcdefghimnst0123456789" for prefix in ("", "##")),
    *("##ing", "##th", "un", "##able"),
]


@pytest.fixture(scope="session")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data" / "squad-sample" / "dev-sample-v1.1.json").is_file():
        pytest.skip(f"needs the SQuAD sample in {SHARED}, which users do not have")
    return SHARED


def squad_json(paragraphs: list[tuple[str, list[tuple[str, list[str]]]]]) -> dict:
    """A data set of (context, [(question, answers)]); ids are q0, q1, ..."""
    out, number = [], 0
    for context, questions in paragraphs:
        qas = []
        for text, answers in questions:
            texts = [{"text": answer, "answer_start": 0} for answer in answers]
            qas.append({"id": f"q{number}", "question": text, "answers": texts})
            number += 1
        out.append({"context": context, "qas": qas})
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": out}]}


@pytest.fixture
def write_squad(tmp_path: Path) -> Callable[..., Path]:
    def write(paragraphs: list[tuple[str, list[tuple[str, list[str]]]]]) -> Path:
        path = tmp_path / "dev.json"
        path.write_text(json.dumps(squad_json(paragraphs)), encoding="utf-8")
        return path

    return write


def log_entries(responses: list[np.ndarray]) -> list[dict]:
    """As LoadGen writes them, the last sample first: the order of a log is that of completion."""
    entries = [
        {"seq_id": i, "qsl_idx": i, "data": np.ascontiguousarray(r).tobytes().hex().upper(), "token_count": 0}
        for i, r in enumerate(responses)
    ]
    return entries[::-1]
