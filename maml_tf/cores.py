"""How the processor's cores are shared: by operations, or by tasks.

An operation of one task is so small that several cores lose more in waiting
for each other than they win. Tasks side by side, each operation on a core of
its own, keep them all at work.
"""

import contextlib
import os

import tensorflow as tf

from maml_tf.checks import at_least

_VARIABLE = "TF_NUM_INTRAOP_THREADS"


def share_cores(tasks: int) -> None:
    """Lets the tasks of a meta-batch run side by side on the cores.

    An operation of any part of the program then runs on ⌊cores / tasks⌋ of
    them, at least one. TensorFlow's threads are fixed once it has computed
    anything, so call this first of all. It is
    `tf.config.threading.set_intra_op_parallelism_threads`; the environment
    variable TF_NUM_INTRAOP_THREADS goes before it.

    Args:
      tasks: how many tasks there are to run side by side, B.

    Raises:
      ValueError: if it is no integer of at least 1.
      RuntimeError: if TensorFlow has started with other threads.
    """
    at_least(1, tasks=tasks)
    if _VARIABLE not in os.environ:
        threads = max(1, _count() // tasks)
        tf.config.threading.set_intra_op_parallelism_threads(threads)


def share_unless_started(tasks: int) -> None:
    """Calls `share_cores`, but leaves a running TensorFlow as it is."""
    with contextlib.suppress(RuntimeError):
        share_cores(tasks)


def side_by_side() -> int:
    """Returns how many groups of tasks run at a time, each on its own cores.

    It is 1 on a GPU, and where an operation takes all cores, as it does unless
    `share_cores` or TensorFlow was told otherwise.
    """
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    threads = threads or int(os.environ.get(_VARIABLE, 0))
    if not threads or tf.config.get_visible_devices("GPU"):
        return 1
    return max(1, _count() // threads)


def _count():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
