"""Tasks are the originals' own, and meta-batch t depends on (seed, t) only."""

import hashlib
import json
import random

import numpy as np
import pytest
import tensorflow as tf
from meta_batches import flat, same

from maml_tf import omniglot, samplers, sinusoids, tasks

CLASSES = [4, 1, 6, 3, 0]
PER_CLASS = 6
WAYS, SLOTS, SHOTS, BATCH = 3, 5, 2, 4
LENGTH = 7  # tasks in the list; not a multiple of the meta-batch
ARGUMENTS = {
    "starts": [PER_CLASS * c for c in CLASSES],
    "sizes": [PER_CLASS] * len(CLASSES),
    "length": LENGTH,
    "ways": WAYS,
    "images": SLOTS,
    "seed": 5,
}
IMAGES = np.random.RandomState(0).randint(
    256, size=(7 * PER_CLASS, 3, 3, 2), dtype=np.uint8
)
# Every image in each of its rotations is different.
ORIGINS = {
    np.rot90(image, turns).tobytes(): (index, turns)
    for index, image in enumerate(IMAGES)
    for turns in range(4)
}


def task_list(**changes):
    return samplers.draw_task_list(**{**ARGUMENTS, **changes})


def image_sampler(seed=0):
    return samplers.image_sampler(
        IMAGES,
        task_list(),
        meta_batch_size=BATCH,
        shots=SHOTS,
        seed=seed,
        rotate=True,
    )


def sinusoid_sampler(seed=0):
    return sinusoids.sinusoid_sampler(
        meta_batch_size=BATCH, shots=SHOTS, seed=seed
    )


def at(sampler, t):
    return flat(sampler(tf.constant(t, tf.int64)))


def drawn(t):
    """Image, quarter turns and label of each example of meta-batch t.

    Returns:
      Three arrays `[B, M, N]`: tasks, image slots, places in the slot.
    """
    support_x, support_y, query_x, query_y = at(image_sampler(), t)
    x = np.concatenate([support_x, query_x], 1).astype(np.uint8)
    origins = [ORIGINS[image.tobytes()] for image in x.reshape(-1, 3, 3, 2)]
    index, turns = np.transpose(origins).reshape(2, BATCH, SLOTS, WAYS)
    labels = np.concatenate([support_y, query_y], 1)
    return index, turns, labels.reshape(index.shape)


# Sinusoids


def test_sinusoids_are_the_originals_while_training(golden):
    reference = golden("sinusoid_generator")
    rng = np.random.RandomState(int(reference["train_seed"]))
    for key in ("train", "train2"):
        stack = sinusoids.draw_sinusoids(rng, 25, 20)
        for name, ours in stack._asdict().items():
            short = {"amplitude": "amp"}.get(name, name)
            theirs = reference[f"{key}_{short}"]
            # NumPy's sine differs between processors in the last bit.
            rtol = 1e-12 if name == "y" else 0
            np.testing.assert_allclose(ours[: len(theirs)], theirs, rtol=rtol)


@pytest.mark.parametrize("shots", [5, 10])
def test_sinusoids_are_the_originals_in_tests(shots, golden):
    reference = golden("sinusoid_generator")
    rng = np.random.RandomState(1)
    draws = [sinusoids.draw_sinusoids(rng, 1, 2 * shots) for _ in range(600)]
    x = np.concatenate([draw.x for draw in draws])
    y = np.concatenate([draw.y for draw in draws])
    theirs = reference[f"test_K{shots}_sha256_x"]
    assert hashlib.sha256(x.tobytes()).hexdigest() == theirs
    sum_y = reference[f"test_K{shots}_sum_y"]
    np.testing.assert_allclose(y.sum(), sum_y, rtol=1e-12)
    theirs = reference[f"test_K{shots}_y"]
    np.testing.assert_allclose(y[:5], theirs, rtol=1e-12)
    ours = sinusoids.sinusoid_test_tasks(600, shots)
    np.testing.assert_array_equal(ours.x, x.astype(np.float32))
    np.testing.assert_array_equal(ours.y, y.astype(np.float32))
    np.testing.assert_array_equal(
        ours.amplitude[:5], np.float32(reference[f"test_K{shots}_amp"])
    )


