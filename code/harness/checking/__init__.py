"""Checks a submission by the rules of the official checkers, and runs those checkers."""
