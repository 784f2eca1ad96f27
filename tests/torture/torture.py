"""Kills trainings at random instants until they are done nevertheless.

    ./run_tests.sh --torture
    python tests/torture/torture.py --kills=200 --data_dir=data

Each kind of training first runs undisturbed. Then it is started again and
again in another folder by the same command, and killed each time, from outside
at a random instant or by itself in the middle of saving, until it ends. What
it leaves has to be the same bit for bit: all checkpoints with weights,
optimizer and metrics, all tables, and TensorBoard's scalars, none lost and
none doubled. That repeats until there were enough kills.
"""

import concurrent.futures
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

VICTIM = pathlib.Path(__file__).with_name("victim.py")
KINDS = {
    "maml, sinusoid": "maml --metatrain_iterations=3000 --norm=None",
    "maml, omniglot": "maml --datasource=omniglot --metatrain_iterations=600 "
    "--num_classes=2 --num_filters=4 --meta_batch_size=2 "
    "--update_batch_size=1 --update_lr=0.4",
    "reptile, sinusoid": "reptile --datasource=sinusoid --meta-iters=2000 "
    "--inner-iters=2 --eval-samples=20 --eval-interval=100",
    "reptile, omniglot": "reptile --classes=2 --shots=1 --meta-iters=600 "
    "--inner-iters=1 --eval-samples=20 --eval-interval=100 --eval-iters=2",
}
FILE_STEPS = 60
"""A run does at least so many things to files."""

FLAGS = flags.FLAGS
flags.DEFINE_integer("kills", 200, "Kills in all, at least.", lower_bound=1)
flags.DEFINE_multi_enum("kind", list(KINDS), list(KINDS), "What to train.")
flags.DEFINE_string("data_dir", "data", "See `maml-tf --help`.")
flags.DEFINE_integer("seed", 0, "Of the instants.")
flags.DEFINE_integer("jobs", 2, "Trainings side by side.", lower_bound=1)


def main(argv):
    """Tortures the kinds side by side; the exit status says how it went."""
    if argv[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    kills = -(-FLAGS.kills // len(FLAGS.kind))
    with concurrent.futures.ThreadPoolExecutor(FLAGS.jobs) as pool:
        survived = list(pool.map(lambda k: torture(k, kills), FLAGS.kind))
    print(f"{sum(survived)} kills survived.")


def torture(kind: str, kills: int) -> int:
    """Tortures one kind of training and returns how many kills it survived.

    Raises:
      AssertionError: if an end is not that of the undisturbed run.
    """
    draw = random.Random(f"{FLAGS.seed} {kind}")
    died = runs = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        expected, seconds = undisturbed(kind, folder / "undisturbed")
        while died < kills:
            place = folder / f"run{runs}"
            died += killed_until_done(kind, place, seconds, draw)
            runs += 1
            require_same(f"{kind}, run {runs}", result(place), expected)
            print(f"{kind}: {died} kills in {runs} runs, same end", flush=True)
    return died


def undisturbed(kind, folder):
    """Returns what a training leaves, and how long it takes in s."""
    start = time.monotonic()
    status = launch(kind, folder, step=0).wait()
    assert status == 0, f"{kind}: undisturbed, status {status}"
    return result(folder), time.monotonic() - start


def killed_until_done(kind, folder, seconds, draw):
    """Starts a training until it ends, and returns how often it was killed."""
    kills = 0
    while True:
        itself = draw.random() < 0.5
        step = draw.randint(1, FILE_STEPS) if itself else 0
        process = launch(kind, folder, step)
        try:
            status = process.wait(
                None if itself else draw.uniform(0, 1.2 * seconds)
            )
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        assert status in (0, -9), f"{kind}: status {status}"
        if status == 0:
            return kills
        kills += 1


def launch(kind, folder, step):
    """Starts a training in a process of its own."""
    program, *arguments = KINDS[kind].split()
    where = "--logdir" if program == "maml" else "--checkpoint"
    folder.mkdir(exist_ok=True)
    with open(folder.with_suffix(".txt"), "a") as output:
        return subprocess.Popen(
            [
                sys.executable,
                VICTIM,
                program,
                str(step),
                *arguments,
                f"--data_dir={FLAGS.data_dir}",
                f"{where}={folder / 'log'}",
            ],
            stdout=output,
            stderr=output,
        )


def result(folder):
    """Returns all that a training left, by file: bytes, arrays or scalars."""
    found = {}
    for path in sorted((folder / "log").rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".npz":
            with np.load(path) as file:
                found[name] = {k: file[k].tobytes() for k in sorted(file)}
                # The folder's own name is part of the settings.
                del found[name]["settings"], found[name]["checksum"]
        elif ".tfevents." in path.name:
            shown = found.setdefault(str(pathlib.Path(name).parent), {})
            for tag, point in scalars(path):
                shown.setdefault(tag, []).append(point)
        elif path.suffix == ".csv" and path.stem != "seconds":
            found[name] = path.read_bytes()
    return found


def scalars(path):
    """Yields tag, step and value of all that is in a TensorBoard file."""
    import tensorflow as tf

    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            number = float(tf.make_ndarray(value.tensor))
            yield value.tag, (event.step, number)


def require_same(title, found, expected):
    """Raises `AssertionError` if two results differ, and says in what."""
    faults = [
        *(f"{name} is missing" for name in expected.keys() - found.keys()),
        *(f"{name} is left over" for name in found.keys() - expected.keys()),
        *(
            f"{name} differs {place(found[name], expected[name])}"
            for name in found.keys() & expected.keys()
            if found[name] != expected[name]
        ),
    ]
    assert not faults, f"{title}: {'; '.join(sorted(faults))}"


def place(found, expected):
    """Returns where two contents of a file differ, if they have names."""
    if isinstance(found, bytes):
        return "in its rows"
    names = sorted(
        name
        for name in {*found, *expected}
        if found.get(name) != expected.get(name)
    )
    return f"in {', '.join(names)}"


if __name__ == "__main__":
    app.run(main)
