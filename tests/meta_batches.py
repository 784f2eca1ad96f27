"""Meta-batches as lists of arrays, to compare."""

import numpy as np
import tensorflow as tf


def flat(meta_batch):
    """Returns support inputs and labels, query inputs and labels."""
    return [tensor.numpy() for tensor in tf.nest.flatten(meta_batch)]


def same(left, right):
    """Tells whether two lists of arrays are equal, number for number."""
    return all(map(np.array_equal, left, right))
