"""One replica and two: each has its tasks, and training is the same."""

import subprocess
import sys

PROGRAM = """
import keras, numpy as np, tensorflow as tf
from maml_tf import MAML

[cpu] = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
x = np.random.default_rng(0).normal(size=(30, 4, 6, 2)).astype("float32")
data = ((x, x[..., :1] ** 2, -x), x[..., 1:] ** 2)

def train(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        network = keras.Sequential(
            [keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)]
        )
        network.build([None, 2])
        learner = MAML(network, "mean_squared_error", inner_lr=0.1)
        learner.compile(keras.optimizers.Adam(0.01), "mean_squared_error")
        batches = tf.data.Dataset.from_tensor_slices(data)
        history = learner.fit(batches, epochs=2, shuffle=False, verbose=0)
    return history.history["loss"], *network.get_weights()

alone = train(tf.distribute.get_strategy())
both = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
for one, other in zip(alone, both, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
"""


def test_two_replicas_train_as_one():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
