"""The devices and hosts that train, as a program's flags ask for them."""

import contextlib
import dataclasses
import faulthandler
import hashlib
import importlib.metadata
import json
import os
import signal
import socket
import sys
import time

import tensorflow as tf

from maml_tf import provenance
from maml_tf.settings import ConfigError

JOBS = ("chief", "worker")


def strategy(config) -> tf.distribute.Strategy:
    """Returns the strategy that shares meta-batches, see `replicas`.

    Args:
      config: settings with `strategy`, `logical_devices`, `worker_timeout` and
        `meta_batch_size`.

    Raises:
      ConfigError: see `count`.
      OSError: if other hosts do not come, or have other settings.
    """
    tf.get_logger().setLevel("WARNING")  # It tells of every sum otherwise.
    count(config)
    if config.strategy == "mirrored":
        return _mirrored(config)
    if config.strategy == "multi_worker":
        return _workers(config)
    return tf.distribute.get_strategy()


def count(config) -> int:
    """Returns how many replicas train, R; of other hosts it takes no notice.

    They should have as many GPUs as this one.

    Raises:
      ConfigError: if there are no such devices, or a meta-batch cannot be
        split into equal parts.
    """
    replicas = 1
    if config.strategy == "mirrored":
        replicas = _local(config)
    elif config.strategy == "multi_worker":
        replicas = _everywhere()
    if config.meta_batch_size % replicas:
        expected = f"a multiple of the {replicas} replicas"
        config.refuse("meta_batch_size", expected)
    return replicas


def _local(config):
    """Returns how many GPUs there are, or parts of the processor."""
    if config.logical_devices != -1:
        return config.logical_devices
    if not gpus():
        config.refuse(
            "strategy",
            "none where there is no GPU, or --logical_devices=n to try it",
        )
    return gpus()


def _everywhere():
    """Returns how many GPUs there are on all hosts, or processors."""
    return (1 + len(_others())) * max(1, gpus())


def gpus() -> int:
    """Returns how many GPUs this process has."""
    return len(tf.config.get_visible_devices("GPU"))


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
    if not _agree(strategy, number):
        raise OSError(
            "The workers do not see the same checkpoints; here the latest is "
            f"of iteration {number}. They need one folder, on a shared disk."
        )


def _agree(strategy, number):
    """Waits for all replicas, and returns whether they have one number."""
    if strategy.num_replicas_in_sync == 1:
        return True

    def here():
        return tf.constant(number, tf.float64)

    @tf.function(autograph=False)
    def apart():
        mean = strategy.reduce("MEAN", strategy.run(here), axis=None)
        # Of three replicas one may have the mean, and the others not.
        differs = strategy.run(lambda: tf.abs(here() - mean))
        return strategy.reduce("SUM", differs, axis=None)

    return apart() == 0


@contextlib.contextmanager
def together(strategy: tf.distribute.Strategy, config):
    """Begins and ends on all hosts at the same time.

    So they see what the chief has made of the folder before, and stay until it
    has saved: who ended with status 0 would not be started again. The chief
    waits until the others are gone, as it serves them.
    """
    require_same(strategy, 0)
    yield
    try:
        require_same(strategy, 0)
    except tf.errors.OpError:
        if not is_chief(config):
            raise
        # It has saved; another may have gone on before this was told so.
    if config.strategy == "multi_worker" and is_chief(config):
        end = time.monotonic() + config.worker_timeout
        while any(map(_answers, _others())) and time.monotonic() < end:
            time.sleep(0.5)


def _mirrored(config):
    """Returns the strategy of all GPUs, or of parts of the processor."""
    if config.logical_devices != -1:
        return tf.distribute.MirroredStrategy(_parts(config))
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
    _meet(config.worker_timeout)
    with _limited(config.worker_timeout):
        made = tf.distribute.MultiWorkerMirroredStrategy()
    # TensorFlow takes note of it and goes on, for a handler that is not ours.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _require_same_settings(made, config)
    return made


@contextlib.contextmanager
def _limited(seconds):
    """Ends the process, with status 1 and a traceback, after so long.

    No Python runs while TensorFlow waits, neither a timer's nor a signal's: so
    what it waits for is said before.
    """
    if hosts := ", ".join(_others()):
        print(
            f"All workers answer; waiting for {hosts} to join, "
            f"--worker_timeout={seconds:g} seconds at most.",
            file=sys.stderr,
            flush=True,
        )
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _require_same_settings(strategy, config):
    """Refuses hosts that would not compute the same.

    Raises:
      OSError: tells what this one has.
    """
    here = _what_computes(config)
    digest = hashlib.sha256(here.encode()).digest()
    # Of 40 bits the mean over replicas is exact.
    if not _agree(strategy, int.from_bytes(digest[:5], "big")):
        raise OSError(
            "The workers do not have the same settings or versions; here: "
            f"{here}."
        )


def _what_computes(config):
    """Returns versions, and the flags that matter and are not the defaults."""
    usual, libraries = config.defaults(), provenance.here()["versions"]
    program = provenance.commit() or importlib.metadata.version("maml-tf")
    flags = [
        f"--{config.flag_name(field)}={value}"
        for field, value in dataclasses.asdict(config).items()
        if field not in config.FREE and value != usual[field]
    ]
    return ", ".join([f"maml-tf {program}", libraries, *flags])


def _meet(seconds):
    """Waits until all hosts answer at their ports, and answers at its own.

    TensorFlow's own waiting has no end, and cannot be interrupted.

    Raises:
      OSError: if one does not, in so many seconds, or this one cannot.
    """
    cluster, kind, index = _cluster()
    port = int(cluster[kind][index].rpartition(":")[2])
    silent, end = _others(), time.monotonic() + seconds
    with _listening(port):
        while silent := [host for host in silent if not _answers(host)]:
            if time.monotonic() > end:
                raise OSError(
                    f"--worker_timeout: expected all workers within "
                    f"{seconds:g} s, got no answer from {', '.join(silent)}."
                )
            time.sleep(0.2)


def _listening(port):
    """Returns a socket that answers at a port of this host."""
    try:
        return socket.create_server(("", port))
    except OSError as error:
        raise OSError(
            f"TF_CONFIG: expected port {port} of this worker to be free, found "
            f"that it cannot listen there ({os.strerror(error.errno)})."
        ) from error


def _others():
    """Returns the addresses of the other hosts."""
    cluster, *here = _cluster()
    return [
        host
        for kind, hosts in cluster.items()
        for index, host in enumerate(hosts)
        if [kind, index] != here
    ]


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
        for job, hosts in cluster.items():
            if job not in JOBS or not hosts:
                raise ValueError(f"no training by {job} {hosts}")
        if not 0 <= index < len(cluster.get(kind, [])):
            raise ValueError(f"no task {kind} {index}")
        for host in sum(cluster.values(), []):
            if not 0 < int(host.rpartition(":")[2]) < 1 << 16:
                raise ValueError(f"no port in {host}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "--strategy=multi_worker: expected the environment variable "
            'TF_CONFIG as {"cluster": {"worker": ["host:port", …]}, "task": '
            f'{{"type": "worker", "index": 0}}}}, found {text!r} ({error}).'
        ) from error
    return cluster, kind, index


def _answers(host):
    name, _, port = host.rpartition(":")
    try:
        with socket.create_connection((name, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False
