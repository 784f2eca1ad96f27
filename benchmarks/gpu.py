"""Checks meta-gradients on a GPU and times training there, for a README.

    python benchmarks/gpu.py

Each workload's meta-gradient on the GPU, in float64, has to be that of the
processor; those that are timed are compared with it, too, and have to be as
near as `NEAR` says. Then come the meta-iterations a second with and without
XLA, the memory of the GPU that they took at most, and how busy it was. How many
tasks run at once is chosen by the size of a processor's caches:
`--engine=stacked` runs all. Without a GPU the program says so and ends with
status 0; `--device=CPU:0` tries it out.
TensorFlow needs CUDA's libraries: `pip install -e .[gpu]`.
"""

import gc
import math
import os
import re
import shutil
import statistics
import subprocess
import time

import ours
import tensorflow as tf
import workloads
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("device", "GPU:0", "What is measured.")
flags.register_validator(
    "device",
    re.compile(r"(CPU|GPU):\d+").fullmatch,
    "expected such as GPU:0 or CPU:0",
)
flags.DEFINE_float("seconds", 5, "Of each timing, at least.", lower_bound=0)
NAMES = [w.name for w in workloads.WORKLOADS.values() if not w.is_reptile]
flags.DEFINE_multi_enum("workload", NAMES, NAMES, "Which.")
flags.DEFINE_enum(
    "engine",
    "auto",
    ["auto", "stacked", "looped"],
    "How many tasks run at once: as the processor's caches hold, all, or one.",
)
NEAR = {"float64": 1e-6, "float32": 0.1, "mixed_bfloat16": math.inf}
"""By policy, what a meta-gradient's relative error is below, also in TF32.

In bfloat16 it only has to be finite. The first policy is not timed.
"""
WHERE = re.compile(r"\s|$|Graph execution error|Detected at node|<stack trace")
"""How lines begin that TensorFlow puts before those of an error in a graph."""
FAILURES = tf.errors.OpError, MemoryError
"""What a workload may fail by, and others be measured nevertheless."""


class Peer(ours.Peer):
    """Training as it is, on a device, with or without XLA."""

    def __init__(self, workload, dtype, device, compiles, policy):
        self.policy = policy
        self.engine = FLAGS.engine
        self.compiles = compiles
        self.device = device
        with tf.device(device):
            super().__init__(workload, dtype, "")

    def step(self, iterations):
        """Does meta-iterations on the device."""
        with tf.device(self.device):
            super().step(iterations)

    def meta_gradient(self):
        """Returns the meta-gradient, on the device, as its optimizer is."""
        with tf.device(self.device):
            return super().meta_gradient()

    def _compile(self, optimizer):
        with tf.device(self.device):
            super()._compile(optimizer)
        self.train = tf.function(
            self.learner.train_step,
            autograph=False,
            jit_compile=self.compiles,
        )


