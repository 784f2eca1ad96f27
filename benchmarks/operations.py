"""Where the time of our meta-iteration goes, operation by operation.

    python benchmarks/operations.py --workload=omniglot20

TensorFlow's profiler records a few steps. Each row is a kind of operation:
what its calls take in one meta-iteration, summed over the threads they run
on, which together have cores × time. What XLA compiles is one operation.
"""

import collections
import glob
import os
import tempfile
import time

from absl import app, flags
from workers import IMPLEMENTATIONS
from workloads import WORKLOADS

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "workload", "omniglot20", list(WORKLOADS), "What to look into."
)
flags.DEFINE_integer("steps", 5, "Calls to record.", lower_bound=1)
flags.DEFINE_integer("rows", 12, "Kinds of operations shown.", lower_bound=1)

CONTAINERS = {"While", "StatefulPartitionedCall", "PartitionedCall", "If"}
"""Operations that only hold others."""


def main(argv):
    """Records, and prints a row for each kind of operation."""
    if unknown := argv[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(unknown)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    workload = WORKLOADS[FLAGS.workload]
    iterations = FLAGS.steps * workload.steps_per_call
    with tempfile.TemporaryDirectory() as folder:
        seconds = record(workload, iterations, folder)
        busy = operations(folder)
    _print(workload, iterations, seconds, busy)


def record(workload, iterations, folder) -> float:
    """Returns how long `iterations` take, in s, and profiles them."""
    import tensorflow as tf

    peer = IMPLEMENTATIONS["ours"].peer(workload, "float32", "")
    peer.step(2 * workload.steps_per_call)
    with tf.profiler.experimental.Profile(folder):
        start = time.perf_counter()
        peer.step(iterations)
        return time.perf_counter() - start


def operations(folder) -> collections.Counter:
    """Returns the time of each kind of operation in a profile, in s."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    [path] = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
    space = xplane_pb2.XSpace()
    with open(path, "rb") as file:
        space.ParseFromString(file.read())
    busy = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if (kind := _kind(name)) and kind not in CONTAINERS:
                    busy[kind] += event.duration_ps * 1e-12
    return busy


def _kind(name):
    """Returns the kind in `node:Kind`, as the executor calls its events."""
    node, _, kind = name.partition(":")
    return kind if node and kind.isidentifier() else ""


def _print(workload, iterations, seconds, busy):
    per_iteration = 1e3 / iterations
    print(f"{workload.name}: {seconds * per_iteration:.3g} ms profiled")
    total = sum(busy.values())
    shown = busy.most_common(FLAGS.rows)
    rest = total - sum(spent for _, spent in shown)
    for kind, spent in [*shown, ("everything else", rest), ("all", total)]:
        print(f"{kind:32}{spent * per_iteration:8.3g} ms {spent / total:7.1%}")


if __name__ == "__main__":
    app.run(main)
