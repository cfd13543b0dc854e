"""Small SQuAD data sets, vocabularies and logs for the tests of BERT."""
# ruff: noqa: RUF001 - look-alike characters are what is tested

from __future__ import annotations

import numpy as np

# With these, words split into pieces, become [UNK], or are kept.
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


def log_entries(responses: list[np.ndarray]) -> list[dict]:
    """As LoadGen writes them, the last sample first: the order of a log is that of completion."""
    entries = [
        {"seq_id": i, "qsl_idx": i, "data": np.ascontiguousarray(r).tobytes().hex().upper(), "token_count": 0}
        for i, r in enumerate(responses)
    ]
    return entries[::-1]
