"""Deals samples to nodes and merges their answers; each node schedules and computes its part."""
