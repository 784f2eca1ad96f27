"""This package's Reptile: what Keras's `fit` runs, without a data pipeline."""

import keras
import ours
import tensorflow as tf

import maml_tf


class Peer(ours.Peer):
    """`maml_tf.Reptile` and its compiled training step."""

    SIDE_BY_SIDE = 2  # as `reptile-tf` does

    def elements(self, task):
        """Returns the support sets."""
        return task.support_x, task.support_y

    def make_learner(self, network):
        """Returns the meta-learner, with the mini-batches that peers take."""
        learner = maml_tf.Reptile(
            network,
            maml_tf.inner_optimizers.Adam(self.workload.inner_lr),
            inner_steps=self.workload.inner_steps,
        )
        batches = tf.constant(self.workload.batches(), tf.int32)
        learner.draw = lambda y: [batches]
        return learner

    def make_optimizer(self):
        """Returns gradient descent by the meta-step."""
        return keras.optimizers.SGD(self.workload.meta_step)
