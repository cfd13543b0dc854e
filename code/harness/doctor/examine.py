"""`harness doctor`: finds what would block or slow a run here; each line is good, warning or bad, with a fix.

It must work with a broken or partial installation, so every check imports its modules when it runs, and a check that
fails becomes a line of the report.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

from harness.doctor import environment, folders, installation
from harness.errors import HarnessError, os_words
from harness.paths import CHECKOUT, ROOT
from harness.terminal import findings
from harness.terminal.findings import BAD, STYLES, WARNING, Finding

Check = tuple[str, Callable[[], Iterator[Finding]]]


def checks(official: bool = False, top: Path = ROOT, root: Path = Path("/")) -> list[Check]:
    """Every check with its subject; ``root`` contains proc and sys, ``top`` is the repository."""
    return [
        ("Python", installation.python),
        ("packages", partial(installation.packages, top) if CHECKOUT else installation.required),
        ("LoadGen", installation.loadgen),
        ("ONNX Runtime", installation.onnxruntime),
        ("OpenVINO", installation.openvino),
        ("DeepSparse", installation.deepsparse),
        ("instructions", partial(environment.instruction_sets, root, installation.has_deepsparse())),
        ("cores", partial(environment.cores, root)),
        ("NUMA", partial(environment.numa, root)),
        ("clock", partial(environment.clock, root)),
        ("memory", partial(environment.memory, root)),
        ("other processes", partial(environment.other_processes, root)),
        ("disk", partial(folders.disk, top)),
        ("folders", partial(folders.folders, top)),
        ("user.conf", partial(folders.user_conf, official)),
        ("models", folders.models),
        ("data sets", partial(folders.datasets, official)),
    ]


def look(wanted: list[Check], done: Callable[[], object] = lambda: None) -> list[Finding]:
    """Run the checks; ``done`` is called after each."""
    found: list[Finding] = []
    for subject, check in wanted:
        try:
            found += check()
        except ImportError as error:
            what = f"not checked: {error.name or 'a package'} is missing or incompatible; runs would fail too"
            found.append(Finding(BAD, subject, what, installation.RECREATE))
        except HarnessError as error:
            found.append(Finding(BAD, subject, str(error)))
        except Exception as error:  # noqa: BLE001  a check that fails must not prevent the others
            what = f"not checked ({type(error).__name__}: {error})"
            found.append(Finding(WARNING, subject, what))
        done()
    return found


def examine(official: bool = False, as_json: bool = False) -> int:
    """Run the checks and print the findings.

    Returns:
        1 if something blocks a run, else 0.
    """
    made = checks(official)
    with _progress(len(made)) as done:
        found = look(made, done)
    if as_json:
        _print("", json.dumps(findings.as_json(found), indent=2))
    else:
        for level, text in findings.lines(found):
            _print(level, text)
        _print("", findings.summary(found))
    return 1 if findings.blocked(found) else 0


def main() -> int:
    """`python -m harness.doctor [--official] [--json]`: the same as `harness doctor`, without any package."""
    import argparse

    parser = argparse.ArgumentParser("python -m harness.doctor", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--official", action="store_true", help="also fail on requirements of official runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    try:
        return examine(arguments.official, arguments.json)
    except KeyboardInterrupt:
        print("error: interrupted: nothing was changed.", file=sys.stderr)
        return 130
    except OSError as error:  # from stdout: errors within checks are findings
        if not isinstance(error, BrokenPipeError):
            print(f"error: {os_words(error)}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # flushing the rest of the buffer would fail again
        return 1


def _console() -> ModuleType | None:
    """The project's console; None if its packages are missing."""
    try:
        from harness.terminal import console
    except Exception:  # noqa: BLE001  whatever a wrong Python or a broken package raises
        return None
    return console


def _print(level: str, text: str) -> None:
    console = _console()
    if console is None:
        line = f"{level:7}  {text}" if level else text
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding))
        return
    from rich.text import Text

    console.out.print(Text.assemble((f"{level:7}  ", STYLES[level]), text) if level else Text(text))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], object]]:
    if _console() is None:
        yield lambda: None
        return
    from harness.terminal.progress import Progress

    with Progress("checking", total=total, unit="checks") as bar:
        yield bar.advance