def test_sinusoid_test_tasks_are_float32_and_prefixes():
    few, many = (sinusoids.sinusoid_test_tasks(n, SHOTS) for n in (3, 5))
    assert [field.shape for field in few] == [(3, 4, 1)] * 2 + [(3,)] * 2
    assert {field.dtype for field in few} == {np.dtype(np.float32)}
    assert same(few, [field[:3] for field in many])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: sinusoids.draw_sinusoids(np.random.RandomState(0), 4000, 3),
        lambda: sinusoids.sinusoids_at(0, 0, 4000, 3),
    ],
)
def test_sinusoids_fill_their_ranges(draw):
    x, y, amplitude, phase = map(np.asarray, draw())
    for values, (low, high) in (
        (x, (-5, 5)),
        (amplitude, (0.1, 5)),
        (phase, (0, np.pi)),
    ):
        assert low <= values.min() and values.max() <= high
        # Uniform: mean in the middle, to 6 of its standard errors.
        error = (high - low) / np.sqrt(12 * values.size)
        assert abs(values.mean() - (low + high) / 2) < 6 * error
        assert np.ptp(values) > 0.99 * (high - low)
    columns = np.stack([amplitude, phase, x[:, 0, 0], x[:, 1, 0]])
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 6 / np.sqrt(4000)
    amplitude, phase = amplitude[:, None, None], phase[:, None, None]
    np.testing.assert_allclose(y, amplitude * np.sin(x - phase), atol=1e-5)


def test_support_set_comes_first():
    stack = sinusoids.sinusoids_at(0, 0, BATCH, 2 * SHOTS)
    (support_x, support_y, query_x), query_y = sinusoids.split_regression(
        stack, SHOTS
    )
    whole = [np.concatenate([support_x, query_x], 1)]
    whole += [np.concatenate([support_y, query_y], 1)]
    assert same(whole, stack[:2])
    assert support_x.shape == query_x.shape == (BATCH, SHOTS, 1)


def test_the_oracle_alone_sees_amplitude_and_phase():
    stack = sinusoids.sinusoids_at(0, 0, BATCH, 2 * SHOTS)
    plain = flat(sinusoids.split_regression(stack, SHOTS))
    oracle = flat(sinusoids.split_regression(stack, SHOTS, oracle=True))
    assert [part.shape[-1] for part in plain] == [1, 1, 1, 1]
    assert [part.shape[-1] for part in oracle] == [3, 1, 3, 1]
    assert same(plain, [part[..., :1] for part in oracle])
    for inputs in oracle[0], oracle[2]:
        for column, field in ((1, "amplitude"), (2, "phase")):
            values = getattr(stack, field).numpy()[:, None]
            assert (inputs[..., column] == values).all()


def test_oracle_sampler_adds_to_the_same_tasks():
    samplers = [
        sinusoids.sinusoid_sampler(
            meta_batch_size=BATCH, shots=SHOTS, seed=3, oracle=oracle
        )
        for oracle in (False, True)
    ]
    plain, oracle = (at(sampler, 2) for sampler in samplers)
    assert oracle[0].shape == (BATCH, SHOTS, 3)
    assert same(plain, [part[..., :1] for part in oracle])


# Meta-batch t is a function of (seed, t)


@pytest.fixture(params=[image_sampler, sinusoid_sampler])
def make_sampler(request):
    return request.param


def test_meta_batch_depends_on_seed_and_t(make_sampler):
    batch = at(make_sampler(), 3)
    assert same(batch, at(make_sampler(), 3))
    # After LENGTH meta-batches the very same images come again.
    assert not same(batch, at(make_sampler(), 3 + LENGTH))
    assert not same(batch, at(make_sampler(seed=1), 3))


def test_meta_batches_can_start_anywhere(make_sampler):
    sampler = make_sampler()
    batches = list(map(flat, tasks.meta_batches(sampler).take(5)))
    for t, batch in enumerate(batches):
        assert same(batch, at(sampler, t))
    later = tasks.meta_batches(make_sampler(), start=2).take(3)
    for batch, other in zip(batches[2:], map(flat, later), strict=True):
        assert same(batch, other)


def test_random_state_outside_does_not_matter(make_sampler):
    tf.random.set_seed(1)
    batch = at(make_sampler(), 3)
    tf.random.set_seed(2)
    np.random.seed(2)
    random.seed(2)
    assert same(batch, at(make_sampler(), 3))


def test_meta_batches_do_not_change_between_versions():
    """A run that was begun must be able to go on."""
    _, turns, labels = drawn(3)
    orders = [[2, 1, 0], [1, 0, 2], [0, 1, 2], [1, 2, 0], [0, 1, 2]]
    assert labels[0].tolist() == orders
    rotations = [[1, 3, 1], [2, 3, 1], [3, 3, 3], [3, 0, 3]]
    assert turns[:, 0].tolist() == rotations
    x = at(sinusoid_sampler(), 3)[0]
    np.testing.assert_allclose(x[0].ravel(), [2.6408587, 1.7357121], rtol=1e-6)


# Images


def test_shapes_and_types():
    support_x, support_y, query_x, query_y = at(image_sampler(), 0)
    queries = SLOTS - SHOTS
    assert support_x.shape == (BATCH, WAYS * SHOTS, 3, 3, 2)
    assert query_x.shape == (BATCH, WAYS * queries, 3, 3, 2)
    assert support_y.shape == (BATCH, WAYS * SHOTS)
    assert query_y.shape == (BATCH, WAYS * queries)
    assert support_x.dtype == query_x.dtype == np.float32
    assert support_y.dtype == query_y.dtype == np.int32


