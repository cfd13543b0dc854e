from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError, RunFailed
from harness.graph import Tensor
from harness.task.shape import Shape
from resnet50.interface import choose_layout
from resnet50.preprocess import PROFILES, SIDE, normaliser
from resnet50.qsl import IMAGES, ImageLayout, ImageQSL
from resnet50.sut import ResNet50SUT

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
NCHW, NHWC = (None, 3, SIDE, SIDE), (None, SIDE, SIDE, 3)


class Pictures:
    """Stands for the pixels on disk: every image has its own values."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(5)
        self.images = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        return self.images[index]


PICTURES = Pictures(12)


@pytest.fixture
def qsl():
    return ImageQSL(PICTURES, PROFILES["mlperf"], ImageLayout())


def graph(inputs=(("x", FLOAT, NCHW),), outputs=(("logits", FLOAT, (None, 1000)),), reshapes=False):
    return SimpleNamespace(
        name="fake",
        model=None,
        inputs=tuple(Tensor(*tensor) for tensor in inputs),
        outputs=tuple(Tensor(*tensor) for tensor in outputs),
        reshapes=reshapes,
        fixed_shapes=False,
    )


def normalised(index: int) -> np.ndarray:
    out = np.empty((SIDE, SIDE, 3), np.float32)
    normaliser(PROFILES["mlperf"])(PICTURES.read(index), out)
    return out


def labels_of(responses) -> list[float]:
    return [
        np.frombuffer(responses.buffer.tobytes()[offset : offset + size], np.float32).tolist()
        for offset, size in zip(responses.offsets, responses.sizes, strict=True)
    ]


@pytest.mark.parametrize(("dims", "axes"), [(NCHW, (2, 0, 1)), (NHWC, (0, 1, 2))])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_images_come_in_the_layout_and_type_of_the_graph(dims, axes, dtype):
    engine = graph([("picture", np.dtype(dtype), dims)])
    qsl = ImageQSL(PICTURES, PROFILES["mlperf"], choose_layout(engine.inputs))
    qsl.load([7, 2, 3])
    sut = ResNet50SUT(engine, qsl)
    fed = sut.feed(qsl.collate(np.array([3, 7]), Shape(3, 1)))
    assert list(fed) == ["picture"]
    assert fed["picture"].dtype == dtype
    assert fed["picture"].shape == (3, *dims[1:]) == sut.signature(Shape(3, 1)).inputs["picture"]
    for row, index in enumerate((3, 7)):
        image = PICTURES.read(index) if dtype == np.uint8 else normalised(index).astype(dtype)
        assert np.array_equal(fed["picture"][row], image.transpose(axes))
    assert not fed["picture"][2].any()


def test_a_sut_of_another_graph_is_refused_and_leaves_the_loaded_images(qsl):
    qsl.load([1, 2])
    with pytest.raises(ConfigError, match=r"the images are held as .*, but fake takes x uint8"):
        ResNet50SUT(graph([("x", np.dtype(np.uint8), NHWC)]), qsl)
    ResNet50SUT(graph(), qsl)
    assert qsl.loaded == 2


def test_neighbours_in_memory_are_a_batch_without_a_copy(qsl):
    qsl.load([1, 4, 5, 8])
    batch = qsl.collate(np.array([4, 5, 8]), Shape(3, 1))[IMAGES]
    assert batch.base is not None
    for row, index in enumerate((4, 5, 8)):
        assert np.array_equal(batch[row], normalised(index).transpose(2, 0, 1))
    onwards = qsl.collate(np.array([5, 8, 1]), Shape(3, 1))[IMAGES]
    assert np.shares_memory(onwards, batch)
    for row, index in enumerate((5, 8, 1)):
        assert np.array_equal(onwards[row], normalised(index).transpose(2, 0, 1))
    with pytest.raises(ValueError, match="read-only"):
        batch[...] = 0
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        batch.flags.writeable = True
    other = qsl.collate(np.array([8, 5, 4]), Shape(3, 1))[IMAGES]
    assert not np.shares_memory(other, batch)
    assert np.array_equal(other, batch[::-1])


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("pixels", [True, False])
def test_images_travel_as_pixels_or_tensors_and_arrive_as_they_were(channels_first, dtype, pixels):
    layout = ImageLayout(np.dtype(dtype), channels_first)
    own, driver = (ImageQSL(PICTURES, PROFILES["mlperf"], layout) for _ in range(2))
    own.load(range(12))
    if pixels:
        driver.hold_as_sent()
    driver.load(range(12))
    indices, places = np.array([7, 2, 7]), np.array([0, 3, 4])
    packed = driver.pack(indices)
    bytes_each = SIDE * SIDE * 3 * (1 if pixels else np.dtype(dtype).itemsize)
    assert sum(array.nbytes for array in packed.values()) == 3 * bytes_each
    carrier = own.carrier(4)
    carrier.put(np.array([3, 1]), driver.pack(np.array([1, 4])))
    carrier.grow(6)
    carrier.put(places, packed)
    for chosen in ([0, 1, 2], [1, 2], [2, 0]):
        shape = Shape(3, 1)
        found = carrier.collate(places[chosen], shape)[IMAGES]
        assert np.array_equal(found, own.collate(indices[chosen], shape)[IMAGES])
    assert np.array_equal(
        carrier.collate(np.array([1]), Shape(1, 1))[IMAGES], own.collate(np.array([4]), Shape(1, 1))[IMAGES]
    )
    with pytest.raises(RunFailed, match="is not loaded"):
        carrier.collate(np.array([5]), Shape(1, 1))


def test_many_images_are_normalised_by_several_threads_each_in_its_place(monkeypatch, qsl):
    monkeypatch.setattr("resnet50.qsl.core_count", lambda: 3)
    qsl.load(range(12))
    driver = ImageQSL(PICTURES, PROFILES["mlperf"], ImageLayout())
    driver.hold_as_sent()
    driver.load(range(12))
    carrier, indices = qsl.carrier(20), np.array([5, 0, 3, 3, 11, 7, 2, 1, 9, 8, 4, 6, 10, 0])
    places = np.random.default_rng(0).permutation(20)[: len(indices)]
    carrier.put(places, driver.pack(indices))
    assert len(carrier._pool._threads) > 1
    shape = Shape(len(indices), 1)
    assert np.array_equal(carrier.collate(places, shape)[IMAGES], qsl.collate(indices, shape)[IMAGES])


def test_images_side_by_side_travel_without_a_copy(qsl):
    qsl.hold_as_sent()
    qsl.load([1, 4, 5, 8])
    (together,), (apart,) = (qsl.pack(np.array(chosen)).values() for chosen in ([4, 5], [4, 8]))
    assert together.base is not None
    assert np.array_equal(together[1], PICTURES.read(5))
    assert np.array_equal(apart[1], PICTURES.read(8))
    with pytest.raises(RunFailed, match="sample 2 was issued but is not loaded"):
        qsl.pack(np.array([1, 2]))


def test_the_last_place_and_the_first_are_not_side_by_side(qsl):
    qsl.load(range(12))
    carrier = qsl.carrier(4)
    carrier.put(np.arange(4), qsl.pack(np.array([1, 4, 5, 8])))
    found = carrier.collate(np.array([3, 0]), Shape(2, 1))[IMAGES]
    assert np.array_equal(found, qsl.collate(np.array([8, 1]), Shape(2, 1))[IMAGES])


@given(st.lists(st.integers(0, 11), max_size=60))
def test_a_query_is_arranged_so_that_batches_lie_side_by_side(indices):
    indices = np.array(indices, dtype=np.int64)
    order = ImageQSL(PICTURES, PROFILES["mlperf"], ImageLayout()).arrange(indices)
    assert sorted(order.tolist()) == list(range(len(indices)))
    arranged = indices[order]
    # Every image once in ascending order, then those that come again, and so on: one descent for each repetition.
    most = max(np.bincount(indices).max(initial=0), 1)
    assert (np.diff(arranged) <= 0).sum() == most - 1


def test_only_what_is_loaded_is_in_memory(qsl):
    qsl.load([1, 2, 5])
    assert (qsl.loaded, len(qsl._images)) == (3, 6)  # a few stand there twice
    qsl.unload([2])
    assert (qsl.loaded, len(qsl._images)) == (2, 4)
    qsl.collate(np.array([1, 5]), Shape(2, 1))
    with pytest.raises(RunFailed, match="sample 2 was issued but is not loaded"):
        qsl.collate(np.array([1, 2]), Shape(2, 1))
    qsl.unload([1, 5])
    assert qsl._images.nbytes == 0


def test_at_most_1024_images_are_loaded_at_once():
    many = ImageQSL(range(50_000), PROFILES["mlperf"], ImageLayout())
    assert (many.count, many.performance_count) == (50_000, 1024)


@pytest.mark.parametrize(
    ("outputs", "made", "expected"),
    [
        ([("logits", FLOAT, (None, 1000))], {0: 0, 1: 999}, [0.0, 999.0]),
        ([("probabilities", FLOAT, (None, 1001))], {0: 1, 1: 1000}, [0.0, 999.0]),
        ([("probabilities", FLOAT, (None, 1001))], {0: 0, 1: 500}, [-1.0, 499.0]),
    ],
)
def test_the_label_of_the_largest_output_is_answered(qsl, outputs, made, expected):
    sut = ResNet50SUT(graph(outputs=outputs), qsl)
    values = np.zeros((3, outputs[0][2][1]), np.float32)
    for row, column in made.items():
        values[row, column] = 9
    assert labels_of(sut.encode([values], np.array([4, 2]))) == [[label] for label in expected]


def test_an_arg_max_is_taken_before_values_and_its_classes_determine_the_offset(qsl):
    outputs = [("softmax_tensor:0", FLOAT, (None, 1001)), ("ArgMax:0", INT, (None,))]
    sut = ResNet50SUT(graph(outputs=outputs), qsl)
    assert sut.signature(Shape(2, 1)).outputs == {"ArgMax:0": (2,)}
    assert labels_of(sut.encode([np.array([66, 1])], np.array([0, 1]))) == [[65.0], [0.0]]


def test_an_arg_max_alone_leaves_its_classes_unknown(qsl):
    alone = graph(outputs=[("ArgMax:0", INT, (None,))])
    with pytest.raises(ConfigError, match=r"--set label_offset=1"):
        ResNet50SUT(alone, qsl)
    assert labels_of(ResNet50SUT(alone, qsl, 1).encode([np.array([66])], np.array([0]))) == [[65.0]]
    assert labels_of(ResNet50SUT(alone, qsl, 0).encode([np.array([66])], np.array([0]))) == [[66.0]]


@pytest.mark.parametrize(
    ("dims", "dtype", "values"),
    [
        ((None, 1, 1, 1000), FLOAT, np.eye(1000, dtype=np.float32)[[66, 1]].reshape(2, 1, 1, 1000)),
        ((None, 1000, 1, 1), FLOAT, np.eye(1000, dtype=np.float32)[[66, 1]].reshape(2, 1000, 1, 1)),
        ((None, 1), INT, np.array([[66], [1]])),
        ((None,), np.dtype(np.int32), np.array([66, 1], np.int32)),
    ],
)
def test_axes_of_one_do_not_matter(qsl, dims, dtype, values):
    sut = ResNet50SUT(graph(outputs=[("y", dtype, dims)]), qsl, 0)
    assert sut.signature(Shape(2, 1)).outputs == {"y": values.shape}
    assert labels_of(sut.encode([values], np.array([0, 1]))) == [[66.0], [1.0]]


@pytest.mark.parametrize(("offset", "classes"), [(None, 1000), (0, 1000), (1, 1001)])
def test_an_engine_without_a_graph_takes_any_offset(qsl, offset, classes):
    sut = ResNet50SUT(graph(inputs=(), outputs=()), qsl, offset)
    assert sut.signature(Shape(2, 1)).outputs == {"logits": (2, classes)}


@pytest.mark.parametrize(("classes", "offset"), [(1000, 1), (1001, 0)])
def test_an_offset_that_the_classes_contradict_is_refused(qsl, classes, offset):
    with pytest.raises(ConfigError, match=f"label_offset is {offset}, .*{classes} classes"):
        ResNet50SUT(graph(outputs=[("y", FLOAT, (None, classes))]), qsl, offset)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": [("ids", INT, (None, 384))]}, r"not an image classifier: its inputs are ids int64 \(\?, 384\)"),
        ({"inputs": [("x", FLOAT, (None, 3, 299, 299))]}, r"\(\?, 3, 299, 299\)"),
        ({"inputs": [("x", FLOAT, NCHW), ("y", FLOAT, NCHW)]}, "y float32"),
        ({"outputs": [("features", FLOAT, (None, 2048))]}, r"not an ImageNet .*its outputs are features .*2048"),
        ({"outputs": [("features", FLOAT, (None, 2048, 7, 7)), ("p", FLOAT, (None, None))]}, r"p float32 \(\?, \?\)"),
        ({"outputs": [("top5", INT, (None, 5))]}, r"its outputs are top5 int64"),
    ],
)
def test_a_graph_of_another_model_is_refused_with_what_it_has(qsl, changes, message):
    with pytest.raises(ConfigError, match=message):
        ResNet50SUT(graph(**changes), qsl)


def test_a_batch_that_the_graph_fixes_binds_only_an_engine_that_cannot_change_it(qsl):
    fixed = [("x", FLOAT, (8, 3, SIDE, SIDE))]
    assert ResNet50SUT(graph(fixed), qsl).static == Shape(8, 0)
    assert ResNet50SUT(graph(fixed, reshapes=True), qsl).static == Shape(0, 0)
    assert ResNet50SUT(graph(), qsl).static == Shape(0, 0)