def main(argv):
    """Prints the table; the status says whether meta-gradients are right."""
    if argv[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    # Tasks do not share the cores here: a GPU has none of them.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(os.cpu_count()))
    # The driver numbers GPUs so, and is asked how busy they are.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    tf.get_logger().setLevel("ERROR")  # It counts traces of all peers.
    tf.config.set_soft_device_placement(False)
    if number() >= len(tf.config.list_logical_devices(kind())):
        print(f"No {FLAGS.device} here: nothing is measured.")
        if kind() == "GPU" and shutil.which("nvidia-smi"):
            print("The driver is: TensorFlow needs pip install -e .[gpu] too.")
        return 0
    print(f"{name()}, TensorFlow {tf.__version__}")
    rounds = tf.config.experimental.tensor_float_32_execution_enabled()
    print(
        f"float32 is TF32 where the GPU has it: {'yes' if rounds else 'no'}\n"
    )
    titles = "workload", "XLA", "layers in", "meta-iterations/s", "memory"
    more = "busy", "error as timed", "in float64"
    print("|", " | ".join([*titles, *more]), "|")
    print("|", " | ".join(["---"] * 8), "|")
    right = [row(workloads.WORKLOADS[each]) for each in FLAGS.workload]
    return int(not all(right))


def row(workload):
    """Prints a workload's rows, and returns whether its gradients are right."""
    try:
        expected = gradient(workload, "CPU:0", False, "float64")
    except FAILURES as failure:
        print(f"| {workload.name} | failed on CPU:0: {words(failure)} |")
        return False
    return all([_rows(workload, expected, xla) for xla in (False, True)])


def _rows(workload, expected, compiles):
    """Prints the rows with XLA, or without; one that fails is none of them."""
    start = f"| {workload.name} | {'yes' if compiles else 'no'}"
    try:
        errors = {
            policy: workloads.relative_error(
                gradient(workload, FLAGS.device, compiles, policy), expected
            )
            for policy in NEAR
        }
        exact, *timed = NEAR
        for policy in timed:
            measured = throughput(workload, compiles, policy)
            cells = *measured, f"{errors[policy]:.1e}", f"{errors[exact]:.1e} |"
            print(" | ".join([start, policy, *cells]), flush=True)
    except FAILURES as failure:
        print(f"{start} | failed: {words(failure)} |", flush=True)
        return False
    return all(errors[policy] < bound for policy, bound in NEAR.items())


def words(failure):
    """Returns what failed, without the lines of where in a graph it was."""
    lines = str(failure).splitlines()
    told = [line for line in lines if not WHERE.match(line)]
    return " ".join([f"{type(failure).__name__}:", *told[:1]])


def gradient(workload, device, compiles, policy):
    """Returns the meta-gradient, in float64 or as it is timed."""
    dtype = "float64" if policy == "float64" else "float32"
    return Peer(workload, dtype, device, compiles, policy).meta_gradient()


def throughput(workload, compiles, policy):
    """Returns meta-iterations a second, memory and how busy the device was."""
    gc.collect()  # The peer before is a cycle, and its memory no part of this.
    peer = Peer(workload, "float32", FLAGS.device, compiles, policy)
    peer.step(workload.steps_per_call)
    is_gpu = FLAGS.device.startswith("GPU")
    if is_gpu:
        tf.config.experimental.reset_memory_stats(FLAGS.device)
    with Busy(is_gpu) as busy:
        rate = pace(peer, workload.steps_per_call)
    memory = "?"
    if is_gpu:
        peak = tf.config.experimental.get_memory_info(FLAGS.device)["peak"]
        memory = f"{peak / 1e6:,.0f} MB"
    return f"{rate:,.1f}", memory, busy.mean()


def pace(peer, count):
    """Returns meta-iterations a second, of as many as take long enough."""
    while True:
        start = time.monotonic()
        peer.step(count)
        seconds = time.monotonic() - start
        if seconds >= FLAGS.seconds:
            return count / seconds
        count *= 2


class Busy:
    """Asks the driver how busy the GPU is, five times a second."""

    def __init__(self, is_gpu):
        self.asks = is_gpu and shutil.which("nvidia-smi")
        self.lines = []

    def __enter__(self):
        if self.asks:
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader"]
            self.process = subprocess.Popen(
                [
                    "nvidia-smi",
                    f"--id={driver_name()}",
                    *query,
                    "--loop-ms=200",
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
        return self

    def __exit__(self, *error):
        if self.asks:
            self.process.terminate()
            self.lines = self.process.communicate()[0].splitlines()

    def mean(self):
        """Returns the mean in words."""
        words = [line.split()[0] for line in self.lines if line.strip()]
        values = [float(word) for word in words if word.isdigit()]
        return f"{statistics.mean(values):.0f} %" if values else "?"


def driver_name():
    """Returns the driver's name of the device that TensorFlow numbers anew."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return seen.split(",")[number()].strip() if seen else str(number())


def kind():
    """Returns the kind of device: "GPU"."""
    return FLAGS.device[:3]


def number():
    """Returns which of its kind the device is."""
    return int(FLAGS.device[4:])


def name():
    """Returns what the device is called."""
    device = tf.config.list_physical_devices(kind())[number()]
    details = tf.config.experimental.get_device_details(device)
    return details.get("device_name", FLAGS.device)


if __name__ == "__main__":
    app.run(main)
