"""The originals' TensorFlow 1 checkpoints, read and written by name.

A checkpoint is `PREFIX.index` and `PREFIX.data-00000-of-00001`; the index file
`checkpoint` of a folder is not needed.
"""

import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maml_tf import descent, files, models
from maml_tf.checkpoints import CheckpointError

PARTS = (".data-00000-of-00001", ".index")  # the index completes it
_BETA_2 = 0.999  # of the original's inner Adam
_SLOTS = ("Adam", "Adam_1")  # first and second moments
_MOVING = {"moving_mean": np.zeros, "moving_variance": np.ones}
_LEFT_OUT = re.compile(
    r"(Adam|beta[12]_power)(_\d+)?|moving_(mean|variance)|global_step"
)


class Legacy(NamedTuple):
    """A checkpoint of cbfinn/maml or supervised-reptile.

    Attributes:
      network: a built Keras model with the checkpoint's weights.
      description: the architecture, in words.
      iteration: N of the originals' names, `modelN` and `model.ckpt-N`; 0 of
        others.
    """

    network: keras.Model
    description: str
    iteration: int


def load(prefix: str | os.PathLike[str], *, max_pool: bool = False) -> Legacy:
    """Returns the network of a checkpoint, told from its tensors.

    Args:
      prefix: of the checkpoint's files, `logs/…/model59000`.
      max_pool: whether Omniglot's network of cbfinn/maml has max-pooling,
        which the tensors do not tell.

    Raises:
      CheckpointError: if there is none, or it is damaged or of another
        program.
    """
    tensors = _read(prefix)
    builder, arguments = _known(prefix, tensors, max_pool)
    network = builder(**arguments)
    _assign(prefix, tensors, dict(_weights(network)))
    words = ", ".join(f"{name} {value}" for name, value in arguments.items())
    return Legacy(network, f"{network.name}, {words}", _iteration(prefix))


