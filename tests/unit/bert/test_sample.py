from __future__ import annotations

import json

import pytest

from bert.features import build_features
from bert.squad import read_squad
from harness.catalog.manifests import datasets, folder

SAMPLE = folder("bert") / datasets("bert")["sample"].file


@pytest.fixture(scope="module")
def paragraphs():
    return [
        paragraph for article in json.loads(SAMPLE.read_text("utf-8"))["data"] for paragraph in article["paragraphs"]
    ]


def test_every_answer_stands_where_the_sample_says(paragraphs):
    for paragraph in paragraphs:
        for qa in paragraph["qas"]:
            assert qa["answers"], qa["id"]
            for answer in qa["answers"]:
                start = answer["answer_start"]
                assert paragraph["context"][start : start + len(answer["text"])] == answer["text"], qa["id"]


def test_the_sample_is_varied_enough_to_stand_for_squad(paragraphs):
    questions = [qa for paragraph in paragraphs for qa in paragraph["qas"]]
    assert len(paragraphs) >= 24
    assert len({paragraph["context"] for paragraph in paragraphs}) == len(paragraphs)
    assert len(questions) >= 150
    assert len({qa["id"] for qa in questions}) == len({qa["question"] for qa in questions}) == len(questions)
    assert sum(len(qa["answers"]) > 1 for qa in questions) > len(questions) / 3


def test_the_manifest_counts_the_samples_features():
    features = build_features(read_squad(SAMPLE), folder("bert") / "data" / "vocab.txt")
    assert len(features) == datasets("bert")["sample"].samples
    assert features.lengths.min() < 50
    assert features.lengths.max() == 384
    assert len(set(features.question)) < len(features)  # some passages take several features
