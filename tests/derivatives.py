"""First and second derivatives by nested tapes."""

import tensorflow as tf


def derivatives(function, x, direction):
    """Returns the gradient of Σ function(x), and its Hessian times a vector."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            total = tf.reduce_sum(function(x))
        gradient = inner.gradient(total, x)
        slope = tf.reduce_sum(gradient * direction)
    return gradient, outer.gradient(slope, x)
