"""The BERT benchmark: question answering on SQuAD v1.1, scored by F1."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from bert.accuracy import VOCAB, Score, accuracy_text, score_log, write_accuracy_txt
from bert.features import FeatureParams, load_features
from bert.qsl import BertQSL
from bert.squad import repeated
from bert.sut import BertSUT
from harness.catalog.contract import BenchmarkSettings
from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Dataset
from harness.engines.base import Engine
from harness.graph import Tensor
from harness.host import console
from harness.host.console import OnProgress
from harness.host.files import write_bytes
from harness.task.base import Accuracy, Benchmark
from harness.task.qsl import SampleLibrary


class BertSettings(BenchmarkSettings):
    """Settings of BERT."""

    vocab: Path = Field(VOCAB, description="WordPiece vocabulary of the model")


class Bert(Benchmark):
    """Question answering: the start and the end of the answer within a passage of at most 384 tokens."""

    settings: BertSettings
    name: ClassVar[str] = "bert"
    official_name: ClassVar[str] = "bert-99"
    max_cost: ClassVar[int] = FeatureParams().max_seq_length
    max_response: ClassVar[int] = 8 * max_cost
    server_bound: ClassVar[float] = 0.130
    prepared: ClassVar[str] = "features"
    prepared_from: ClassVar[str] = "questions"
    Settings: ClassVar[type[BenchmarkSettings]] = BertSettings

    @classmethod
    def accepts(cls, inputs: Sequence[Tensor]) -> bool:
        """Integer inputs (N, L)."""
        return all(tensor.dtype.kind == "i" and len(tensor.dims) == 2 for tensor in inputs)

    def open(
        self,
        dataset: Dataset,
        samples: int | None,
        inputs: Sequence[Tensor],
        progress: OnProgress = lambda done, total: None,
    ) -> BertQSL:
        """Features of the data set, from the cache if it has them; held in the same way for every graph."""
        features = load_features(dataset.path, self.settings.vocab, self.cache_dir, progress=progress)
        return BertQSL(features, samples)

    def stand_in(self, folder: Path) -> Path:
        """The shipped questions, repeated under new ids until they give 10,833 features."""
        sample = find_dataset(self.name, "sample")
        with console.Progress(self.prepared, unit=self.prepared_from) as bar:
            features = load_features(
                sample.path,
                self.settings.vocab,
                self.cache_dir,
                progress=lambda done, total: bar.update(done=done, total=total),
            )
        assert self.official_samples is not None
        content = repeated(sample.path, np.bincount(features.question), self.official_samples)
        path = folder / f"squad-stand-in-{sha256(content).hexdigest()[:12]}.json"
        if not path.is_file():
            write_bytes(path, content)
        return path

    def make_sut(self, engine: Engine, qsl: SampleLibrary) -> BertSUT:
        """The one SUT for every engine."""
        assert isinstance(qsl, BertQSL)
        return BertSUT(engine, qsl)

    def score(self, log: Path, dataset: Dataset, samples: int | None, output: Path, note: str | None) -> Accuracy:
        """Exact match and F1 as computed by the official scripts."""
        score = self._score(log, dataset, samples=samples)
        write_accuracy_txt(output, score, log, note)
        return Accuracy(
            {"F1": score.f1, "exact match": score.exact_match},
            score.scope or f"all {score.questions:,} questions of {dataset.name}",
            score.warnings,
        )

    def score_partial(self, log: Path, dataset: Dataset) -> str:
        """Exact match and F1 of the questions that the log answers."""
        return accuracy_text(self._score(log, dataset, partial=True), log)

    def _score(self, log: Path, dataset: Dataset, *, samples: int | None = None, partial: bool = False) -> Score:
        """The score of a log, with progress; see `score_log`."""
        with console.Progress("scoring", unit="questions") as bar:
            return score_log(
                log,
                dataset.path,
                self.settings.vocab,
                cache_dir=self.cache_dir,
                progress=lambda done, total: bar.update(done=done, total=total),
                samples=samples,
                partial=partial,
            )
