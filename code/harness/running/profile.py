"""`harness run --profile`: the time that each operator takes, measured in a short separate pass.

The pass comes after the test, once its result is stored, so it cannot change the result. It runs on a second copy of
the model: engines only record from the start, and recording slows them down. That copy has one stream, with as many
threads as a stream of the test, and runs alone: without other streams, operators that wait for memory take a smaller
share than in the test. Its batches have the shapes of the test's batches, chosen evenly from all that ran, and hold
samples of the data set of about the same length. Each runs once as a warm-up and once recorded.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from harness.engines.base import engine_errors, find_engine
from harness.engines.profiler import NodeTotal, Profiler, Times
from harness.errors import RunFailed
from harness.files.disk import shown, write_text
from harness.host.supervise import Beat
from harness.preparing.prepared import Prepared, patience
from harness.results.profile import PROFILE, NodeTime, OperatorTime, Profile
from harness.running.recorder import Recorder
from harness.scheduling.cost import full_batch
from harness.settings.run import RunSettings
from harness.task.shape import Shape
from harness.terminal import console
from harness.terminal.progress import working
from harness.terminal.streams import native_output_dropped

_BATCH_SECONDS, _MIN_BATCHES, _MAX_BATCHES = 5.0, 4, 16  # seconds that the batches took in the test
_SAVED_NODES, _SHOWN_OPERATORS = 10, 5  # nodes in the file; operators on the terminal


def profile_run(settings: RunSettings, ready: Prepared, recorder: Recorder | None, folder: Path, beat: Beat) -> None:
    """Profile a test that has ended, write profile.json into the ``folder`` of its record, and print the operators.

    An error is only a warning: the result is stored.
    """
    try:
        with working("profiling the operators"), native_output_dropped(not console.output().verbose):
            shapes = recorder.sample_shapes(_BATCH_SECONDS, _MIN_BATCHES, _MAX_BATCHES) if recorder else []
            if not shapes:
                raise RunFailed("no batch of the test was recorded.")
            profile = _profile(settings, ready, shapes, beat)
        write_text(folder / PROFILE, profile.model_dump_json(indent=2) + "\n")
    except Exception as error:  # noqa: BLE001  an engine may raise anything
        console.warn(f"no profile was made: {(str(error) or type(error).__name__).rstrip('.')}; the result is kept.")
        return
    if settings.shown == "table":
        console.print_table(_table(profile.operators[:_SHOWN_OPERATORS]))
    console.note(f"profile: {profile.about}; written to {shown(folder / PROFILE)}")


def _profile(settings: RunSettings, ready: Prepared, shapes: Sequence[Shape], beat: Beat) -> Profile:
    """The profile of these batches.

    Raises:
        EngineError: the engine failed.
    """
    beat(patience(settings))
    kind = find_engine(settings.engine).profiler()
    with engine_errors(settings.engine, "to load the model for a profile"):
        engine = kind(ready.engine.model, ready.engine.settings)
    try:
        times = _recorded(ready, engine, shapes, lambda: beat(settings.stall_timeout))
    finally:
        engine.close()
    return summary(times, ready.description.title, engine.threads, ready.engine.streams, shapes)


def _recorded(ready: Prepared, engine: Profiler, shapes: Sequence[Shape], ran: Callable[[], None]) -> Times:
    """The time of each node in these batches, which first run once as a warm-up; ``ran()`` is called before each.

    Raises:
        EngineError: the engine failed.
    """
    sut = ready.benchmark.make_sut(engine, ready.qsl)
    batches = [(full_batch(ready.sut, shape, ready.indices), shape) for shape in shapes]
    ready.qsl.load(np.unique(np.concatenate([samples for samples, _ in batches])))
    found: list[Times] = []
    failed: list[BaseException] = []

    def run() -> None:
        for samples, shape in batches:
            ran()
            sut.outputs(samples, shape)

    def record() -> None:
        try:
            run()
            with engine.recorded() as times:
                run()
            found.append(times)
        except BaseException as error:  # noqa: BLE001  an engine may raise anything
            failed.append(error)

    # A stream's thread, as in the test: engines do not pin the main thread.
    thread = threading.Thread(target=record, name="profile", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def summary(times: Times, engine: str, threads: int, streams: int, shapes: Sequence[Shape]) -> Profile:
    """The profile from the time of each node in batches of these ``shapes``, run one after the other."""
    total = sum(spent.seconds for spent in times.values())
    operators: defaultdict[str, NodeTotal] = defaultdict(lambda: NodeTotal(0.0, 0))
    for node, spent in times.items():
        sofar = operators[node.operator]
        operators[node.operator] = NodeTotal(sofar.seconds + spent.seconds, sofar.calls + spent.calls)

    def time(operator: str, spent: NodeTotal) -> OperatorTime:
        share = spent.seconds / total if total else 0.0
        ms = round(spent.seconds * 1000, 4)
        return OperatorTime(operator=operator, ms=ms, share=round(share, 5), calls=spent.calls)

    nodes = sorted(times.items(), key=lambda item: -item[1].seconds)[:_SAVED_NODES]
    return Profile(
        engine=engine,
        threads=threads,
        streams=streams,
        batches=[list(shape) for shape in shapes],
        ms=round(total * 1000, 4),
        operators=[time(name, spent) for name, spent in sorted(operators.items(), key=lambda item: -item[1].seconds)],
        nodes=[NodeTime.of(node.name, time(node.operator, spent)) for node, spent in nodes],
    )


def _table(operators: Sequence[OperatorTime]) -> Table:
    table = Table("operator", box=None, pad_edge=False)
    for name in ("share", "ms", "calls"):
        table.add_column(name, justify="right")
    for each in operators:
        table.add_row(each.operator, f"{each.share:.1%}", f"{each.ms:,.1f}", f"{each.calls:,}")
    return table
