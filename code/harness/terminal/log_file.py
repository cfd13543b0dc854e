"""The format of the file of --log-file: written by `harness.terminal.console`, and read back by `harness.api`."""

import logging
import re
from pathlib import Path


class _Formatter(logging.Formatter):
    """Adds the name of the logger to the messages of other libraries."""

    def format(self, record: logging.LogRecord) -> str:
        """One message, which may have several lines."""
        record.source = f"{record.processName}{'' if record.name == 'harness' else f' ({record.name})'}"
        return super().format(record)


FORMATTER = _Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(source)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
_BEGINNING = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} ([A-Z]+) [^:(\n]*(\([^)\n]*\))?: ")


def messages(path: Path, level: str) -> list[str]:
    """The harness's messages of a level, such as "WARNING", in order; each may have several lines; [] without a file.

    Raises:
        OSError: the file exists, but cannot be read.
    """
    if not path.exists():
        return []
    found: list[tuple[str, list[str]]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if beginning := _BEGINNING.match(line):
            from_library = beginning[2] is not None
            found.append(("" if from_library else beginning[1], [line[beginning.end() :]]))
        elif found:
            found[-1][1].append(line)
    return ["\n".join(lines).rstrip() for name, lines in found if name == level]
