"""This package's Reptile: what Keras's `fit` runs, without a data pipeline."""

import keras
import tensorflow as tf

import maml_tf
from maml_tf import main_reptile, models

main_reptile.use_threads()


class Peer:
    """`maml_tf.Reptile` and its compiled training step."""

    def __init__(self, workload, dtype, variant):
        del variant
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        self.workload = workload
        support_x, support_y, *_ = workload.data(dtype)
        self.batch = tf.constant(support_x), tf.constant(support_y)
        self.learner = _learner(workload)
        self._compile(workload.meta_step)

    def step(self, iterations):
        """Does meta-iterations, and returns when they are done."""
        for _ in range(iterations):
            self.train(self.batch)
        self.learner.optimizer.iterations.numpy()

    def meta_gradient(self):
        """Returns the meta-gradient: minus one step of rate 1."""
        self._compile(1.0)
        before = self.learner.network.get_weights()
        self.step(1)
        after = self.learner.network.get_weights()
        return [b - a for b, a in zip(before, after, strict=True)]

    def _compile(self, meta_step):
        self.learner.compile(keras.optimizers.SGD(meta_step))
        self.learner.optimizer.build(self.learner.trainable_variables)
        self.train = tf.function(self.learner.train_step, autograph=False)


def _learner(workload):
    name, arguments = workload.network.builder
    network = getattr(models, name)(**arguments)
    network.set_weights(workload.initial_weights())
    learner = maml_tf.Reptile(
        network,
        maml_tf.adam(workload.inner_lr),
        inner_steps=workload.inner_steps,
    )
    batches = tf.constant(workload.batches(), tf.int32)
    learner.draw = lambda y: [batches]  # the same for all that are compared
    return learner
