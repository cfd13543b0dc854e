"""Runs a test: from settings through a prepared scenario to an outcome in its place."""
