"""What the harness costs, and what it gains, in the Offline scenario.

    python -m benchmarks.offline [--model M] [--dataset D] [--engines onnxruntime,deepsparse] [--seconds S]

Prints, side by side in one run:
  (a) LoadGen Offline samples/s ÷ the raw engine over the same batches;
  (b) LoadGen Offline samples/s ÷ the reference's way with the same engine: one sample at a time, padded to 384;
  (c) the null engine ÷ LoadGen's bare Python null SUT;
  (d) padded ÷ real tokens;
  (e) features/s, and the seconds that scoring takes.

Each LoadGen test runs in a process of its own. The two sides of a ratio are measured in turn, several times, since
machines drift; the ratio of each pair is taken, and the median of the ratios printed with the least and the greatest.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from bert.benchmark import Bert, BertSettings
from bert.features import build_features
from bert.qsl import BertQSL
from bert.squad import Squad, read_squad
from harness import catalog, console
from harness.config import DEFAULT_MODEL
from harness.machine import core_count, cpu_model
from harness.registry import ENGINES, default_engine, resolve
from harness.run import make_planner
from harness.scheduling.batching import Shape
from harness.scheduling.offline import OfflineScheduler, warm_up

_ONE_SHAPE = {"deepsparse": {"shapes": 1}}


class Setup:
    """Engine, SUT, QSL and planner as a run makes them, everything loaded and warm."""

    def __init__(self, model: str, dataset: str | None, engine: str, **options: int) -> None:
        found = catalog.find_model(model)
        self.qsl: BertQSL = Bert(BertSettings(), catalog.CACHE_DIR).open(catalog.find_dataset("bert", dataset), None)
        engine_class = resolve("engine", ENGINES, engine)
        self.engine = engine_class(found.path, engine_class.Settings(**options))
        self.sut = Bert(BertSettings(), catalog.CACHE_DIR).make_sut(self.engine, self.qsl)
        self.all = np.arange(self.qsl.count)
        self.planner = make_planner(self.sut, self.qsl.cost(self.all), Bert.max_cost)
        self.qsl.load(self.all)
        for shape in self.planner.shapes:
            self.sut.prepare(shape)
        warm_up(self.sut, self.planner, self.all)


def loadgen_test(setup: Setup, samples: int) -> tuple[float, float]:
    """Samples/s that LoadGen reports for one query of about ``samples``, and padded ÷ real tokens."""
    import mlperf_loadgen as lg

    from harness.loadgen import session
    from harness.loadgen.logs import read_detail

    scheduler = OfflineScheduler(setup.sut, setup.planner, session.complete)
    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.Offline, lg.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = 0, samples
    with tempfile.TemporaryDirectory() as folder:
        session.run_test(settings, setup.qsl, scheduler, Path(folder), lambda: None)
        scheduler.close()
        rate = read_detail(Path(folder), "performance").samples_per_second
    setup.qsl.load(setup.all)
    return float(rate or 0), float(scheduler.counters.padding_ratio or 0)


def raw_engine(setup: Setup, samples: int) -> float:
    """Samples/s of the engine alone over the batches of the same query, its tensors made beforehand."""
    query = np.resize(setup.all, samples)
    work = []
    for batch in setup.planner.plan(setup.qsl.cost(query)):
        tensors = setup.sut.feed(setup.qsl.collate(query[batch.positions], batch.shape))
        work.append((setup.sut.runner(batch.shape), tensors))
    lock, position = threading.Lock(), iter(work)

    def stream() -> None:
        while True:
            with lock:
                item = next(position, None)
            if item is None:
                return
            item[0](item[1])

    threads = [threading.Thread(target=stream) for _ in range(setup.engine.streams)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return samples / (time.perf_counter() - start)


def reference_way(setup: Setup, seconds: float) -> float:
    """Samples/s of one sample at a time on all cores, padded to 384 tokens."""
    shape = Shape(1, Bert.max_cost)
    setup.sut.answer(setup.all[:1], shape)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        setup.sut.answer(setup.all[done % len(setup.all)][None], shape)
        done += 1
    return done / (time.perf_counter() - start)


def bare_null(samples: int) -> float:
    """Samples/s of LoadGen's own Python null SUT: an empty response for each query id, one call for all."""
    import mlperf_loadgen as lg

    from harness.loadgen.logs import read_detail

    def issue(query: list) -> None:
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in query])

    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.Offline, lg.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = 0, samples
    with tempfile.TemporaryDirectory() as folder:
        output = lg.LogOutputSettings()
        output.outdir = folder
        log = lg.LogSettings()
        log.log_output, log.enable_trace = output, False
        sut = lg.ConstructSUT(issue, lambda: None)
        qsl = lg.ConstructQSL(10833, 10833, lambda _: None, lambda _: None)
        lg.StartTestWithLogSettings(sut, qsl, settings, log, "")
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
        return float(read_detail(Path(folder), "performance").samples_per_second or 0)


