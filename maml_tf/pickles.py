"""Pickles of arrays, read without running anything that they name.

A pickle is a program. Those of mini-ImageNet need to call nothing but what
rebuilds NumPy's arrays and Python's containers; any other is refused.
"""

import codecs
import collections
import pickle
from typing import Any, BinaryIO

import numpy as np


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle that asks for more than arrays and containers."""


def load(file: BinaryIO) -> Any:
    """Returns what is pickled: NumPy arrays, numbers, text and containers.

    Text of Python 2 comes as bytes, which takes half the memory in arrays.

    Args:
      file: opened for reading.

    Raises:
      UnsafePickleError: if the pickle names any other class or function;
        nothing of it was called.
      pickle.UnpicklingError, EOFError: if it is damaged.
    """
    return _ArrayUnpickler(file, encoding="bytes").load()


def _encode(text, encoding):
    """Stands for `_codecs.encode`, by which Python 3 writes bytes for 2."""
    return codecs.latin_1_encode(text)[0]


# NumPy's own functions have no public name.
_RECONSTRUCT, _SCALAR, _FROM_BUFFER = (
    value.__reduce_ex__(protocol)[0]
    for value, protocol in (
        (np.empty(0), 2),
        (np.int64(), 2),
        (np.empty(0), 5),
    )
)
_CONTAINERS = (list, dict, set, frozenset, tuple)
_ALLOWED = {
    ("multiarray", "_reconstruct"): _RECONSTRUCT,
    ("multiarray", "scalar"): _SCALAR,
    ("numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    **{("builtins", kind.__name__): kind for kind in _CONTAINERS},
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        # NumPy 2 calls numpy._core what was numpy.core.
        for package in ("numpy.core.", "numpy._core."):
            module = module.removeprefix(package)
        module = module.replace("__builtin__", "builtins")
        if (module, name) not in _ALLOWED:
            raise UnsafePickleError(
                f"it asks for {module}.{name}; expected arrays, numbers, text "
                "and containers only, so it was not read"
            )
        return _ALLOWED[module, name]
