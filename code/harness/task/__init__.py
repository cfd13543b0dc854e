"""The contracts that a model implements: benchmark, SUT, QSL and the shape of a batch."""
