"""Verification of the compliance tests of the closed division from their logs."""
