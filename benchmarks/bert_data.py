"""Speed of building BERT's features and of scoring an accuracy log, for a data set as large as SQuAD.

python -m benchmarks.bert_data [--dataset D]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.common import command
from bert.accuracy import score_log
from bert.features import build_features
from bert.squad import Question, Squad, read_squad
from bert.vocabulary import VOCAB
from harness.catalog.datasets import find_dataset
from harness.host.machine import core_count, cpu_model
from harness.terminal import console


def data_speed(dataset: str | None) -> tuple[float, int, float, int]:
    """Questions/s of building features, number of questions, seconds of scoring, number of samples."""
    path = find_dataset("bert", dataset).path
    squad = replicated(read_squad(path), 10_570)
    start = time.perf_counter()
    features = build_features(squad, VOCAB)
    featuring = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "data.json", Path(folder) / "mlperf_log_accuracy.json"
        write_squad(squad, file)
        rng = np.random.default_rng(0)
        with log.open("w") as out:
            out.write("[\n")
            for index, length in enumerate(features.lengths):
                data = rng.normal(-5, 3, (int(length), 2)).astype(np.float32).tobytes().hex().upper()
                out.write(f'{{ "seq_id" : {index}, "qsl_idx" : {index}, "data" : "{data}" }},\n')
            out.seek(out.tell() - 2)
            out.write("\n]\n")
        score_log(log, file, VOCAB, cache_dir=Path(folder) / "cache")
        start = time.perf_counter()
        score_log(log, file, VOCAB, cache_dir=Path(folder) / "cache")
        scoring = time.perf_counter() - start
    return len(squad.questions) / featuring, len(squad.questions), scoring, len(features)


def replicated(squad: Squad, questions: int) -> Squad:
    """The same passages repeated under new ids until there are this many questions."""
    contexts: list[str] = []
    made: list[Question] = []
    copy = 0
    while len(made) < questions:
        base = len(contexts)
        contexts += [f"{text} {copy}" for text in squad.contexts]
        made += [replace(q, id=f"{q.id}-{copy}", context=q.context + base) for q in squad.questions]
        copy += 1
    return replace(squad, contexts=tuple(contexts), questions=tuple(made[:questions]))


def write_squad(squad: Squad, path: Path) -> None:
    """Write a data set in SQuAD's format."""
    asked: list[list[dict[str, object]]] = [[] for _ in squad.contexts]
    for q in squad.questions:
        answers = [{"text": text, "answer_start": 0} for text in q.answers]
        asked[q.context].append({"id": q.id, "question": q.text, "answers": answers})
    paragraphs = [{"context": text, "qas": qas} for text, qas in zip(squad.contexts, asked, strict=True)]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "copies", "paragraphs": paragraphs}]}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default=None)
    rate, questions, scoring, samples = data_speed(parser.parse_args().dataset)
    table = Table("what", "target", "measured", box=None, pad_edge=False)
    table.add_row("features", "1,000 questions/s", f"{rate:,.0f} questions/s over {questions:,} questions")
    table.add_row("scoring", "60 s", f"{scoring:.1f} s for {samples:,} samples")
    console.out.print(f"{cpu_model()}, {core_count()} cores")
    console.print_table(table)


if __name__ == "__main__":
    command(main)
