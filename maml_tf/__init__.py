"""Meta-learning by gradient descent, in TensorFlow 2 and Keras 3."""

from maml_tf.adaptation import Adaptation, adapt
from maml_tf.inner_optimizers import adam, sgd
from maml_tf.meta_learners import MAML, JointTraining, Predictions
from maml_tf.reptile import FOML, Reptile

__all__ = [
    "FOML",
    "MAML",
    "Adaptation",
    "JointTraining",
    "Predictions",
    "Reptile",
    "adam",
    "adapt",
    "sgd",
]
__version__ = "0.1.0"
