from __future__ import annotations

from harness.scenarios.base import BatchFacts, StreamChoice
from harness.task.shape import Shape


def test_the_words_about_batches_name_shapes_their_times_and_the_streams():
    shapes = [Shape(1, 8), Shape(4, 384)]
    assert BatchFacts(shapes).words == "1 x 8, 4 x 384"
    assert BatchFacts(shapes, seconds={shapes[1]: 0.25}).words == "1 x 8, 4 x 384 in 0.25 s"
    chosen = StreamChoice(2, "a sample takes 9 ms")
    assert BatchFacts(shapes[:1], streams=chosen).words == "streams 2, since a sample takes 9 ms; 1 x 8"
    assert BatchFacts().words == "of any shape"
