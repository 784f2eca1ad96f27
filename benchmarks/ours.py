"""This package: what Keras's `fit` runs, without a data pipeline."""

import keras
import tensorflow as tf

import maml_tf
from maml_tf import losses, models


class Peer:
    """`maml_tf.MAML` and its compiled training step."""

    def __init__(self, workload, dtype, variant):
        del variant
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        self.workload = workload
        support_x, support_y, query_x, query_y = workload.data(dtype)
        inputs = support_x, support_y, query_x
        self.batch = tf.nest.map_structure(tf.constant, (inputs, query_y))
        self.learner = _learner(workload)
        self._compile(keras.optimizers.Adam(1e-3, epsilon=1e-8))

    def step(self, iterations):
        """Does meta-iterations, and returns when they are done."""
        for count in self.workload.calls(iterations):
            self.train(self.batch, tf.constant(count))
        self.learner.optimizer.iterations.numpy()

    def meta_gradient(self):
        """Returns the meta-gradient: minus one step of SGD with rate 1.

        Read off the weights, it is what the training step really follows.
        """
        self._compile(keras.optimizers.SGD(1.0))
        before = self.learner.network.get_weights()
        self.step(1)
        after = self.learner.network.get_weights()
        return [b - a for b, a in zip(before, after, strict=True)]

    def _compile(self, optimizer):
        self.learner.compile(optimizer, self.learner.inner_loss)
        optimizer.build(self.learner.trainable_variables)
        train_step = tf.function(
            self.learner.train_step,
            autograph=False,
            jit_compile=self.learner.jit_compile,
        )
        loop = self.workload.steps_per_call > 1

        @tf.function
        def train(batch, count):
            if loop:
                for _ in tf.range(count):
                    train_step(batch)
            else:
                train_step(batch)

        self.train = train


def _learner(workload):
    name, arguments = workload.network.builder
    network = getattr(models, name)(**arguments)
    network.set_weights(workload.initial_weights())
    return maml_tf.MAML(
        network,
        _loss(workload),
        inner_lr=workload.inner_lr,
        inner_steps=workload.inner_steps,
        first_order=workload.first_order,
        adapted=models.fast_weights(network),
    )


def _loss(workload):
    if workload.is_regression:
        return losses.mean_squared_error
    return losses.cross_entropy(workload.shots)
