"""What several tests share: float64, and where the shared files are."""

import os
import pathlib

import keras
import numpy as np
import pytest

# Tests run side by side, see run_tests.sh: one core for an operation of each.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
# As `--deterministic`, here and in the programs that tests start.
os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def seeded():
    """Seeds what draws numbers without a seed of its own."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def not_deterministic():
    """Lets TensorFlow and Keras do as they do without `--deterministic`.

    XLA then compiles what Keras trains, and the gradient of max-pooling.
    """
    from tensorflow.python.framework import config

    before = config.is_op_determinism_enabled()
    config.disable_op_determinism()
    yield
    if before:
        config.enable_op_determinism()


@pytest.fixture
def float64():
    """Makes new layers, losses and optimizers compute in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def golden():
    """Returns a reader of the originals' arrays, by name without ending."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"needs the golden files of the originals in {folder}")
    return lambda name: dict(np.load(folder / f"{name}.npz"))


@pytest.fixture
def real_data():
    """Returns the folder with the real Omniglot archives."""
    folder = SHARED / "data"
    if not (folder / "omniglot").is_dir():
        pytest.skip(f"needs the Omniglot archives in {folder}/omniglot")
    return folder


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory):
    """Returns the folder where the real Omniglot is packed."""
    return tmp_path_factory.mktemp("real")


@pytest.fixture
def unread():
    """Returns a stream that nobody reads any more: a line fails at once."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as stream:
        yield stream


@pytest.fixture
def often(monkeypatch):
    """Saves every 100 iterations."""
    monkeypatch.setattr("maml_tf.train.SAVE_INTERVAL", 100)


@pytest.fixture
def no_network(monkeypatch):
    """Nothing can be downloaded."""
    from maml_tf import omniglot

    def fail():
        raise OSError("no network")

    monkeypatch.setattr(omniglot, "_tfds_rows", fail)


@pytest.fixture
def home(no_network, monkeypatch, tmp_path):
    """Returns an empty current folder; what is used by default is beside it.

    There is no network.
    """
    for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"