def settings(prefix: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a checkpoint's tensors tell of a run's settings.

    The names are fields of `config.Config` and `ReptileConfig`.

    Args:
      prefix: of the checkpoint's files.

    Raises:
      CheckpointError: see `load`.
    """
    builder, arguments = _known(prefix, _read(prefix), max_pool=False)
    _, told = _NETWORKS[builder.__name__]
    if arguments.get("inputs") == 3:
        told = {**told, "baseline": "oracle"}
    names = {"ways": "ways", "filters": "num_filters", "norm": "norm"}
    return told | {names[a]: v for a, v in arguments.items() if a in names}


def restore(prefix: str | os.PathLike[str], learner: keras.Model) -> int:
    """Sets a meta-learner to a checkpoint, and returns its iteration.

    Besides the network's weights that is what Reptile's inner Adam remembers,
    if the checkpoint has it. Nothing is set if anything is wrong.

    Args:
      prefix: of the checkpoint's files.
      learner: a MAML or Reptile whose network is one of the papers'.

    Raises:
      CheckpointError: if there is none, or it is damaged or of another
        architecture.
    """
    tensors = _read(prefix)
    weights = dict(_weights(learner.network))
    inner = learner.inner_variables if "beta2_power" in tensors else []
    values = _inner_state(prefix, tensors, weights) if inner else []
    _assign(prefix, tensors, weights)
    for variable, value in zip(inner, values, strict=True):
        variable.assign(value)
    return _iteration(prefix)


def save(prefix: str | os.PathLike[str], learner: keras.Model) -> None:
    """Writes a checkpoint as the original program would.

    The files are written beside and renamed, the index last; then the
    folder's file `checkpoint` names it as the latest.

    Args:
      prefix: of the checkpoint's files.
      learner: see `restore`.

    Raises:
      CheckpointError: if the network is none of the papers', or the prefix
        names no file.
      OSError: if the files cannot be written.
    """
    path = os.fspath(prefix)
    if not os.path.basename(path) or path.endswith(PARTS):
        raise CheckpointError(
            f"{path!r}: expected the prefix of the files to write, such as "
            "FOLDER/model1000, found the name of a folder or of one file."
        )
    tensors = {n: np.asarray(v) for n, v in _weights(learner.network)}
    tensors |= _unused(learner.network)
    if learner.inner_variables:
        tensors |= _slots(learner)
    _write(pathlib.Path(prefix), tensors)


def _write(prefix, tensors):
    with _folder_beside(prefix) as beside:
        path = os.path.join(beside, prefix.name)
        names = sorted(tensors)
        try:
            tf.raw_ops.SaveV2(
                prefix=path,
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[tensors[name] for name in names],
            )
        except tf.errors.OpError as error:
            raise OSError(f"{prefix}: {error.message}") from error
        for part in PARTS:
            os.replace(path + part, f"{prefix}{part}")
    # Where the originals look for the latest checkpoint.
    with files.replacing(prefix.with_name("checkpoint")) as file:
        file.write(f'model_checkpoint_path: "{prefix.name}"\n'.encode())


def _folder_beside(prefix):
    """Makes a folder, for a while, where the files will be."""
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=prefix.parent)
    except OSError as error:
        raise OSError(f"{prefix}: {error.strerror}") from error


def _weights(network) -> Iterator[tuple[str, keras.Variable]]:
    """Yields the original's name of each weight, and the weight."""
    if network.name not in _NETWORKS:
        raise CheckpointError(
            f"The network {network.name!r} has no counterpart in the originals."
            f" Expected one of {', '.join(_NETWORKS)}."
        )
    names, _ = _NETWORKS[network.name]
    kernels = -1
    for variable in network.trainable_variables:
        kernels += variable.name == "kernel"
        last = variable is network.layers[-1].kernel
        last |= variable is network.layers[-1].bias
        yield names(variable.name, kernels, last), variable


def _maml_conv(kind, block, last):
    if last:
        return {"kernel": "model/w5", "bias": "model/b5"}[kind]
    return {
        "kernel": f"model/conv{block + 1}",
        "bias": f"model/Variable{_suffix(block)}",
    }.get(kind, f"model/{block}/{kind}")


def _maml_dense(kind, layer, last):
    scope = layer + (layer > 0)  # there is no scope 1
    return {
        "kernel": f"model/Variable{_suffix(2 * layer)}",
        "bias": f"model/Variable{_suffix(2 * layer + 1)}",
    }.get(kind, f"model/{scope}/{kind}")


def _reptile(kind, block, last):
    if last:
        return f"dense/{kind}"
    scope = "conv2d" if kind in ("kernel", "bias") else "batch_normalization"
    return f"{scope}{_suffix(block)}/{kind}"


_MINI_IMAGENET = {"datasource": "miniimagenet"}
_OMNIGLOT = {"datasource": "omniglot"}
_NETWORKS = {
    "sinusoid_mlp": (_maml_dense, {"datasource": "sinusoid"}),
    "omniglot_mlp": (_maml_dense, {**_OMNIGLOT, "conv": False}),
    "omniglot_conv": (_maml_conv, _OMNIGLOT),
    "mini_imagenet_conv": (_maml_conv, {**_MINI_IMAGENET, "max_pool": True}),
    "reptile_omniglot_conv": (_reptile, _OMNIGLOT),
    "reptile_mini_imagenet_conv": (_reptile, _MINI_IMAGENET),
}
"""How an original names a network's weights, and the settings it tells."""


def _suffix(index):
    """TensorFlow 1 numbers names from the second on."""
    return f"_{index}" if index else ""


def _known(prefix, tensors, max_pool):
    """Returns what `_architecture` does; refuses axes that are missing."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        return _architecture(prefix, shapes, max_pool)
    except (IndexError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        found = "; ".join(f"{n} {s}" for n, s in list(shapes.items())[:5])
        raise CheckpointError(
            f"{prefix}: expected the tensors of a network, found other shapes: "
            f"{found}."
        ) from error


def _architecture(prefix, shapes, max_pool):
    """Returns the function that builds the network, and its arguments."""
    if "model/conv1" in shapes and "model/b5" in shapes:
        *_, channels, filters = shapes["model/conv1"]
        arguments = {"ways": shapes["model/b5"][0], "filters": filters}
        arguments["norm"] = _norm(shapes)
        if channels == 3:
            return models.mini_imagenet_conv, arguments
        return models.omniglot_conv, {**arguments, "max_pool": max_pool}
    if len(inputs := shapes.get("model/Variable", ())) == 2:
        arguments = {"norm": _norm(shapes)}
        if inputs[0] == 784:
            arguments["ways"] = shapes.get("model/Variable_9", (2,))[0]
            return models.omniglot_mlp, arguments
        return models.sinusoid_mlp, {"inputs": inputs[0], **arguments}
    if "conv2d/kernel" in shapes and "dense/bias" in shapes:
        arguments = {"ways": shapes["dense/bias"][0]}
        if shapes["conv2d/kernel"][2] == 3:
            return models.reptile_mini_imagenet_conv, arguments
        return models.reptile_omniglot_conv, arguments
    raise CheckpointError(
        f"{prefix}: expected a checkpoint of cbfinn/maml (model/conv1, "
        "model/b5 or model/Variable, …) or of supervised-reptile "
        f"(conv2d/kernel, dense/bias, …), found {len(shapes)} "
        f"tensors: {'; '.join(list(shapes)[:5])}"
    )


def _norm(shapes):
    if "model/0/gamma" in shapes:
        return "layer_norm"
    return "batch_norm" if "model/0/beta" in shapes else "None"


def _read(prefix) -> dict[str, np.ndarray]:
    """Returns all tensors of a checkpoint by name."""
    prefix = os.fspath(prefix).removesuffix(".index")
    for part in reversed(PARTS):
        if not os.path.exists(prefix + part):
            raise CheckpointError(
                f"{prefix}: expected a TensorFlow 1 checkpoint, found no file "
                f"{prefix}{part}."
            )
    try:
        tensors = _tensors(prefix)
    # The reader raises its own errors, and some of Python's.
    except Exception as error:
        raise CheckpointError(
            f"{prefix}: expected a TensorFlow 1 checkpoint, found damaged files"
            f" ({error}). Copy them again."
        ) from error
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.number):
            raise CheckpointError(
                f"{prefix}: expected numbers in {name}, found {tensor.dtype}."
            )
    return tensors


def _tensors(prefix):
    """Reads by links of plain names: to TensorFlow *, ? and [] are patterns."""
    with tempfile.TemporaryDirectory() as folder:
        plain = os.path.join(folder, "model")
        for part in PARTS:
            os.symlink(os.path.abspath(prefix + part), plain + part)
        reader = tf.train.load_checkpoint(plain)
        names = reader.get_variable_to_shape_map()
        return {name: reader.get_tensor(name) for name in sorted(names)}


def _assign(prefix, tensors, variables):
    """Sets variables to tensors of the same names, all or none of them."""
    expected = {name: tuple(v.shape) for name, v in variables.items()}
    found = {
        name: tensor.shape
        for name, tensor in tensors.items()
        if not _is_left_out(name)
    }
    _require(prefix, expected, found)
    for name, variable in variables.items():
        variable.assign(tensors[name])


def _require(prefix, expected, found):
    """Refuses tensors of other names or shapes than expected."""
    if found != expected:
        raise CheckpointError(
            f"{prefix} is of another architecture: expected {len(expected)} "
            f"tensors, found {len(found)}.{_differences(expected, found)}"
        )


def _differences(expected, found):
    """Returns a line for each way in which names and shapes differ."""
    both = expected.keys() & found.keys()
    lines = {
        "missing": [n for n in expected if n not in both],
        "not expected": [n for n in found if n not in both],
        "of another shape": [
            f"{n} {found[n]}, expected {expected[n]}"
            for n in expected
            if n in both and found[n] != expected[n]
        ],
    }
    return "".join(
        f"\n  {len(names)} {kind}: {'; '.join(names[:5])}"
        for kind, names in lines.items()
        if names
    )


def _is_left_out(name):
    """Whether a tensor is an optimizer's, or a moving average, never used."""
    return _LEFT_OUT.fullmatch(name.split("/")[-1]) is not None


def _unused(network):
    """Returns what the original saves and never uses: moving averages."""
    return {
        name.replace("beta", moving): start(variable.shape, np.float32)
        for name, variable in _weights(network)
        if name.startswith("batch_normalization") and name.endswith("beta")
        for moving, start in _MOVING.items()
    }


def _inner_state(prefix, tensors, weights):
    """Returns what Adam remembers, as `learner.inner_variables` holds it.

    The original's powers are those of the next step, ours of the last.
    """
    power = tensors["beta2_power"] / np.float32(_BETA_2)
    vectors = []
    for slot in _SLOTS:
        shapes = {f"{n}/{slot}": tuple(v.shape) for n, v in weights.items()}
        found = {n: tensors[n].shape for n in shapes if n in tensors}
        _require(prefix, shapes, found)
        vectors.append(np.concatenate([tensors[n].ravel() for n in shapes]))
    return [float(power >= 1), power, *vectors]


def _slots(learner):
    """Returns the original's tensors of what Adam remembers."""
    _, power, *slots = map(np.asarray, learner.inner_variables)
    tensors = {
        "beta1_power": np.float32(0),
        "beta2_power": np.float32(power * _BETA_2),
    }
    weights = list(_weights(learner.network))
    for slot, vector in zip(_SLOTS, slots, strict=True):
        parts = descent.unravel(vector, [v.shape for _, v in weights])
        for (name, _), part in zip(weights, parts, strict=True):
            tensors[f"{name}/{slot}"] = np.asarray(part)
    return tensors


def _iteration(prefix):
    """Returns N of the originals' names, `modelN` and `model.ckpt-N`, or 0."""
    name = os.path.basename(os.fspath(prefix).removesuffix(".index"))
    digits = re.fullmatch(r"model(?:\.ckpt-)?(\d+)", name)
    return int(digits[1]) if digits else 0
