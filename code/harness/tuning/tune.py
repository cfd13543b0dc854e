"""`harness tune`: finds the best engine, settings and rate for a model and a scenario on this machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from rich.table import Table

from harness.errors import ConfigError, Interrupted
from harness.files.disk import shown
from harness.loadgen.conf import TUNED, read_user_conf
from harness.settings import tuned
from harness.settings.request import RunRequest
from harness.settings.run import RunSettings, cluster_name
from harness.terminal import console
from harness.tuning.engines import best_engine, contenders
from harness.tuning.journal import opened, tuning_alone
from harness.tuning.one_engine import UNUSABLE, EngineTuning, MeasuredOptions, measurement
from harness.tuning.search import Measurement, mean


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """What to tune, how long to measure, and where the results go."""

    run: RunRequest
    """Without an engine, all installed ones are tried. Its options are the user's own and are not tuned."""
    seconds: float
    """Approximate seconds of a trial."""
    confirm: float
    """Minimum seconds of the test that confirms Server's rate."""
    measurements: Path
    """The folder of tuned settings, by system."""
    state_dir: Path
    """The folder of the measurements until the tuning ends."""
    fresh: bool = False
    """Whether saved measurements are ignored."""
    force: bool = False
    """Whether settings of another model or engine are replaced."""


def tune(request: TuneRequest, *, as_json: bool = False) -> tuned.Tuned:
    """Search for settings, find and confirm the rate, write the result and print it, with ``as_json`` as JSON.

    Raises:
        Busy: another process tunes the same model and scenario.
        ConfigError: a setting is wrong, or the folder holds settings of another model or engine.
        CheckFailed: nothing works, or no rate of Server meets the bound.
        Interrupted: the user stopped it; the measurements are saved.
    """
    if not (math.isfinite(request.seconds) and math.isfinite(request.confirm)):
        raise ConfigError("--seconds and --confirm-seconds must be finite numbers.")
    each_engine = contenders(request.run)
    with tuning_alone(request.state_dir, each_engine[0][1]):
        place = _place(request, each_engine[0][1])
        tunings = [
            EngineTuning(
                asked,
                settings,
                request.seconds,
                opened(request.state_dir, settings, asked.options, request.seconds, request.fresh),
            )
            for asked, settings in each_engine
        ]
        result, trials = _tuned(request, tunings, place)
    if as_json:
        console.print_json({**result.model_dump(mode="json"), "folder": place})
    else:
        _show(result, trials, place)
    return result


def _tuned(
    request: TuneRequest, tunings: Sequence[EngineTuning], place: Path
) -> tuple[tuned.Tuned, list[MeasuredOptions]]:
    """The best of all engines' settings, written to ``place``, and the measurements of that engine."""
    try:
        tuning, found, scores = best_engine(tunings)
        settings = tuning.settings
        value, confirmed = tuning.value(found), None
        if tuning.scenario.paced:
            confirmed = tuning.find_rate(found, value, request.confirm)
            value = confirmed.rate
    except KeyboardInterrupt:
        kept = shown(tunings[0].journal.path if len(tunings) == 1 else request.state_dir)
        raise Interrupted(
            f"stopped; the measurements are saved in {kept}, and the same command continues from there."
        ) from None
    result = tuning.result(found, value, confirmed, scores)
    line = f"{settings.model.benchmark}.{settings.scenario}.{result.key} = {value:.6g}"
    comment = f"{TUNED} for {result.model} on {result.engine}"
    tuned.write(place, result, read_user_conf(settings.user_conf).extended(comment, [line]))
    for each in tunings:
        each.journal.discard()
    return result, tuning.trials


def _place(request: TuneRequest, settings: RunSettings) -> Path:
    """The folder of the result.

    Raises:
        ConfigError: it holds settings of another model or engine, which may not be replaced.
    """
    place = tuned.folder(request.measurements, settings.system, settings.model.official_name, settings.scenario)
    if not request.force:
        engine = settings.engine if request.run.engine else None
        tuned.check_replaceable(place, settings.model.sha256, engine, cluster_name(settings.cluster))
    return place


def _show(result: tuned.Tuned, trials: Sequence[MeasuredOptions], place: Path) -> None:
    table = Table("settings", result.unit, "÷ defaults", box=None, pad_edge=False)
    rows: dict[str, list[Measurement]] = {}
    for trial in trials:
        rows.setdefault(tuned.words(trial.options), []).append(measurement(trial.measured))
    means = {words: mean(scores) for words, scores in rows.items()}
    for words, score in sorted(means.items(), key=itemgetter(1), reverse=True):
        ratio = f"{score / result.default_score:.3f}" if result.default_score else ""
        table.add_row(words, f"{score:,.4g}" if score else UNUSABLE, ratio)
    console.print_table(table)
    if result.engines:
        ranked = sorted(result.engines.items(), key=lambda item: -item[1])
        words = ", ".join(f"{engine} {f'{score:,.4g}' if score else UNUSABLE}" for engine, score in ranked)
        console.out.print(f"engines, {result.unit}: {words}")
    on = f"{result.engine}, " if result.engines else ""
    console.out.print(f"chosen: {on}{result.words()}; {result.key} = {result.value:.6g}")
    console.out.print(f"written to {shown(place)}; runs of {result.model} in {result.scenario} use it automatically")
