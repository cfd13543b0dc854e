from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from squad_data import VOCAB, squad_json


@pytest.fixture(scope="session")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def write_squad(tmp_path: Path) -> Callable[..., Path]:
    def write(paragraphs: list[tuple[str, list[tuple[str, list[str]]]]]) -> Path:
        path = tmp_path / "dev.json"
        path.write_text(json.dumps(squad_json(paragraphs)), encoding="utf-8")
        return path

    return write