@pytest.mark.parametrize("t", [0, 1, 2, 1000])
def test_tasks_are_those_of_the_list_again_and_again(t):
    index, _, labels = drawn(t)
    rows = task_list()[np.arange(t * BATCH, (t + 1) * BATCH) % LENGTH]
    # Label n in slot s is the image [n, s] of the task.
    expected = np.take_along_axis(rows.swapaxes(1, 2), labels, 2)
    np.testing.assert_array_equal(index, expected)


def test_each_class_appears_once_in_each_slot():
    for t in range(5):
        _, _, labels = drawn(t)
        assert (np.sort(labels) == np.arange(WAYS)).all()


def test_slots_have_orders_of_their_own():
    orders = np.concatenate([drawn(t)[2] for t in range(20)])
    assert len(np.unique(orders.reshape(-1, WAYS), axis=0)) == 6  # 3!
    assert (orders[:, :1] != orders[:, 1:]).any(axis=(0, 2)).all()


def test_labels_belong_to_images():
    index, _, labels = drawn(0)
    for images, names in zip(index // PER_CLASS, labels, strict=True):
        pairs = set(zip(images.ravel(), names.ravel(), strict=True))
        assert len(pairs) == len(set(names.ravel())) == WAYS


def test_support_and_query_never_share_an_image():
    for t in range(5):
        index, _, _ = drawn(t)
        for task in index.reshape(BATCH, -1):
            assert len(set(task)) == WAYS * SLOTS


def test_a_class_has_one_rotation_in_a_task():
    found = set()
    for t in range(10):
        _, turns, labels = drawn(t)
        by_class = np.take_along_axis(turns, labels.argsort(), 2)
        assert (by_class == by_class[:, :1]).all()
        found |= {tuple(task[0]) for task in by_class}
    # Drawn for each class and task, and all four of them.
    assert set(np.ravel(list(found))) == {0, 1, 2, 3}
    assert any(len(set(turns)) == WAYS for turns in found)


def test_task_list_is_that_of_pythons_generator():
    chosen = task_list()
    assert chosen.shape == (LENGTH, WAYS, SLOTS)
    rng = random.Random(5)
    classes = rng.sample(CLASSES, WAYS)
    rng.shuffle(classes)
    for row, label in zip(chosen[0], classes, strict=True):
        picked = rng.sample(range(PER_CLASS), SLOTS)
        assert row.tolist() == [label * PER_CLASS + i for i in picked]


def test_task_list_is_longer_without_change():
    longer = task_list(length=2 * LENGTH)
    np.testing.assert_array_equal(longer[:LENGTH], task_list())
    assert (task_list(seed=6) != task_list()).any()


# Kept task lists


def cached(folder, **changes):
    drawing = {**ARGUMENTS, **changes}.values()
    return samplers.cached_task_list(folder, *drawing)


CHANGES = [
    {"starts": [PER_CLASS * c for c in CLASSES[::-1]]},
    {"sizes": [7] * len(CLASSES)},
    {"length": 8},
    {"ways": 2},
    {"images": 4},
    {"seed": 6},
]


def test_cached_lists_are_drawn_once_each(tmp_path, monkeypatch):
    for changes in [{}, *CHANGES]:
        expected = task_list(**changes)
        np.testing.assert_array_equal(cached(tmp_path, **changes), expected)
    assert len(list(tmp_path.iterdir())) == 1 + len(CHANGES)
    expected = task_list()
    monkeypatch.setattr(samplers, "draw_task_list", None)
    np.testing.assert_array_equal(cached(tmp_path), expected)


@pytest.mark.parametrize(
    "last, dtype", [(255, np.uint8), (256, np.uint16), (32459, np.uint16)]
)
def test_cached_lists_are_small(last, dtype, tmp_path):
    found = cached(tmp_path, starts=[last], sizes=[1], ways=1, images=1)
    assert found.dtype == dtype
    assert (found == last).all()


def test_cached_list_gives_the_same_meta_batches(tmp_path):
    for dtype in (np.uint8, np.uint16, np.int32, np.int64):
        sampler = samplers.image_sampler(
            IMAGES,
            cached(tmp_path).astype(dtype),
            meta_batch_size=BATCH,
            shots=SHOTS,
            seed=0,
            rotate=True,
        )
        assert same(at(sampler, 3), at(image_sampler(), 3))


# The originals' lists of Omniglot


@pytest.mark.parametrize(
    "part, length, seed", [("train", 200_000, 5), ("val", 600, 6)]
)
def test_omniglot_tasks_are_the_originals(
    part, length, seed, real_data, real_cache
):
    path = real_data.parent / "golden" / "maml_omniglot_sampling.json"
    golden = json.loads(path.read_text())
    data = omniglot.load_omniglot(real_data, real_cache)
    split = omniglot.split_omniglot(data.names)
    classes = {"train": split.train, "val": split.validation}[part]
    starts, sizes = data.starts[classes], data.sizes[classes]
    ours = samplers.draw_task_list(starts, sizes, length, 5, 2, seed)
    names = [
        f"{name}/{file}"
        for name, group in zip(data.names, data.files, strict=True)
        for file in group
    ]
    listed = "\n".join(names[i] for i in ours.ravel())
    digest = hashlib.sha256(listed.encode()).hexdigest()
    assert ours.size == golden[f"{part}_num_filenames"]
    assert digest == golden[f"{part}_filenames_sha256"]


SIZES = np.array([4, 4, 3, 4, 2, 4])


def labelled_images():
    """Each image says in two of its pixels which one it is."""
    images = np.zeros((SIZES.sum(), 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = np.repeat(np.arange(1, 7), SIZES)
    images[:, 1, 1, 0] = np.concatenate([np.arange(1, n + 1) for n in SIZES])
    return images


def class_tasks(t, **options):
    settings = {"ways": 3, "shots": 2, "meta_batch_size": 50, "seed": 0}
    starts = SIZES.cumsum() - SIZES
    sampler = samplers.class_sampler(
        labelled_images(), starts, SIZES, **settings, **options
    )
    x, y = sampler(tf.constant(t, tf.int64))
    return x.numpy(), y.numpy()


def test_classes_and_images_of_a_task_are_different():
    x, y = class_tasks(0)
    assert x.shape == (50, 6, 2, 2, 1)
    np.testing.assert_array_equal(y, [[0, 0, 1, 1, 2, 2]] * 50)
    for task in x:
        classes, images = task[:, 0, 0, 0], task[:, 1, 1, 0]
        np.testing.assert_array_equal(classes[::2], classes[1::2])
        assert len(set(classes)) == 3
        assert (images[::2] != images[1::2]).all()
    assert set(x[:, :, 0, 0, 0].ravel()) == {1, 2, 3, 4, 5, 6}
    assert set(x[:, :, 1, 1, 0].ravel()) == {1, 2, 3, 4}


def test_class_tasks_are_a_function_of_t():
    first, again, other = (class_tasks(t)[0] for t in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_rotated_classes_are_classes_of_their_own():
    x, _ = class_tasks(0, rotate=True)
    corners = [np.rot90(labelled_images()[0], k) for k in range(4)]
    seen = {image.tobytes() for image in x.reshape(-1, 4)}
    for corner in corners:
        assert corner.astype(np.float32).tobytes() in seen
    # Both images of a class are turned alike: its mark is in one corner.
    marks = x.reshape(50, 3, 2, 4) > 0
    assert (marks[:, :, 0] == marks[:, :, 1]).all()


def test_white_becomes_one():
    bright, plain = class_tasks(0, white=4)[0], class_tasks(0)[0]
    np.testing.assert_array_equal(bright, plain / 4)


def test_unrotated_tasks_are_the_images_of_the_list():
    sampler = samplers.image_sampler(
        IMAGES,
        task_list(),
        meta_batch_size=BATCH,
        shots=SHOTS,
        seed=0,
        rotate=False,
        white=255,
    )
    support_x, support_y, query_x, query_y = at(sampler, 0)
    x = np.concatenate([support_x, query_x], 1)[0]
    y = np.concatenate([support_y, query_y], 1)[0]
    for slot in range(SLOTS):
        for place in range(WAYS):
            example = slot * WAYS + place
            index = task_list()[0, y[example], slot]
            expected = IMAGES[index].astype(np.float32) / np.float32(255)
            np.testing.assert_array_equal(x[example], expected)


def test_samplers_share_the_images_memory():
    images = IMAGES.copy()
    sampler = samplers.class_sampler(
        images, [0], [len(images)], ways=1, shots=1, meta_batch_size=1, seed=0
    )
    images[:] = 7
    assert (sampler(tf.constant(0, tf.int64))[0].numpy() == 7).all()


def test_first_image_of_each_class_becomes_the_query():
    x = tf.reshape(tf.range(12), [1, 6, 2])
    y = tf.constant([[0, 0, 0, 1, 1, 1]])
    (support_x, support_y, query_x), query_y = samplers.split_queries(x, y, 2)
    np.testing.assert_array_equal(query_x, [[[0, 1], [6, 7]]])
    np.testing.assert_array_equal(
        support_x, [[[2, 3], [4, 5], [8, 9], [10, 11]]]
    )
    np.testing.assert_array_equal(query_y, [[0, 1]])
    np.testing.assert_array_equal(support_y, [[0, 0, 1, 1]])
