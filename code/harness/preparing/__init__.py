"""Prepares a test, on this machine or on nodes, and hands it to LoadGen."""
