"""The project's own folders: those of a checkout; for an installed package, a folder in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

CODE = Path(__file__).resolve().parents[1]
"""The folder of the Python packages: code/ of a checkout, or site-packages."""
CHECKOUT = CODE.name == "code"
"""Whether this is a checkout of the repository, not an installed package."""


def user_cache() -> Path:
    """The folder of an installed package's files: in $XDG_CACHE_HOME, else ~/.cache (XDG Base Directory Specification).

    For a user without a home folder, as in some containers, it is in the current folder.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification requires that a relative path is ignored.
    base = given if given.startswith("/") else os.path.expanduser("~/.cache")  # noqa: PTH111  never raises
    return Path(base if base.startswith("/") else Path.cwd() / ".cache") / "mlperf-cpu-harness"


ROOT = CODE.parent if CHECKOUT else user_cache()
"""The root of the submission: this repository; for an installed package, the folder of everything that it writes."""
DATA_DIR = ROOT / "build" / "data"
CACHE_DIR = ROOT / "build" / "cache"
MODELS_DIR = ROOT / "build" / "models"
"""Fetched models as NAME.onnx with their record NAME.json, and built models under other names."""


def advice(make: str, otherwise: str) -> str:
    """The advice for a message: ``make`` in a checkout, ``otherwise`` without one."""
    return make if CHECKOUT else otherwise


SETUP = advice("run `make setup`", "install the harness's wheel again with `pip install --force-reinstall`")
"""The fix for an incomplete installation."""
DATA = advice("`make data`", "`harness data fetch`")
"""The command that fetches the full data set."""
