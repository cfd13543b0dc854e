"""How to correct the value in user.conf that made a test INVALID."""

import math

from harness.host.usage import CoreUse
from harness.loadgen.logs import Detail
from harness.paths import advice
from harness.running.load import Load
from harness.scheduling.overload import Overloaded


def longer(load: Load, detail: Detail) -> str:
    """How to correct a test that was too short."""
    value = load.scenario.correction(detail)
    if value is None:
        return f"change {load.scenario.key}"
    return ("" if load.rate_line else "run it again, or ") + _change(load, value)


def overloaded(load: Load, ended: Overloaded, lower: float | None, cores: CoreUse | None = None) -> str:
    """Why a test was ended, and how it could be VALID.

    ``lower`` is the value to set; None if none seems low enough. ``cores`` is the use of the cores during the test.
    """
    scenario = load.scenario
    why = (
        f"the latency bound was missed at {load.rate:.6g} queries/s, and the test was ended after {ended.seconds:.1f} "
        f"s, since it could no longer be VALID: {ended.late:,} of at most {ended.max_queries:,} queries were late, "
        f"more than {100 - (scenario.percentile or 0)} %; {ended.reached:.4g} queries/s were completed; "
    )
    if lower is None:
        if cores and cores.disturbed:
            return f"{why}{cores.words} meanwhile, and with them no {scenario.key} seems to meet the bound"
        return f"{why}no {scenario.key} seems to meet the bound with this model, engine and machine"
    seconds = math.ceil(scenario.enough(lower)[0] / lower)
    run = ""
    if load.limited and not load.recorded and not load.official and seconds > load.seconds:
        place = f"min_duration in line {load.duration_line.line}" if load.duration_line else "--duration"
        run = f", let the test run for {seconds:,} s or more ({place})"
    name = scenario.name
    tune = advice(f"`make tune SCENARIO={name}`", f"`harness tune --scenario {name}`")
    return f"{why}{_change(load, lower)}{run}, or let {tune} find the highest rate"


def _change(load: Load, value: float) -> str:
    """How to set the scenario's key to a value."""
    key, line = load.scenario.key, load.rate_line
    if load.recorded:
        return f"repeat the performance run with {key} = {value:.4g} in user.conf, then this test"
    if line:
        return f"{key} is {line.value} in line {line.line} of {load.path}; set it to {value:.4g}"
    return f"set {load.benchmark}.{load.scenario.name}.{key} = {value:.4g} in user.conf"