def engine_ratios(model: str, dataset: str | None, engine: str, seconds: float, pairs: int) -> dict[str, object]:
    """(a), (b) and (d) of one engine; in a process of its own."""
    setup = Setup(model, dataset, engine)
    reference = Setup(model, dataset, engine, threads=core_count(), streams=1, **_ONE_SHAPE.get(engine, {}))
    reference.sut.prepare(Shape(1, Bert.max_cost))
    rough = raw_engine(setup, max(len(setup.all), 64))
    samples = max(len(setup.all), int(rough * seconds))
    rows = []
    for pair in range(pairs):
        # The side that goes first changes, so that a slow drift of the machine favours neither.
        if pair % 2:
            raw, (loadgen, padding) = raw_engine(setup, samples), loadgen_test(setup, samples)
        else:
            (loadgen, padding), raw = loadgen_test(setup, samples), raw_engine(setup, samples)
        rows.append((loadgen, raw, reference_way(reference, seconds / 2), padding))
    return {
        "engine": engine,
        "rows": rows,
        "samples": samples,
        "shapes": [tuple(s) for s in setup.planner.shapes],
    }


def null_ratios(model: str, dataset: str | None, pairs: int) -> list[tuple[float, float]]:
    """(c): pairs of (null engine, bare null SUT) in samples/s."""
    setup = Setup(model, dataset, "null")
    return [(loadgen_test(setup, 500_000)[0], bare_null(500_000)) for _ in range(pairs)]


def data_speed(dataset: str | None) -> tuple[float, int, float, int]:
    """(e): features/s and their number, seconds of scoring and its number, for a set of the size of SQuAD's."""
    from bert.accuracy import VOCAB, score_log

    path = catalog.find_dataset("bert", dataset).path
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
    """The same passages again and again under new ids, until there are that many questions."""
    from dataclasses import replace

    contexts, made = [], []
    copy = 0
    while len(made) < questions:
        base = len(contexts)
        contexts += [f"{text} {copy}" for text in squad.contexts]
        made += [replace(q, id=f"{q.id}-{copy}", context=q.context + base) for q in squad.questions]
        copy += 1
    return replace(squad, contexts=tuple(contexts), questions=tuple(made[:questions]))


def write_squad(squad: Squad, path: Path) -> None:
    """Write a data set in SQuAD's format."""
    import json

    paragraphs = [{"context": text, "qas": []} for text in squad.contexts]
    for q in squad.questions:
        answers = [{"text": text, "answer_start": 0} for text in q.answers]
        paragraphs[q.context]["qas"].append({"id": q.id, "question": q.text, "answers": answers})
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "copies", "paragraphs": paragraphs}]}))


def apart(work, *args):
    """Run a measurement in a process of its own: engines and LoadGen leave threads behind."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dataset", default=None)
    engines = ["onnxruntime", "deepsparse"] if default_engine() == "deepsparse" else ["onnxruntime"]
    parser.add_argument("--engines", default=",".join(engines))
    parser.add_argument("--seconds", type=float, default=15, help="about how long each measurement takes")
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()

    table = Table("what", "ratio: median (least - greatest)", "aim", "figures", box=None, pad_edge=False)
    for engine in filter(None, args.engines.split(",")):
        console.note(f"measuring {engine} ...")
        found = apart(engine_ratios, args.model, args.dataset, engine, args.seconds, args.pairs)
        loadgen, raw, reference, padding = (list(column) for column in zip(*found["rows"], strict=True))
        rates = f"{statistics.median(loadgen):.1f} and {{:.1f}} samples/s, {found['samples']} samples"
        ratio = [a / b for a, b in zip(loadgen, raw, strict=True)]
        table.add_row(
            f"(a) {engine}: LoadGen ÷ raw engine", spread(ratio), "0.98", rates.format(statistics.median(raw))
        )
        ratio = [a / b for a, b in zip(loadgen, reference, strict=True)]
        median = statistics.median(reference)
        table.add_row(f"(b) {engine}: LoadGen ÷ reference's way", spread(ratio), "2.5", rates.format(median))
        aim = "1.09" if found["shapes"] else "1.03"
        shapes = " ".join(f"{batch}x{length}" for batch, length in found["shapes"]) or "any shape"
        table.add_row(f"(d) {engine}: padded ÷ real tokens", spread(padding), aim, shapes)
    console.note("measuring the null engine ...")
    pairs = apart(null_ratios, args.model, args.dataset, args.pairs)
    figures = " and ".join(f"{statistics.median(column):,.0f}" for column in zip(*pairs, strict=True))
    table.add_row("(c) null engine ÷ bare null SUT", spread([a / b for a, b in pairs]), "0.5", f"{figures} samples/s")
    console.note("measuring features and scoring ...")
    rate, questions, scoring, samples = apart(data_speed, args.dataset)
    table.add_row("(e) features", "", "1,000", f"{rate:,.0f} questions/s over {questions:,} questions")
    table.add_row("(e) scoring", "", "60 s", f"{scoring:.1f} s for {samples:,} samples")
    console.out.print(f"{args.model} on {cpu_model()}, {core_count()} cores; each side {args.pairs} times, in turn")
    console.print_table(table)


if __name__ == "__main__":
    main()
