"""Sizes and durations that the rules fix for every benchmark."""

from __future__ import annotations

MIN_DURATION_MS = 600_000
"""The minimum duration of a test that counts (inference_policies, section "Scenarios")."""
KEPT_BYTES = 4096
"""Bytes that a truncated accuracy log keeps at its beginning and at its end (the official truncate_accuracy_log.py)."""
CUT_MARK = b"\n\n...\n\n"
"""The text between the two parts."""
LARGEST_ACCURACY_LOG = 10_240
"""Maximum bytes of an accuracy log in a package."""
LARGEST_FILE = 50 * 2**20
"""Maximum bytes of a file in a submission (the official checker)."""
