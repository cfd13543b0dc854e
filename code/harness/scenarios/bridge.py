"""Temporary."""

from __future__ import annotations

from harness.registry import SCENARIOS
from harness.scenarios.base import find_scenario

RESULT_KEYS = {name: find_scenario(name).result for name in ("Offline", "Server", "SingleStream", "MultiStream")}
assert SCENARIOS
