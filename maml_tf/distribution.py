"""The devices and hosts that train, as a program's flags ask for them."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import tensorflow as tf

from maml_tf.settings import ConfigError

JOBS = ("chief", "worker")


def strategy(config) -> tf.distribute.Strategy:
    """Returns the strategy that shares meta-batches, see `replicas`.

    Args:
      config: settings with `strategy`, `logical_devices`, `worker_timeout` and
        `meta_batch_size`.

    Raises:
      ConfigError: if there are no such devices, or a meta-batch cannot be
        split into equal parts.
    """
    tf.get_logger().setLevel("WARNING")  # It tells of every sum otherwise.
    made = {"none": _none, "mirrored": _mirrored, "multi_worker": _workers}[
        config.strategy
    ](config)
    if config.meta_batch_size % made.num_replicas_in_sync:
        config.refuse(
            "meta_batch_size",
            f"a multiple of the {made.num_replicas_in_sync} replicas",
        )
    return made


def is_chief(config) -> bool:
    """Returns whether this process is the one that writes."""
    if config.strategy != "multi_worker":
        return True
    cluster, kind, index = _cluster()
    return kind == "chief" or ("chief" not in cluster and index == 0)


def require_same(strategy: tf.distribute.Strategy, number: int) -> None:
    """Waits for all replicas, and compares a number that they should share.

    Args:
      strategy: of all replicas.
      number: such as the iteration to go on from.

    Raises:
      OSError: if they do not.
    """

    @tf.function(autograph=False)
    def mean():
        here = strategy.run(lambda: tf.constant(number, tf.float64))
        return strategy.reduce("MEAN", here, axis=None)

    if mean() != number:
        raise OSError(
            "The workers do not see the same checkpoints; here the latest is "
            f"of iteration {number}. They need one folder, on a shared disk."
        )


def leave(config) -> None:
    """Lets the chief wait until the others are gone, as it serves them."""
    if config.strategy == "multi_worker" and is_chief(config):
        cluster, *here = _cluster()
        others = [
            host
            for kind, hosts in cluster.items()
            for index, host in enumerate(hosts)
            if [kind, index] != here
        ]
        end = time.monotonic() + config.worker_timeout
        while any(map(_answers, others)) and time.monotonic() < end:
            time.sleep(0.5)


def _none(config):
    del config
    return tf.distribute.get_strategy()


def _mirrored(config):
    """Returns the strategy of all GPUs, or of parts of the processor."""
    if config.logical_devices != -1:
        return tf.distribute.MirroredStrategy(_parts(config))
    if not tf.config.list_logical_devices("GPU"):
        config.refuse(
            "strategy",
            "none where there is no GPU, or --logical_devices=n to try it",
        )
    return tf.distribute.MirroredStrategy()


def _parts(config):
    """Returns the names of so many parts of the processor."""
    [cpu, *_] = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * config.logical_devices
    try:
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError:
        config.refuse("logical_devices", "it before TensorFlow has started")
    return [f"CPU:{i}" for i in range(len(parts))]


def _workers(config):
    """Returns the strategy of all hosts, once they are there."""
    _cluster()
    with _giving_up(config.worker_timeout):
        return tf.distribute.MultiWorkerMirroredStrategy()


def _cluster():
    """Returns TF_CONFIG's cluster, and the kind and number of this task.

    Raises:
      ConfigError: if there is none.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        told = json.loads(text)
        cluster, task = dict(told["cluster"]), dict(told["task"])
        kind, index = task["type"], int(task["index"])
        known = set(cluster) <= set(JOBS) and kind in cluster
        if not known or not 0 <= index < len(cluster[kind]):
            raise ValueError(f"no task {kind} {index}")
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "--strategy=multi_worker: expected the environment variable "
            'TF_CONFIG as {"cluster": {"worker": ["host:port", …]}, "task": '
            f'{{"type": "worker", "index": 0}}}}, found {text!r} ({error}).'
        ) from error
    return cluster, kind, index


@contextlib.contextmanager
def _giving_up(seconds: float) -> Iterator[None]:
    """Ends the process unless what it waits for comes in so many seconds."""
    timer = threading.Timer(seconds, _give_up, [seconds])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(seconds):
    """Names the workers that do not answer, and ends the process.

    TensorFlow's own waiting cannot be interrupted.
    """
    cluster, *_ = _cluster()
    hosts = [host for kind in cluster.values() for host in kind]
    silent = ", ".join(host for host in hosts if not _answers(host)) or "none"
    print(
        f"--worker_timeout: expected {len(hosts)} workers within {seconds:g} s;"
        f" no answer from: {silent}.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _answers(host):
    name, _, port = host.rpartition(":")
    try:
        with socket.create_connection((name, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False
