"""The BERT benchmark: question answering on SQuAD v1.1, scored by F1."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from bert.accuracy import SquadScore, accuracy_text, score_log, write_accuracy_txt
from bert.embedding import embedding_rows
from bert.features import FeatureParams, load_features
from bert.outputs import SpanOutputs
from bert.qsl import BertQSL
from bert.squad import repeated
from bert.sut import BertSUT
from bert.training import SquadTraining
from bert.vocabulary import CASINGS, VOCAB, casing_doubts, read_tokenizer, tokenizer_files
from harness.catalog.contract import BenchmarkSettings
from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Dataset
from harness.engines.base import Engine
from harness.errors import ConfigError
from harness.files.disk import user_path, write_bytes
from harness.graph import Tensor
from harness.task.base import ASSUMED, Accuracy, Benchmark, Choice
from harness.task.qsl import SampleLibrary
from harness.task.sut import SUT
from harness.terminal.progress import OnProgress, Progress

_PADDED_TO = (8, 16, 32, 64, 128)
"""Embeddings are padded to a multiple of one of these, for fast kernels."""


class BertSettings(BenchmarkSettings):
    """Settings of BERT."""

    vocab: Path = Field(VOCAB, description="tokenizer of the model: vocab.txt, tokenizer.json or a checkpoint's folder")
    casing: Literal[*CASINGS] | None = Field(  # type: ignore[valid-type]  # one list of the names
        None, description="whether text is lower-cased; default: as the tokenizer says"
    )
    outputs: str | None = Field(
        None,
        description="names of the outputs with the start and the end logits, as START,END; default: by their names",
    )

    @field_validator("vocab")
    @classmethod
    def _expand(cls, vocab: Path) -> Path:
        """With ~ expanded, which no shell does within vocab=~/..."""
        return user_path(str(vocab))

    def files(self, name: str) -> tuple[Path, ...]:
        """The tokenizer's files for ``vocab``."""
        return tokenizer_files(self.vocab) if name == "vocab" else super().files(name)


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
    _answers: SpanOutputs | None = None
    """The outputs of the last SUT."""

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
        model: Path | None = None,
    ) -> BertQSL:
        """The data set's features, from the cache if it has them; in the same form for every graph."""
        features = load_features(
            dataset.path, self.settings.vocab, self.cache_dir, progress=progress, casing=self.settings.casing
        )
        return BertQSL(features, samples)

    def stand_in(self, folder: Path) -> Path:
        """The shipped questions, repeated under new ids until they give 10,833 features."""
        sample = find_dataset(self.name, "sample")
        with Progress(self.prepared, unit=self.prepared_from) as bar:
            features = load_features(
                sample.path,
                self.settings.vocab,
                self.cache_dir,
                progress=lambda done, total: bar.update(done=done, total=total),
                casing=self.settings.casing,
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
        sut = BertSUT(engine, qsl, self.settings.outputs)
        self._answers = sut.answers
        return sut

    def scoring_choices(self, sut: SUT) -> tuple[Choice, ...]:
        """Vocabulary, casing, and which output is which."""
        assert isinstance(sut, BertSUT)
        settings, tokenizer = self.settings, read_tokenizer(self.settings.vocab, self.settings.casing)
        name = "BERT uncased" if settings.vocab == VOCAB else settings.vocab.name
        vocabulary = Choice("vocabulary", f"{name}, {len(tokenizer.tokens):,} tokens", self.source("vocab"))
        casing = Choice(
            "casing", tokenizer.casing, f"from {tokenizer.casing_from}" if tokenizer.casing_from else ASSUMED
        )
        if settings.casing:
            casing = Choice("casing", tokenizer.casing, self.source("casing"))
        if not sut.engine.outputs:
            return vocabulary, casing
        start, end, source = sut.answers
        source = self.source("outputs") if settings.outputs else source
        return vocabulary, casing, Choice("start and end", f"{start} and {end}", source)

    def doubts(self, sut: SUT) -> tuple[str, ...]:
        """Compares the tokenizer's size with the graph's embedding, and its casing with its tokens."""
        assert isinstance(sut, BertSUT)
        tokenizer, vocab = read_tokenizer(self.settings.vocab, self.settings.casing), self.settings.vocab
        rows = embedding_rows(sut.engine.model, sut.input_ids) if sut.engine.model and sut.engine.inputs else None
        return (*_size_doubts(len(tokenizer.tokens), rows, vocab), *casing_doubts(tokenizer, vocab))

    def score(self, log: Path, dataset: Dataset, samples: int | None, output: Path, note: str | None) -> Accuracy:
        """Exact match and F1 as computed by the official scripts."""
        score = self._score(log, dataset, samples=samples)
        write_accuracy_txt(output, score, log, note)
        return Accuracy(
            {"F1": score.f1, "exact match": score.exact_match},
            score.scope or f"all {score.questions:,} questions of {dataset.name}",
            score.warnings,
            score.doubts(*self._swapped_outputs()),
        )

    def training_data(self, path: Path, graph: Path, hold_out: float, max_cost: int | None, seed: int) -> SquadTraining:
        """Questions in SQuAD's format, a file or a folder of files, with or without answers."""
        settings = self.settings
        return SquadTraining(
            path,
            graph,
            vocab=settings.vocab,
            casing=settings.casing,
            outputs=settings.outputs,
            hold_out=hold_out,
            max_cost=max_cost,
            seed=seed,
        )

    def _swapped_outputs(self) -> Iterator[str]:
        """How to swap the outputs of the last SUT, if its graph has any."""
        if self._answers and self._answers.source:
            yield f"pass --set outputs={self._answers.end},{self._answers.start}"

    def score_partial(self, log: Path, dataset: Dataset) -> str:
        """Exact match and F1 of the questions that the log answers."""
        return accuracy_text(self._score(log, dataset, partial=True), log)

    def _score(self, log: Path, dataset: Dataset, *, samples: int | None = None, partial: bool = False) -> SquadScore:
        """The score of a log, with progress; see `score_log`."""
        with Progress("scoring", unit="questions") as bar:
            return score_log(
                log,
                dataset.path,
                self.settings.vocab,
                cache_dir=self.cache_dir,
                progress=lambda done, total: bar.update(done=done, total=total),
                samples=samples,
                partial=partial,
                casing=self.settings.casing,
            )


def _size_doubts(tokens: int, rows: int | None, vocab: Path) -> Iterator[str]:
    """Whether a vocabulary fits an embedding of ``rows``; a padded table may be larger."""
    sizes = f"the vocabulary {vocab} has {tokens:,} tokens, and the model's embedding {rows or 0:,} rows"
    if rows is None or rows == tokens:
        return
    if tokens > rows:
        raise ConfigError(f"{sizes}: it is not the model's; pass the model's own with --set vocab=PATH (VOCAB=PATH).")
    if rows not in {-(-tokens // multiple) * multiple for multiple in _PADDED_TO}:
        yield f"{sizes}: it is probably not the model's, or cut short; pass the model's own with --set vocab=PATH."
