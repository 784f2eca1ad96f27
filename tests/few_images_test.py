"""Convolutions of a few images, against TensorFlow's own."""

import concurrent.futures
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from maml_tf import few_images

FEW = {
    "strided": {"strides": 2, "padding": "same"},
    "oblong": {"kernel_size": (3, 2), "strides": (1, 2)},
    "valid": {"padding": "valid"},
}


def derivatives(layer, x, kernel):
    """Returns outputs and both gradients, as a step of Reptile takes them.

    The kernel has its value in the forward pass alone.
    """
    with tf.GradientTape() as tape:
        tape.watch((x, kernel))
        with keras.StatelessScope([(layer.kernel, kernel)]):
            y = layer(x)
        loss = tf.reduce_sum(tf.sin(y))
    return y, *tape.gradient(loss, (x, kernel))


@pytest.fixture
def own(monkeypatch):
    """Returns the list of calls of TensorFlow's own operation."""
    calls, original = [], few_images._tensorflow_convolution

    def note(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(few_images, "_tensorflow_convolution", note)
    return calls


def compare(options, run=lambda function: function):
    """Compares a layer with itself inside the context."""
    layer = layers.Conv2D(**{"filters": 4, "kernel_size": 3, **options})
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(5, 7, 6, 3)))
    layer.build(x.shape)
    kernel = tf.constant(rng.normal(size=layer.kernel.shape))
    expected = derivatives(layer, x, kernel)
    with few_images.convolutions():
        actual = run(derivatives)(layer, x, kernel)
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a, e, 1e-9, 1e-9)


@pytest.mark.parametrize("run", [lambda f: f, tf.function])
@pytest.mark.parametrize("kind", FEW)
def test_products_of_patches(float64, own, kind, run):
    compare(FEW[kind], run)
    assert not own


def test_groups_are_left_to_tensorflow(float64, own):
    compare({"groups": 3, "filters": 6}, tf.function)
    assert own


# TensorFlow has no gradient of it on a processor.
def test_dilation_is_left_to_tensorflow(own):
    layer = layers.Conv2D(4, 3, dilation_rate=2)
    with few_images.convolutions():
        layer(np.zeros([2, 7, 6, 3]))
    assert own


def test_another_number_of_dimensions_is_left_to_tensorflow(own):
    with few_images.convolutions():
        layers.Conv1D(4, 3)(np.zeros([2, 7, 3]))
        layers.Conv3D(4, 3)(np.zeros([2, 7, 6, 5, 3]))
    assert len(own) == 2


def test_too_many_numbers(float64, own, monkeypatch):
    numbers = 5 * (4 * 3) * 9 * 3
    monkeypatch.setattr(few_images, "MOST_NUMBERS", numbers)
    compare(FEW["strided"])
    assert not own
    monkeypatch.setattr(few_images, "MOST_NUMBERS", numbers - 1)
    compare(FEW["strided"])
    assert own


def test_a_gpu_keeps_its_own(float64, own, monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind])
    compare(FEW["strided"])
    assert own


def test_a_layer_may_call_it_as_tensorflow_says(own):
    x, kernel = np.zeros([2, 7, 6, 3]), np.zeros([3, 3, 3, 4])
    expected = tf.nn.convolution(filters=kernel, input=x, strides=2)
    with few_images.convolutions():
        actual = tf.nn.convolution(filters=kernel, input=x, strides=2)
        tf.nn.convolution(x, kernel, [1, 2, 2, 1], data_format="NHWC")
    assert actual.shape == expected.shape
    assert len(own) == 2


def test_nothing_changes_outside():
    before = tf.nn.convolution
    with few_images.convolutions():
        assert tf.nn.convolution is few_images.convolve
    assert tf.nn.convolution is before


def test_who_leaves_first_takes_nothing_from_another():
    before = tf.nn.convolution
    entered, left = threading.Event(), threading.Event()

    def beside():
        with few_images.convolutions():
            entered.set()
            assert left.wait(60)
            return tf.nn.convolution

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with few_images.convolutions():
            found = pool.submit(beside)
            assert entered.wait(60)
        left.set()
        assert found.result() is few_images.convolve
    assert tf.nn.convolution is before


def test_another_thread_keeps_its_own(own):
    layer, x = layers.Conv2D(4, 3), np.zeros([2, 7, 6, 3])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with few_images.convolutions():
            pool.submit(layer, x).result()
            assert len(own) == 1
            layer(x)
    assert len(own) == 1
