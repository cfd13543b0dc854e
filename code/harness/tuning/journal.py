"""The measurements of a tuning on disk, so that an interrupted tuning can continue."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.host.files import write_text


class Journal:
    """Measurements by name, saved after each; those made under other circumstances are ignored."""

    def __init__(self, path: Path, circumstances: Mapping[str, Any], fresh: bool) -> None:
        """``circumstances`` are what the measurements depend on; ``fresh`` ignores saved measurements."""
        self.path = path
        self._circumstances = json.loads(json.dumps(circumstances, default=str))
        self.entries: dict[str, Any] = {}
        self.stale = False
        """Whether saved measurements are unreadable or were made under other circumstances."""
        if fresh or not path.exists():
            return
        try:
            saved = json.loads(path.read_text("utf-8"))
            if saved["circumstances"] == self._circumstances:
                self.entries = saved["entries"]
            else:
                self.stale = True
        except (OSError, ValueError, KeyError, TypeError):
            self.stale = True

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> Any:
        return self.entries[name]

    def __setitem__(self, name: str, value: Any) -> None:
        """Save a measurement.

        Raises:
            ConfigError: the file cannot be written.
        """
        self.entries[name] = value
        self.save()

    def save(self) -> None:
        """Write the file.

        Raises:
            ConfigError: it cannot be written.
        """
        text = json.dumps({"circumstances": self._circumstances, "entries": self.entries}, indent=1)
        write_text(self.path, text + "\n")

    def discard(self) -> None:
        """Remove the file: the tuning is complete."""
        self.path.unlink(missing_ok=True)
