"""Engines: each module holds one, and knows nothing of LoadGen, samples or models."""
