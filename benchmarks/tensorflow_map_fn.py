"""Plain TensorFlow as cbfinn/maml is written: `tf.map_fn` over the tasks."""

import tensorflow as tf
from workloads import EPSILON, Task


class Peer:
    """One task a time in a graph, B of them in parallel."""

    def __init__(self, workload, dtype, variant):
        if variant == "one thread":
            tf.config.threading.set_intra_op_parallelism_threads(1)
        self.workload = workload
        self.batch = Task(*map(tf.constant, workload.data(dtype)))
        self.theta = [
            tf.Variable(w, dtype=dtype) for w in workload.initial_weights()
        ]
        self.adam = tf.keras.optimizers.Adam(1e-3, epsilon=1e-8)
        self.adam.build(self.theta)

    def step(self, iterations):
        """Does meta-iterations, and returns when they are done."""
        for count in self.workload.calls(iterations):
            self.train(tf.constant(count))
        self.adam.iterations.numpy()

    def meta_gradient(self):
        """Returns the meta-gradient."""
        return [g.numpy() for g in tf.function(self._gradient)(self.batch)]

    @tf.function
    def train(self, count):
        """Does `count` meta-iterations."""
        for _ in tf.range(count):
            gradient = self._gradient(self.batch)
            self.adam.apply_gradients(zip(gradient, self.theta, strict=True))

    def _gradient(self, batch):
        with tf.GradientTape() as tape:
            query_losses = tf.map_fn(
                self._task_loss,
                batch,
                fn_output_signature=self.theta[0].dtype,
                parallel_iterations=self.workload.tasks,
            )
            loss = tf.reduce_mean(query_losses)
        return tape.gradient(loss, self.theta)

    def _task_loss(self, task):
        """Returns the query loss of one task after adaptation to it."""
        workload = self.workload
        theta = [tf.convert_to_tensor(v) for v in self.theta]
        fast, slow = workload.network.split(theta)
        for _ in range(workload.inner_steps):
            with tf.GradientTape() as tape:
                tape.watch(fast)
                prediction = predict(workload, fast, slow, task.support_x)
                value = loss(workload, task.support_y, prediction)
            gradients = tape.gradient(value, fast)
            if workload.first_order:
                gradients = map(tf.stop_gradient, gradients)
            fast = [
                w - workload.inner_lr * g
                for w, g in zip(fast, gradients, strict=True)
            ]
        prediction = predict(workload, fast, slow, task.query_x)
        return loss(workload, task.query_y, prediction)


def predict(workload, fast, slow, x):
    """Returns the network's outputs for examples of one task."""
    network = workload.network
    *hidden, (kernel, bias) = zip(fast[::2], fast[1::2], strict=True)
    for i, (w, b) in enumerate(hidden):
        if slow:
            x = tf.nn.conv2d(x, w, network.stride, "SAME") + b
            x = normalise(x) + slow[i]
        else:
            x = x @ w + b
        x = tf.nn.relu(x)
        if network.max_pool:
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    if network.flatten:
        x = tf.reshape(x, [x.shape[0], -1])
    elif slow:
        x = tf.reduce_mean(x, [1, 2])
    return x @ kernel + bias


def normalise(x):
    """Returns x by its own mean and variance, exact to any derivative."""
    x -= tf.reduce_mean(x, [0, 1, 2])
    return x * tf.math.rsqrt(tf.reduce_mean(x * x, [0, 1, 2]) + EPSILON)


def loss(workload, y, prediction):
    """Returns the loss of one task."""
    if workload.is_regression:
        return tf.reduce_mean(tf.square(prediction - y))
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(y, prediction)
    return tf.reduce_sum(each) / workload.shots
