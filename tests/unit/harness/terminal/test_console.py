from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from harness.terminal import console
from harness.terminal.progress import Progress
from harness.terminal.streams import open_console

LONG_PATH = "/data/" + "/".join(f"[bold]part{number}[/]:smile:" for number in range(30))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """`console.err` on a terminal of 160 columns with colours."""
    stream = Terminal()
    made = Console(file=stream, force_terminal=True, width=160, soft_wrap=True, color_system="standard")
    monkeypatch.setattr(console, "err", made)
    return stream


def run(code: str, **settings) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(console.__file__).parents[2])}
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **settings}
    return subprocess.run([sys.executable, "-c", code], text=True, timeout=60, **settings)


def screen(stream: Terminal) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_results_and_messages_take_their_own_stream_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    console.out.print(LONG_PATH)
    console.note(LONG_PATH)
    console.warn(LONG_PATH)
    console.error(LONG_PATH)
    captured = capsys.readouterr()
    assert captured.out == f"{LONG_PATH}\n"
    assert captured.err == f"{LONG_PATH}\nwarning: {LONG_PATH}\nerror: {LONG_PATH}\n"


def test_a_table_never_reads_its_cells_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("file")
    table.add_row("[red]a.onnx")
    console.out.print(table)
    assert "[red]a.onnx" in capsys.readouterr().out


def test_no_ansi_codes_after_a_terminal_was_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", Terminal())
    made = open_console("stdout")
    made.print("on a terminal", style="bold red")
    assert "\x1b[1;31m" in sys.stdout.getvalue()  # or the second half proves nothing
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    made.print("in a file", style="bold red")
    assert sys.stdout.getvalue() == "in a file\n"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", Terminal())
    made = open_console("stderr")
    made.print("text", style="red")
    assert sys.stderr.getvalue() == "text\n"


