"""Meta-learning by gradient descent, in TensorFlow 2 and Keras 3."""

import keras

from maml_tf import evaluation, inner_optimizers, losses, models, tasks
from maml_tf.adaptation import Adaptation, adapt, gradient_descent
from maml_tf.cores import share_cores
from maml_tf.maml import MAML, JointTraining, Predictions
from maml_tf.reptile import FOML, Reptile
from maml_tf.self_check import MetaGradientCheck, check_meta_gradient
from maml_tf.variants import ANIL, MAMLPlusPlus, MetaSGD

__all__ = [
    "ANIL",
    "FOML",
    "MAML",
    "Adaptation",
    "JointTraining",
    "MAMLPlusPlus",
    "MetaGradientCheck",
    "MetaSGD",
    "Predictions",
    "Reptile",
    "adapt",
    "check_meta_gradient",
    "evaluation",
    "gradient_descent",
    "inner_optimizers",
    "losses",
    "models",
    "share_cores",
    "tasks",
]
__version__ = "0.1.0"

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "KERAS_BACKEND: expected tensorflow, there or in ~/.keras/keras.json, "
        f"found {keras.config.backend()}."
    )
