"""Compares LoadGen's duration of a test with that of a clock that cannot be set."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from harness.errors import RunFailed
from harness.host.clock import RunningClock, Stopwatch, Timing
from harness.loadgen.logs import Detail


@pytest.mark.parametrize(
    ("timing", "loadgen"),
    [
        (Timing(600.0, 600.3, 0.0), 600.2),
        (Timing(600.0, 600.3, 2.9), 597.1),  # within 0.5 %
        (Timing(0.2, 0.204, 0.0), 0.196),  # a short test may be some milliseconds off
        (Timing(5.0, 9.0, 0.0), 5.4),  # LoadGen's clock starts before its large query has arrived
        (Timing(5.0, 5.0, 0.0), None),
    ],
)
def test_a_duration_like_that_of_the_monotonic_clock_is_accepted(timing, loadgen):
    timing.check(loadgen)


@pytest.mark.parametrize(
    ("timing", "loadgen"),
    [
        (Timing(6.0, 6.1, 0.0), 4.8),
        (Timing(6.0, 6.1, 0.0), 7.2),
        (Timing(600.0, 600.3, 0.0), 596.9),
        (Timing(0.2, 0.2, 0.0), 0.19),
        (Timing(6.0, 6.1, 2.4), 6.0),  # back and forth
        (Timing(6.0, 6.1, 2.4), None),
    ],
)
def test_another_duration_is_refused_with_both(timing, loadgen):
    with pytest.raises(RunFailed, match="the realtime clock was changed") as error:
        timing.check(loadgen)
    assert f"{timing.shortest:.3f} s by the monotonic clock" in str(error.value)
    if loadgen:
        assert f"{loadgen:.3f} s by LoadGen" in str(error.value)


def test_a_stopwatch_adds_up_steps_in_both_directions_and_a_wrong_rate(monkeypatch):
    true_time, offset = time.time_ns, 0
    monkeypatch.setattr(time, "time_ns", lambda: true_time() + offset)
    watch = Stopwatch()
    offset = 5 * 10**9  # before the test
    watch.start()
    watch.look()
    for step in (2 * 10**9, -2 * 10**9, 10**7):
        offset += step
        watch.look()
    watch.stop()
    offset = 0  # after it
    watch.look()
    assert watch.timing(0.1).moved == pytest.approx(4.01, abs=0.001)


def test_a_clock_that_is_left_alone_has_not_moved():
    watch = Stopwatch()
    watch.start()
    for _ in range(200):
        watch.look()
    time.sleep(0.02)
    watch.stop()
    timing = watch.timing(0.02)
    assert timing.moved == 0
    assert 0.02 <= timing.longest < 2


def test_loadgens_duration_is_the_time_between_its_power_marks():
    marks = {"power_begin": "12-31-2026 23:59:59.900", "power_end": "01-01-2027 00:10:00.150"}
    assert Detail(marks, ()).elapsed == pytest.approx(600.25)
    assert Detail({**marks, "power_end": "soon"}, ()).elapsed is None
    assert Detail({}, ()).elapsed is None


def test_a_running_clock_leaves_out_what_the_process_was_stopped():
    now, used = [0.0], [0.0]
    with RunningClock(lambda: now[0], lambda: used[0]) as clock:
        clock._over.set()  # the thread only looks in time
        now[0], used[0] = 4.0, 8.0
        assert clock() == 4.0
        now[0], used[0] = 1400.0, 8.5
        assert clock() == 4.0
        now[0], used[0] = 1420.0, 28.0  # it held every other thread up, but computed
        assert clock() == 24.0
        now[0] = 1424.0
        assert clock() == 28.0


@pytest.mark.slow
def test_a_running_clock_sees_a_real_stop():
    code = (
        "import time\n"
        "from harness.host.clock import RunningClock\n"
        "with RunningClock() as clock:\n"
        "    began, wall = clock(), time.monotonic()\n"
        "    print('ready', flush=True)\n"
        "    while time.monotonic() - wall < 8: time.sleep(0.05)\n"
        "    print(clock() - began)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(6.5)
    process.send_signal(signal.SIGCONT)
    assert float(process.communicate(timeout=30)[0]) < 4.0
