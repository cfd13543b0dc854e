"""Checks a submission as the official checkers do, and runs these."""
