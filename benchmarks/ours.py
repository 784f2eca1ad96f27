"""This package: what Keras's `fit` runs, without a data pipeline."""

import keras
import tensorflow as tf

import maml_tf
from maml_tf import losses, models


class Peer:
    """`maml_tf.MAML` and its compiled training step."""

    SIDE_BY_SIDE: int | None = None
    """What shares the cores; default the tasks."""

    policy: str | None = None
    """Keras's policy of layers; default the type of the numbers."""

    engine: str = "auto"
    """How many tasks run at once, see `maml_tf.MAML`."""

    def __init__(self, workload, dtype, variant):
        del variant
        maml_tf.share_cores(self.SIDE_BY_SIDE or workload.tasks)
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(self.policy or dtype)
        self.workload = workload
        self._blocks = {}
        elements = self.elements(workload.data(dtype))
        self.batch = tf.nest.map_structure(tf.constant, elements)
        self.learner = self.make_learner(build_network(workload))
        self._compile(self.make_optimizer())

    def elements(self, task):
        """Returns what the learner trains on."""
        support_x, support_y, query_x, query_y = task
        return (support_x, support_y, query_x), query_y

    def make_learner(self, network):
        """Returns the meta-learner of the workload."""
        workload = self.workload
        return maml_tf.MAML(
            network,
            _loss(workload),
            inner_lr=workload.inner_lr,
            inner_steps=workload.inner_steps,
            first_order=workload.first_order,
            adapt="fast_weights",
            engine=self.engine,
            block=workload.steps_per_call,
        )

    def make_optimizer(self):
        """Returns what is timed; the meta-gradient is read off SGD."""
        return keras.optimizers.Adam(1e-3, epsilon=1e-8)

    def step(self, iterations):
        """Does meta-iterations, and returns when they are done."""
        for count in self.workload.calls(iterations):
            self.train(self._block(count))
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
        # As `maml_tf.train` does: small updates in compiled blocks.
        jit_compile = True if self.workload.is_regression else "auto"
        learner = self.learner
        learner.compile(optimizer, learner.inner_loss, jit_compile=jit_compile)
        optimizer.build(learner.trainable_variables)
        self.train = tf.function(
            learner.train_step, autograph=False, jit_compile=learner.jit_compile
        )

    def _block(self, count):
        """Returns the meta-batch `count` times, if the learner takes blocks."""
        if self.learner.block == 1:
            return self.batch
        if count not in self._blocks:
            self._blocks[count] = tf.nest.map_structure(
                lambda part: tf.repeat(part[None], count, 0), self.batch
            )
        return self._blocks[count]


def build_network(workload):
    """Returns the workload's network with its initial weights."""
    name, arguments = workload.network.builder
    network = getattr(models, name)(**arguments)
    network.set_weights(workload.initial_weights())
    return network


def _loss(workload):
    if workload.is_regression:
        return losses.mean_squared_error
    return losses.CrossEntropy(workload.shots)
