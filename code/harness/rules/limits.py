"""Sizes and durations that the rules fix for every benchmark."""

from __future__ import annotations

MIN_DURATION_MS = 600_000
"""The shortest test that counts (inference_policies, section "Scenarios")."""
KEPT = 4096
"""Bytes that a truncated accuracy log keeps of its beginning and of its end (the official truncate_accuracy_log.py)."""
CUT = b"\n\n...\n\n"
"""The text between them."""
LARGEST_ACCURACY_LOG = 10_240
"""Bytes of the largest accuracy log that a package may hold."""
LARGEST_FILE = 50 * 2**20
"""Bytes of the largest file that a submission may hold (the official checker)."""
