"""Leaves out of a lock file the packages that another one pins: python tools/only_new.py RESOLVED PINNED OUTPUT."""

import re
import sys
from pathlib import Path

_NAME = re.compile(r"^([a-z0-9._-]+)==", re.MULTILINE)
_NOTE = "# The packages that this extra needs and requirements.lock lacks; installed without dependencies.\n"


def only_new(resolved: str, pinned: str) -> str:
    """The entries of ``resolved``, with their hashes, whose packages ``pinned`` does not name."""
    entries = re.split(r"^(?=[a-z0-9._-]+==)", resolved, flags=re.MULTILINE)
    known = set(_NAME.findall(pinned))
    return _NOTE + "".join(each for each in entries if (name := _NAME.match(each)) and name[1] not in known)


if __name__ == "__main__":
    source, other, target = map(Path, sys.argv[1:])
    target.write_text(only_new(source.read_text("utf-8"), other.read_text("utf-8")), "utf-8")
