"""Engines, one per module; they know nothing of LoadGen, samples or models."""
