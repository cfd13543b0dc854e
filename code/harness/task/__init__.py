"""What a model implements: the contracts of a benchmark, of its SUT and of its QSL, and the shape of a batch."""
