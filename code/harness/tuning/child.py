"""A measurement of a tuning in a process of its own: a crash of one setting does not end the tuning."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from harness.files.disk import native, staging
from harness.host.supervise import Heartbeat, supervised, was_interrupted
from harness.preparing.prepared import Preparation, Prepared
from harness.preparing.ready import get_ready
from harness.settings.run import RunSettings
from harness.terminal import console
from harness.terminal.streams import native_output_dropped

_Kind = TypeVar("_Kind", bound=BaseModel)


def in_child(
    kind: type[_Kind], beside: Path, work: Callable[..., int], settings: RunSettings, *args: object
) -> _Kind | None:
    """What ``work(settings, *args, result, heartbeat)``, run in a child process, writes to ``result``.

    None if it failed and printed why. Its files are in a folder next to the file ``beside``, the journal, so that the
    next tuning removes those of a killed one.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    with staging(beside) as folder:
        result = folder / "result.json"
        code = supervised(work, settings, *args, result, cleanup=lambda: None).code
        if was_interrupted(code):
            raise KeyboardInterrupt
        return kind.model_validate_json(result.read_bytes()) if code == 0 and result.exists() else None


def get_quietly_ready(settings: RunSettings, result: Path, heartbeat: Heartbeat) -> Prepared:
    """A test prepared in the child process that writes ``result``, without the output of the engine."""
    tempfile.tempdir = str(native(result.parent))  # this process may be killed: the parent removes its files
    with native_output_dropped(not console.output().verbose):
        # All shapes, as in an official run, for which settings are tuned. The search itself tries numbers of streams.
        how = Preparation(heartbeat.beat, quiet=True, compile_seconds=math.inf, choose_streams=False)
        return get_ready(settings, how)