def test_a_character_that_the_stream_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    console.out.print("5 µs")
    assert raw.getvalue() == b"5 \\xb5s\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_stays_json_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    console.print_json(["5 µs", "\udc80"])
    assert json.loads(raw.getvalue().decode(encoding)) == ["5 µs", "\udc80"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (5.13, "5.1 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (125, "2 min 05 s"),
     (3599.6, "1 h 00 min"), (3725, "1 h 02 min"), (90000, "25 h 00 min")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds, 1) == text


@pytest.mark.parametrize(
    ("value", "unit", "rate", "text"),
    [(10570, "questions", False, "10,570 questions"), (2100.4, "q", True, "2,100 q/s"),
     (12.34, "q", True, "12.3 q/s"), (0.25, "q", True, "0.25 q/s"), (1023, "B", False, "1,023 B"),
     (1024, "B", False, "1.0 KiB"), (3 * 2**20, "B", True, "3.0 MiB/s"), (2**41, "B", False, "2,048.0 GiB")],
)  # fmt: skip
def test_quantity(value: float, unit: str, rate: bool, text: str) -> None:
    assert console.quantity(value, unit, per_second=rate) == text


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("features", total=10570, unit="questions", clock=clock) as bar:
        for _ in range(70):
            clock.now += 0.1
            bar.advance(151)
    assert capsys.readouterr().err.splitlines() == [
        "features: 3,020 of 10,570 questions (29 %), 1,510 questions/s, 5 s left",
        "features: 10,570 questions (100 %), 1,510 questions/s",
        "features: 10,570 questions in 7.0 s",
    ]


def test_work_whose_end_is_not_foreseen_shows_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("compiling", unit="shapes", foreseen=False, clock=clock) as bar:
        for done in range(4):
            clock.now += 2
            bar.update(done=done, total=12)
    assert "compiling: 3 of 12 shapes (25 %), 0.38 shapes/s" in capsys.readouterr().err.splitlines()


def test_short_work_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("features", total=3, clock=clock) as bar:
        for _ in range(3):
            clock.now += 0.6
            bar.advance()
    assert capsys.readouterr() == ("", "")


def test_unknown_total_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("[x]", unit="samples", clock=clock) as bar:
        clock.now += 4
        bar.update(done=1000, note="[y] 123.4 samples/s")
        clock.now += 5
        bar.update(total=2000, note="")
    assert capsys.readouterr().err.splitlines() == [
        "[x]: 1,000 samples, 250 samples/s, 4 s elapsed, [y] 123.4 samples/s",
        "[x]: 1,000 of 2,000 samples (50 %), 111 samples/s",
        "[x]: 1,000 of 2,000 samples in 9.0 s",
    ]


def test_work_that_is_not_counted_shows_its_share_and_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("warming up", unit="", clock=clock) as bar:
        clock.now += 4
        bar.update(done=1)
        clock.now += 5
        bar.update(done=3, total=3)
        clock.now += 5
        bar.update(done=0, total=0)
    assert capsys.readouterr().err.splitlines() == [
        "warming up: 4 s elapsed",
        "warming up: 100 %",
        "warming up: 14 s elapsed",
        "warming up: 14.0 s",
    ]


def test_nothing_is_invented_before_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("file", total=0, unit="B", clock=clock) as bar:
        clock.now += 3
        bar.update(total=4096)
        clock.now += 6
        bar.start_from(2048)
        bar.update()
        clock.now += 6
        bar.update(done=5000)
    assert capsys.readouterr().err.splitlines() == [
        "file: 0 B of 4.0 KiB (0 %)",
        "file: 2.0 KiB of 4.0 KiB (50 %)",
        "file: 4.9 KiB of 4.0 KiB (100 %), 492 B/s",
        "file: 4.9 KiB of 4.0 KiB in 15.0 s",
    ]


def test_an_almost_finished_work_is_not_called_finished(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("work", total=1000, clock=clock) as bar:
        clock.now += 3
        bar.advance(999)
        assert "(99 %)" in capsys.readouterr().err


def test_an_exception_leaves_no_closing_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()

    def work() -> None:
        with Progress("work", total=10, clock=clock) as bar:
            clock.now += 3
            bar.advance(10)
            capsys.readouterr()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert capsys.readouterr().err == ""


def test_counts_of_many_threads_add_up_and_cost_little() -> None:
    started = time.perf_counter()
    with Progress("work") as bar:

        def work() -> None:
            for _ in range(25_000):
                bar.advance()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bar._done == 100_000
    assert time.perf_counter() - started < 2.0


def test_a_line_is_written_once_whatever_the_number_of_threads(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("work", clock=clock) as bar:
        clock.now += 3
        threads = [threading.Thread(target=bar.advance) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_bar_on_a_terminal(terminal: Terminal) -> None:
    clock = Clock()
    with Progress("[a] features", total=10570, unit="questions", clock=clock) as bar:
        for done in (2100, 4200):
            clock.now += 1
            bar.update(done=done, note="123.4 samples/s")
        bar._live.refresh()
        assert (
            "4,200 of 10,570 questions (40 %), 2,100 questions/s, 3 s left, 2 s elapsed, 123.4 samples/s"
        ) in screen(terminal)
        console.note("between")
        clock.now += 4
        bar.update(done=10570, note="")
    lines = screen(terminal).splitlines()
    assert "between" in [line.strip() for line in lines]
    assert lines[-1].startswith("[a] features ━━━")
    assert "10,570 questions (100 %), 1,762 questions/s, 6 s elapsed" in lines[-1]
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_bar_with_unknown_total_shows_no_time_left(terminal: Terminal) -> None:
    clock = Clock()
    with Progress("work", unit="samples", clock=clock) as bar:
        clock.now += 2
        bar.advance(500)
    assert "500 samples, 250 samples/s, 2 s elapsed" in screen(terminal)
    assert "left" not in screen(terminal)


def test_a_rate_is_not_guessed_from_an_instant(terminal: Terminal) -> None:
    clock = Clock()
    with Progress("work", total=10, clock=clock) as bar:
        clock.now += 0.1
        bar.advance()
        bar._live.refresh()
    assert "1 of 10 items (10 %), 0 s elapsed" in screen(terminal)


def test_stray_output_to_stderr_appears_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(console, "err", open_console("stderr"))
    with Progress("work", total=10):
        print("stray", file=sys.stderr)
    assert "stray" in [line.strip() for line in screen(stream).splitlines()]
    assert sys.stderr is stream


def test_results_on_the_same_terminal_appear_above_the_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    with Progress("work", total=10):
        console.out.print("a result")
        print("a print")
    lines = [line.strip() for line in screen(terminal).splitlines()]
    assert "a result" in lines
    assert "a print" in lines


def test_results_in_a_file_stay_there_while_a_bar_is_shown(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with Progress("work", total=10):
        console.out.print("a result")
        print("a print")
    assert sys.stdout.getvalue() == "a result\na print\n"
    assert "a result" not in screen(terminal)


def test_bar_stops_on_an_exception_and_shows_where(terminal: Terminal) -> None:
    stderr = sys.stderr
    clock = Clock()

    def work() -> None:
        with Progress("work", total=10, clock=clock) as bar:
            clock.now += 4
            bar.advance(4)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert screen(terminal).splitlines()[-1].endswith(" 4 of 10 items (40 %), 1.00 items/s, 4 s elapsed")
    assert sys.stderr is stderr
    assert "\x1b[?25h" in terminal.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_bar_fits_any_width(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    made = Console(file=terminal, force_terminal=True, width=width, soft_wrap=True)
    monkeypatch.setattr(console, "err", made)
    with Progress("a long description of the work", total=10_000_000) as bar:
        bar.advance(4_000_000)
    lines = [line for line in screen(terminal).splitlines() if line]
    assert max(map(len, lines)) <= width
    assert all(line.startswith("a") for line in lines)  # no frame takes a second line


def test_on_80_columns_the_time_left_is_seen(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Console(file=terminal, force_terminal=True, width=80, soft_wrap=True)
    monkeypatch.setattr(console, "err", made)
    facts = ("20,736 of 28,176 tokens (73 %)", "54 of 78 samples", "8,585 tokens/s", "22.4 samples/s")
    with Progress("LoadGen", total=28176, unit="tokens", clock=Clock()) as bar:
        bar.show(facts, done=0, fraction=0.7, left=1)
        bar._live.refresh()
        (line,) = {line for line in screen(terminal).splitlines() if "20,736 of 28,176" in line}
    assert line.startswith("LoadGen ━")
    assert line.rstrip().endswith("1 s left")


def test_a_forced_colour_does_not_put_a_bar_into_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=True))
    with Progress("work", total=10):
        pass
    assert stream.getvalue() == ""


WORK = """
import sys, time
from harness.terminal import console
from harness.terminal.progress import Progress
from harness.terminal.streams import open_console
{before}
now = 0.0
with Progress("work", total=9, clock=lambda: now) as bar:
    for _ in range(9):
        now += 3
        bar.advance()
        console.note("a note")
print("done")
"""


@pytest.mark.parametrize("before", ["sys.stderr.close()", "sys.stderr = None", ""])
def test_a_closed_stderr_ends_nothing(before: str) -> None:
    done = run(WORK.format(before=before))
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_stderr_whose_reader_left_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(WORK.format(before=""), stderr=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_table_that_is_piped_has_no_spaces_at_the_ends_of_lines(capsys):
    table = Table("name", "words", box=None, pad_edge=False)
    table.add_row("a", "long " * 40 + "line")
    table.add_row("b", "short")
    console.print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert [line.rstrip() for line in lines] == lines
