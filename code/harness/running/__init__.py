"""Runs a test: from settings and a prepared scenario to an outcome in its place."""
