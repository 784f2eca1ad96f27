"""Arrays and containers are read; nothing else is, and nothing is run."""

import collections
import io
import os
import pickle

import numpy as np
import pytest
from contents import Runs

from maml_tf import pickles

# {"d": np.array([0, 1, 255], np.uint8)}, as Python 2 wrote it.
PYTHON_2 = (
    b"\x80\x02}q\x01U\x01dcnumpy.core.multiarray\n_reconstruct\ncnumpy\n"
    b"ndarray\nK\x00\x85U\x01b\x87R(K\x01K\x03\x85cnumpy\ndtype\nU\x02u1K\x00"
    b"K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    b"U\x03\x00\x01\xfftbs."
)


def loaded(content):
    return pickles.load(io.BytesIO(content))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, "text", b"bytes", None, True], "b": (1, {2, 3})},
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        np.int64(3),
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.asfortranarray(np.ones([2, 3], np.float32)),
        np.array(["a", None], object),
    ],
)
def test_reads_what_was_written(value, protocol):
    found = loaded(pickle.dumps(value, protocol))
    assert type(found) is type(value)
    assert (
        np.array_equal(found, value)
        if hasattr(value, "shape")
        else (found == value)
    )


def test_reads_what_python_2_wrote():
    (key, value), *rest = loaded(PYTHON_2).items()
    assert key == b"d" and not rest
    np.testing.assert_array_equal(value, np.array([0, 1, 255], np.uint8))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        Runs(os.mkdir, "made"),
        Runs(eval, "open('made', 'w')"),
        Runs(np.save, "made", 1),
        [np.array([Runs(os.mkdir, "made")], object)],
        {"deep": [(Runs(os.system, "touch made"),)]},
        np.load,
    ],
)
def test_anything_else_is_refused(value, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(value, protocol)
    with pytest.raises(pickles.UnsafePickleError, match="it asks for"):
        loaded(content)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1] * 9)[:-3]])
def test_what_is_damaged_is_refused(content):
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        loaded(content)
