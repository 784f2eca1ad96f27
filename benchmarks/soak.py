"""Trains for hours at full speed, and watches memory, speed and logs.

    python benchmarks/soak.py --hours=2 --output=results/reliability/soak

The program is `maml-tf` on sinusoids, in a process of its own; SIGTERM ends
it. Speed is told in iterations by second of processor time, which other work
on the machine disturbs less than time does. Writes OUTPUT.csv and OUTPUT.png.
"""

import csv
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import psutil
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_float("hours", 2.0, "How long.", lower_bound=0)
flags.DEFINE_float("interval", 30.0, "Between two looks, in s.", lower_bound=1)
flags.DEFINE_string("output", "soak", "Of the table and the picture.")

TRAINING = [
    *(sys.executable, "-m", "maml_tf.main"),
    *("--datasource=sinusoid", "--norm=None", "--update_batch_size=10"),
    "--metatrain_iterations=100000000",
]


def main(argv):
    """Watches a training, and prints how its end differs from its start.

    Raises:
      RuntimeError: if the training ends by itself, or not as it should.
    """
    if argv[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    rows: list[dict[str, float]] = []
    pathlib.Path(FLAGS.output).parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows.extend(watch(pathlib.Path(folder)))
    finally:
        # What was seen before a failure is what tells of it.
        if rows:
            write(rows, f"{FLAGS.output}.csv")
    seen = {row["iteration"] for row in ends(rows)} if rows else set()
    if len(seen) < 3:
        raise app.UsageError(
            f"--hours={FLAGS.hours:g}: expected time for rows of 10,000 "
            "iterations, found too few to compare."
        )
    draw(rows, f"{FLAGS.output}.png")
    print(summary(rows))


def watch(folder: pathlib.Path):
    """Yields what a training is like at each look, until it is stopped."""
    output = open(folder / "output.txt", "w")
    process = subprocess.Popen(
        [*TRAINING, f"--logdir={folder / 'log'}"], stdout=output, stderr=output
    )
    start = time.monotonic()
    while time.monotonic() - start < 3600 * FLAGS.hours:
        time.sleep(FLAGS.interval)
        if process.poll() is not None:
            text = (folder / "output.txt").read_text()[-2000:]
            raise RuntimeError(f"Status {process.returncode}:\n{text}")
        yield look(process.pid, folder, time.monotonic() - start)
    process.terminate()
    if process.wait() != 128 + signal.SIGTERM:
        raise RuntimeError(f"SIGTERM: status {process.returncode}")


def look(pid: int, folder: pathlib.Path, seconds: float) -> dict[str, float]:
    """Returns a row: times in s, iterations, memory in MB, logs in kB."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": times.user + times.system,
        "iteration": last_iteration(folder),
        "memory_mb": round(process.memory_info().rss / 1e6, 1),
        "checkpoints_kb": kilobytes(folder, "model*"),
        "logs_kb": kilobytes(folder, "*.csv", "events.*", "output.txt"),
    }


def last_iteration(folder):
    """Returns the iteration of the last whole row of the training's table.

    A run of a hundred million iterations writes one for each 10,000.
    """
    for path in folder.rglob("training.csv"):
        whole = path.read_bytes().rpartition(b"\n")[0]
        return int(whole.rpartition(b"\n")[2].split(b",")[0])
    return 0


def kilobytes(folder, *patterns):
    """Returns the size of a folder's files, in kB."""
    paths = [path for pattern in patterns for path in folder.rglob(pattern)]
    return round(sum(path.stat().st_size for path in paths) / 1e3, 1)


def write(rows, path):
    """Writes the table."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw(rows, path):
    """Draws memory, speed and logs over time."""
    import matplotlib.pyplot as plt

    hours = [row["seconds"] / 3600 for row in rows]
    curves = {
        "resident memory, MB": [row["memory_mb"] for row in rows],
        "iterations / s of processor": [None, *speeds(rows)],
        "logs, MB": [row["logs_kb"] / 1e3 for row in rows],
    }
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for axis, (name, values) in zip(axes, curves.items(), strict=True):
        axis.plot(hours, values)
        axis.set(xlabel="hours", ylabel=name)
        axis.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)


def speeds(rows):
    """Returns iterations by second of processor time between two looks."""
    return [speed(*pair) for pair in zip(rows, rows[1:], strict=False)]


def speed(before, after):
    """Returns iterations by second of processor time."""
    seconds = after["processor_seconds"] - before["processor_seconds"]
    return (after["iteration"] - before["iteration"]) / seconds


def ends(rows):
    """Returns three rows that part the time, without its first tenth."""
    return rows[len(rows) // 10], rows[len(rows) // 2], rows[-1]


def summary(rows) -> str:
    """Returns what was seen, the first tenth of the time left out."""
    first, middle, last = ends(rows)
    thousands = (last["iteration"] - first["iteration"]) / 1e3
    return (
        f"{last['iteration']} iterations in {last['seconds'] / 3600:.2f} h. "
        f"Memory {first['memory_mb']:.0f} MB at {first['seconds'] / 60:.0f} "
        f"min, {last['memory_mb']:.0f} MB at the end, at most "
        f"{max(row['memory_mb'] for row in rows):.0f} MB. "
        f"{speed(first, middle):.0f} iterations by second of processor in the "
        f"first half, {speed(middle, last):.0f} in the second. Logs "
        f"{(last['logs_kb'] - first['logs_kb']) / thousands:.2f} kB for 1,000 "
        f"iterations; checkpoints {last['checkpoints_kb']:.0f} kB."
    )


if __name__ == "__main__":
    app.run(main)
