"""Tasks of one's own data depend on (seed, t) alone."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from meta_batches import flat, same
from PIL import Image

from maml_tf import tasks
from maml_tf.cache import DataError


def own(**changes):
    """Ten classes of 5 to 14 examples, which say class and number."""
    sizes = np.arange(5, 15)
    y = np.repeat([f"class{c}" for c in range(10)], sizes)
    number = np.concatenate([np.arange(n) for n in sizes])
    x = np.stack([np.repeat(np.arange(10), sizes), number], 1)
    order = np.random.default_rng(0).permutation(len(y))
    options = {"ways": 4, "shots": 2, "queries": 3, **changes}
    return tasks.from_arrays(x[order].astype("float64"), y[order], **options)


def first(dataset, count=1):
    return [flat(element) for element in dataset.take(count)]


def test_own_tasks_have_different_classes_and_examples():
    for support_x, support_y, query_x, query_y in first(own(), 20):
        assert support_x.shape == (4, 8, 2) and query_x.shape == (4, 12, 2)
        assert support_x.dtype == np.float32
        for task in range(4):
            x = np.concatenate([support_x[task], query_x[task]])
            y = np.concatenate([support_y[task], query_y[task]])
            assert len({tuple(row) for row in x}) == 20
            by_label = [set(x[y == label, 0]) for label in range(4)]
            assert all(len(classes) == 1 for classes in by_label)
            assert len(set.union(*by_label)) == 4
            assert list(support_y[task]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_own_tasks_reach_every_class_and_example():
    seen = set()
    for element in first(own(), 200):
        seen |= {tuple(row) for x in element[::2] for row in x.reshape(-1, 2)}
    assert len(seen) == sum(range(5, 15))


def test_own_tasks_are_a_function_of_seed_and_t():
    whole = first(own(), 5)
    assert all(map(same, first(own(start=3), 2), whole[3:]))
    assert not same(first(own(seed=1))[0], whole[0])
    assert not same(whole[1], whole[0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ways": 11}, "11 different classes \\(ways\\).* 10 are"),
        ({"queries": 4}, "6 different examples.* 5 are available in class0"),
    ],
)
def test_own_data_that_are_too_few_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        own(**options)


def test_nothing_tunes_what_an_end_would_wait_for():
    followed = own().map(lambda x, y: (x, y)).take(3)
    assert followed.options().autotune.enabled is False


def test_several_inputs_stay_together():
    number = np.arange(12)
    x = {"one": number[:, None], "other": np.tile(number, (2, 3, 1)).T}
    dataset = tasks.from_arrays(
        x, number % 3, ways=2, shots=1, queries=2, meta_batch_size=3
    )
    for (support_x, support_y, query_x), _ in dataset.take(5):
        assert support_x["other"].shape == (3, 2, 3, 2)
        assert query_x["one"].shape == (3, 4, 1)
        for part in (support_x, query_x):
            assert np.all(part["other"] == part["one"][..., None])
        classes = support_x["one"][..., 0] % 3
        assert np.all(classes[:, 0] != classes[:, 1])
        assert np.all(support_y == [0, 1])


def test_lists_are_arrays():
    x = [[0.0, 1.0], [2.0, 3.0]]
    dataset = tasks.from_arrays(x * 2, [0, 1] * 2, ways=2, shots=1, queries=1)
    ((support_x, *_), _), *_ = dataset.take(1)
    assert support_x.shape == (4, 2, 2) and support_x.dtype == tf.float32


def test_integers_stay_integers():
    x, y = np.arange(12).reshape(12, 1), np.repeat([0, 1], 6)
    dataset = tasks.from_arrays(x, y, ways=2, shots=1, queries=1)
    assert dataset.element_spec[0][0].dtype == tf.int64


def test_tasks_of_a_directory(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / "mine" / "val" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, [9, 9, 3], "uint8")
            path = tmp_path / "mine" / "val" / name / f"{i}.png"
            Image.fromarray(pixels).save(path)
    dataset = tasks.from_directory(
        tmp_path / "mine",
        "validation",
        image_size=8,
        cache_dir=tmp_path / "cache",
        ways=2,
        shots=1,
        queries=2,
    )
    [(support_x, support_y, query_x, _)] = first(dataset)
    assert support_x.shape == (4, 2, 8, 8, 3) and query_x.shape[1] == 4
    assert support_x.dtype == np.float32 and 0.5 < support_x.max() <= 1
    np.testing.assert_array_equal(support_y[0], [0, 1])


def test_tasks_of_tensorflow_datasets(monkeypatch):
    x = np.full([6, 2, 2, 1], 255, np.uint8)
    y = np.repeat([0, 1], 3)

    def load(name, split, as_supervised):
        assert (name, split, as_supervised) == ("some_set", "test", True)
        return tf.data.Dataset.from_tensor_slices((x, y))

    monkeypatch.setattr(tfds, "load", load)
    dataset = tasks.from_tfds("some_set", "test", ways=2, shots=1, queries=2)
    [(support_x, *_)] = first(dataset)
    np.testing.assert_array_equal(support_x, np.ones([4, 2, 2, 2, 1]))


def test_tensorflow_datasets_of_many_shapes_are_refused(monkeypatch):
    def load(*_, **__):
        pairs = [(np.ones([n, 2, 1]), n) for n in (2, 3)]
        shapes = tf.TensorSpec([None, 2, 1]), tf.TensorSpec([], tf.int32)
        return tf.data.Dataset.from_generator(
            lambda: pairs, output_signature=shapes
        )

    monkeypatch.setattr(tfds, "load", load)
    with pytest.raises(ValueError, match="uneven: expected inputs of one sha"):
        tasks.from_tfds("uneven", ways=2, shots=1, queries=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i4", "u2", "f4", "f8"])
def test_the_order_of_bytes_changes_nothing(kind, order):
    x = np.arange(1, 11)[:, None]
    y = np.repeat([0, 1], 5)
    options = {"ways": 2, "shots": 1, "queries": 1}
    found, expected = (
        first(tasks.from_arrays(values, y, **options))[0][0]
        for values in (x.astype(order + kind), x)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", [1.5, "a", 2**70, None])
def test_seeds_are_integers(seed):
    with pytest.raises(ValueError, match="seed: expected an integer of 64"):
        own(seed=seed)
    with pytest.raises(ValueError, match="seed: expected an integer of 64"):
        tasks.from_function(lambda seed, t: None, seed=seed)


@pytest.mark.parametrize("kind", [float, object])
def test_a_label_that_is_missing_is_refused(kind):
    y = np.array([0.0] * 5 + [np.nan] * 5, kind)
    with pytest.raises(ValueError, match="a label for each example, found nan"):
        tasks.from_arrays(np.zeros([10, 1]), y, ways=1, shots=1, queries=1)


def test_tasks_of_a_function():
    def draw(seed, t):
        x = tf.random.stateless_uniform([2, 6, 1], [seed, t])
        return (x[:, :3], 2 * x[:, :3], x[:, 3:]), 2 * x[:, 3:]

    whole = first(tasks.from_function(draw, seed=5), 4)
    assert all(map(same, first(tasks.from_function(draw, 5, 2), 2), whole[2:]))
    assert not same(whole[0], whole[1])
    support_x, support_y, *_ = whole[0]
    np.testing.assert_array_equal(support_y, 2 * support_x)
