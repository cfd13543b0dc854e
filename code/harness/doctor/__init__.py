"""Finds what would block or slow a run on this machine; the checks need only the standard library."""
