"""Trains on data of mini-ImageNet's size, and tells the memory that it takes.

    python benchmarks/large_data.py

60,000 photographs of 84 × 84 are made up, 600 in each of mini-ImageNet's 100
classes, as JPEG files in class folders. `maml-tf` packs them and trains on
them, and then evaluates, each in a process of its own with the published
settings but for its length. Memory is the most that was resident at a time,
pages of the packed file that the system keeps for the process included.
"""

import io
import pathlib
import resource
import subprocess
import sys
import tempfile

import numpy as np
import tqdm
from absl import app, flags
from PIL import Image

from maml_tf import mini_imagenet
from maml_tf.image_classes import PARTS

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", 600, "In each class.", lower_bound=1)
flags.DEFINE_integer("iterations", 100, "Of training.", lower_bound=1)

FOLDERS = dict(zip(PARTS, ("train", "val", "test"), strict=True))
FLAGFILE = (
    pathlib.Path(__file__).parents[1]
    / "flags/classification/miniimagenet_1shot.flags"
)


def main(argv):
    """Makes up the data, trains, evaluates, and prints the memory of each."""
    if argv[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        count = make_up(folder / "data" / "miniImagenet")
        peak = run(folder)
        print(f"{count} images: training took {peak:.2f} GB at most.")
        peak = run(folder, "--train=False", "--test_set=True")
        print(f"With evaluation, the larger of both: {peak:.2f} GB.")


def make_up(folder: pathlib.Path) -> int:
    """Writes class folders of smooth random photographs; returns how many."""
    rng = np.random.default_rng(0)
    places = [
        folder / FOLDERS[part] / name
        for part in PARTS
        for name in mini_imagenet.class_list(part)
    ]
    for place in tqdm.tqdm(places, "Making photographs", disable=None):
        place.mkdir(parents=True)
        for i in range(FLAGS.images):
            name = f"{place.name}{i + 1:08}.jpg"
            (place / name).write_bytes(photograph(rng))
    return len(places) * FLAGS.images


def photograph(rng) -> bytes:
    """Returns a JPEG of 84 × 84 smooth colours."""
    coarse = rng.integers(0, 256, (6, 6, 3), "uint8")
    file = io.BytesIO()
    Image.fromarray(coarse).resize((84, 84)).save(file, "jpeg")
    return file.getvalue()


def run(folder: pathlib.Path, *more: str) -> float:
    """Runs `maml-tf`; returns the most memory of any such run so far, in GB."""
    subprocess.run(
        [
            *(sys.executable, "-m", "maml_tf.main", f"--flagfile={FLAGFILE}"),
            f"--data_dir={folder / 'data'}",
            f"--cache_dir={folder / 'cache'}",
            f"--logdir={folder / 'log'}",
            f"--metatrain_iterations={FLAGS.iterations}",
            *more,
        ],
        check=True,
    )
    # In kB, on Linux.
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


if __name__ == "__main__":
    app.run(main)
