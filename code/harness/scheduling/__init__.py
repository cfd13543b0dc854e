"""How the samples of a scenario become batches, and how batches reach the engine."""
