"""Meta-learning by gradient descent, in TensorFlow 2 and Keras 3."""

from maml_tf.adaptation import Adaptation, adapt
from maml_tf.meta_learners import MAML, JointTraining, Predictions

__all__ = ["MAML", "Adaptation", "JointTraining", "Predictions", "adapt"]
__version__ = "0.1.0"
