"""TensorFlow 1 checkpoints of the originals, in and out, by their names."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_optimizers, legacy, losses, models
from maml_tf.checkpoints import CheckpointError
from maml_tf.maml import MAML
from maml_tf.reptile import Reptile

RELEASED = "model59000"
NORMS = ("batch_norm", "layer_norm", "None")
MAML_NETWORKS = [
    (models.sinusoid_mlp, {"inputs": 1}),
    (models.sinusoid_mlp, {"inputs": 3}),
    (models.omniglot_mlp, {"ways": 3}),
    (models.omniglot_conv, {"ways": 20, "filters": 8}),
    (models.mini_imagenet_conv, {"ways": 5, "filters": 4}),
]
REPTILE_NETWORKS = [
    models.reptile_omniglot_conv,
    models.reptile_mini_imagenet_conv,
]
CONV = "conv1 Variable {0} conv2 Variable_1 {1} conv3 Variable_2 {2} conv4 "
CONV += "Variable_3 {3} w5 b5"
NAMES = {
    "sinusoid_mlp": "Variable Variable_1 {0} Variable_2 Variable_3 {2} "
    "Variable_4 Variable_5",
    "omniglot_mlp": "Variable Variable_1 {0} Variable_2 Variable_3 {2} "
    "Variable_4 Variable_5 {3} Variable_6 Variable_7 {4} Variable_8 Variable_9",
    "omniglot_conv": CONV,
    "mini_imagenet_conv": CONV,
}


def maml(network, steps=1, **options):
    return MAML(
        network,
        losses.CrossEntropy(1),
        inner_lr=0.01,
        inner_steps=steps,
        adapt="fast_weights",
        **options,
    )


def reptile(network, optimizer=None):
    optimizer = optimizer or inner_optimizers.Adam(1e-3)
    return Reptile(network, optimizer, inner_steps=2)


def shuffle(variables, seed=0):
    """Gives variables values of their own."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(rng.normal(size=variable.shape))


def tensors(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
    }


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype
        np.testing.assert_array_equal(value, right[name])


def write(prefix, values):
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )


@pytest.fixture
def released(real_data):
    return real_data / "released_maml" / RELEASED


# The released weights


def test_released_checkpoint_is_recognised(released, golden):
    found = legacy.load(released)
    assert found.iteration == 59000
    assert found.network.name == "mini_imagenet_conv"
    for word in ("ways 5", "filters 32", "norm batch_norm"):
        assert word in found.description
    arrays = golden("maml_j_released_checkpoint")
    ours = tensors(released)
    for key in arrays:
        if key.startswith("ckptname__"):
            expected = arrays[key.replace("ckptname", "weight")]
            np.testing.assert_array_equal(ours[str(arrays[key])], expected)


@pytest.mark.parametrize(
    "kind, bound",
    [pytest.param("", 1e-3, marks=pytest.mark.slow), ("_f64", 1e-6)],
)
def test_released_weights_give_the_golden_logits(
    kind, bound, released, golden, request
):
    if kind:
        request.getfixturevalue("float64")
    arrays = golden("maml_j_released_checkpoint")
    flags = json.loads(str(arrays["config"]))
    assert flags["update_lr"] == 0.01 and flags["update_batch_size"] == 1
    learner = maml(legacy.load(released).network, 10)
    dtype = learner.network.compute_dtype
    support_x, query_x = (
        tf.cast(arrays[name].reshape(2, -1, 84, 84, 3), dtype) / 255
        for name in ("inputa", "inputb")
    )
    support_y = tf.constant(arrays["labela"].argmax(-1))
    support, query, _ = learner((support_x, support_y, query_x))
    for ours, name in ((support, "logits_a"), (query[1:], "logits_b")):
        expected = arrays[name + kind]
        error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
        assert error < bound, name
    found = np.argmax(query[1:], -1) == arrays["labelb"].argmax(-1)
    np.testing.assert_allclose(
        found.mean((1, 2)), arrays["total_accuracies2"], atol=1e-6
    )


def test_released_checkpoint_is_written_as_it_was(released, tmp_path):
    legacy.save(tmp_path / RELEASED, maml(legacy.load(released).network))
    assert_same(tensors(tmp_path / RELEASED), tensors(released))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint",
        *(RELEASED + part for part in legacy.PARTS),
    ]
    latest = tf.train.latest_checkpoint(str(tmp_path))
    assert latest == str(tmp_path / RELEASED)


def test_released_checkpoint_tells_the_settings(released):
    assert legacy.settings(released) == {
        "datasource": "miniimagenet",
        "max_pool": True,
        "ways": 5,
        "num_filters": 32,
        "norm": "batch_norm",
    }


@pytest.mark.parametrize(
    "builder, arguments, told",
    [
        (models.sinusoid_mlp, (3, "layer_norm"), {"baseline": "oracle"}),
        (models.omniglot_mlp, (7,), {"conv": False, "ways": 7}),
        (models.omniglot_conv, (6, 8), {"num_filters": 8, "ways": 6}),
    ],
)
def test_settings_are_told(builder, arguments, told, tmp_path):
    network = builder(*arguments)
    legacy.save(tmp_path / "model1", maml(network))
    found = legacy.settings(tmp_path / "model1")
    assert found.items() >= told.items()
    assert found["datasource"] in network.name


@pytest.mark.parametrize(
    "builder, source",
    [*zip(REPTILE_NETWORKS, ("omniglot", "miniimagenet"), strict=True)],
)
def test_reptiles_settings_are_told(builder, source, tmp_path):
    legacy.save(tmp_path / "model.ckpt-1", reptile(builder(4)))
    told = {"datasource": source, "ways": 4}
    assert legacy.settings(tmp_path / "model.ckpt-1") == told


def test_the_index_may_be_named(released):
    assert legacy.load(f"{released}.index").iteration == 59000


# Names and round trips


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("builder, arguments", MAML_NETWORKS)
def test_maml_names_and_round_trip(builder, arguments, norm, tmp_path):
    network = builder(norm=norm, **arguments)
    shuffle(network.variables)
    prefix = tmp_path / "model12"
    legacy.save(prefix, maml(network))
    kinds = {"batch_norm": "{0}/beta", "layer_norm": "{0}/gamma {0}/beta"}
    scopes = [kinds.get(norm, "").format(scope) for scope in range(5)]
    names = NAMES[builder.__name__].format(*scopes).split()
    written = tensors(prefix)
    assert sorted(written) == sorted(f"model/{name}" for name in names)
    for name, value in zip(names, network.get_weights(), strict=True):
        np.testing.assert_array_equal(written[f"model/{name}"], value)
    found = legacy.load(prefix)
    assert list(map(type, found.network.layers)) == list(
        map(type, network.layers)
    )
    assert found.network.name == network.name
    assert found.iteration == 12
    for ours, theirs in zip(
        found.network.get_weights(), network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    legacy.save(tmp_path / "again", maml(found.network))
    assert_same(tensors(tmp_path / "again"), written)


def test_max_pooling_is_the_callers_to_say(tmp_path):
    legacy.save(tmp_path / "model1", maml(models.omniglot_conv(5, 4)))
    strided = legacy.load(tmp_path / "model1").network
    pooled = legacy.load(tmp_path / "model1", max_pool=True).network
    x = np.random.default_rng(0).normal(size=[3, 28, 28, 1])
    assert np.abs(strided(x) - pooled(x)).max() > 1e-3


@pytest.mark.parametrize("builder", REPTILE_NETWORKS)
def test_reptile_names_and_round_trip(builder, tmp_path):
    learner = reptile(builder(5))
    shuffle([*learner.network.variables, *learner.inner_state.slots])
    one, power = learner.inner_state.scalars
    one.assign(0.0)
    power.assign(0.999**7)
    prefix = tmp_path / "model.ckpt-250"
    legacy.save(prefix, learner)
    written = tensors(prefix)
    for name in ("conv2d/kernel", "conv2d_3/bias", "dense/kernel/Adam_1"):
        assert name in written
    for name in ("gamma", "beta/Adam", "moving_mean", "moving_variance"):
        assert f"batch_normalization_2/{name}" in written
    assert len(written) == 18 * 3 + 8 + 2
    assert written["beta1_power"] == 0
    np.testing.assert_allclose(written["beta2_power"], 0.999**8, 1e-6)
    other = reptile(legacy.load(prefix).network)
    assert legacy.restore(prefix, other) == 250
    for ours, theirs in zip(
        [*other.network.variables, *other.inner_variables],
        [*learner.network.variables, *learner.inner_variables],
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, 1e-6 * (ours.shape == ()))


def test_slots_are_where_the_original_has_them(golden, tmp_path):
    arrays = golden("reptile_omniglot_adam")
    slots = {
        key.removeprefix("slot__").replace("__", "/"): value
        for key, value in arrays.items()
        if key.startswith("slot__")
    }
    weights = {
        key.removeprefix("after__").replace("__", "/"): value
        for key, value in arrays.items()
        if key.startswith("after__")
    }
    prefix = tmp_path / "model.ckpt-1"
    write(prefix, {n: np.float32(v) for n, v in (weights | slots).items()})
    learner = reptile(models.reptile_omniglot_conv(5))
    legacy.restore(prefix, learner)
    scalars, (first, second) = learner.inner_state
    # Three tasks of four steps.
    np.testing.assert_allclose(scalars[1], 0.999**12, 1e-5)
    assert scalars[0] == 0
    for slot, suffix in ((first, "Adam"), (second, "Adam_1")):
        expected = np.concatenate(
            [np.ravel(slots[f"{name}/{suffix}"]) for name in weights]
        )
        np.testing.assert_array_equal(slot, np.float32(expected))


def test_slots_that_are_missing_are_named_and_nothing_is_set(tmp_path):
    prefix = tmp_path / "model.ckpt-2"
    legacy.save(prefix, reptile(models.reptile_omniglot_conv(5)))
    values = tensors(prefix)
    del values["dense/kernel/Adam_1"]
    write(prefix, values)
    learner = reptile(models.reptile_omniglot_conv(5))
    shuffle(learner.inner_state.slots)
    before = [v.numpy() for v in learner.inner_variables]
    assert "1 missing: dense/kernel/Adam_1" in refused(prefix, learner)
    for ours, theirs in zip(learner.inner_variables, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_that_has_not_begun_has_the_first_powers(tmp_path):
    learner = reptile(models.reptile_omniglot_conv(5))
    legacy.save(tmp_path / "model.ckpt-0", learner)
    learner.inner_state.scalars[0].assign(0.5)
    legacy.restore(tmp_path / "model.ckpt-0", learner)
    assert [float(v) for v in learner.inner_state.scalars] == [1.0, 1.0]


def test_without_slots_the_inner_optimizer_is_left_alone(tmp_path):
    plain = reptile(models.reptile_omniglot_conv(5), inner_optimizers.SGD(0.1))
    legacy.save(tmp_path / "model.ckpt-3", plain)
    learner = reptile(models.reptile_omniglot_conv(5))
    shuffle(learner.inner_state.slots)
    before = [v.numpy() for v in learner.inner_variables]
    legacy.restore(tmp_path / "model.ckpt-3", learner)
    for ours, theirs in zip(learner.inner_variables, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Wrong input


@pytest.fixture
def good(tmp_path):
    """A checkpoint of Omniglot's network with 4 filters."""
    network = models.omniglot_conv(5, 4)
    legacy.save(tmp_path / "good" / "model5", maml(network))
    return tmp_path / "good" / "model5"


def refused(prefix, learner=None):
    """Returns the message; the learner is as it was."""
    learner = learner or maml(models.omniglot_conv(5, 4))
    before = learner.network.get_weights()
    with pytest.raises(CheckpointError) as error:
        legacy.restore(prefix, learner)
    for ours, theirs in zip(learner.network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert str(prefix) in str(error.value)
    return str(error.value)


def test_no_file_is_named(tmp_path):
    assert "found no file" in refused(tmp_path / "model7")


def test_an_index_without_its_data_is_named(good):
    good.with_name("model5.data-00000-of-00001").unlink()
    assert "model5.data-00000-of-00001" in refused(good)


@pytest.mark.parametrize("part", legacy.PARTS)
def test_truncated_files_are_refused(part, good):
    path = good.with_name("model5" + part)
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged" in refused(good)


def test_flipped_data_are_refused(good):
    path = good.with_name("model5" + legacy.PARTS[0])
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert "damaged" in refused(good)


def test_another_size_is_named(good):
    message = refused(good, maml(models.omniglot_conv(5, 8)))
    assert "shape: model/conv1 (3, 3, 1, 4), expected (3, 3, 1, 8)" in message


def test_what_is_missing_is_named(good):
    wanted = models.omniglot_conv(5, 4, norm="layer_norm")
    message = refused(good, maml(wanted))
    assert "expected 18 tensors, found 14" in message
    assert "4 missing: model/0/gamma; model/1/gamma" in message


def test_what_is_too_much_is_named(good):
    wanted = models.omniglot_conv(5, 4, norm="None")
    message = refused(good, maml(wanted))
    assert "4 not expected: model/0/beta" in message


def test_a_foreign_checkpoint_is_named(tmp_path):
    write(tmp_path / "other", {"layer/w": np.zeros([3, 4], np.float32)})
    message = refused(tmp_path / "other")
    assert "1 not expected: layer/w" in message
    with pytest.raises(CheckpointError) as error:
        legacy.load(tmp_path / "other")
    for name in ("model/conv1", "conv2d/kernel", "found 1 tensors: layer/w"):
        assert name in str(error.value)


def test_a_network_of_ones_own_has_no_layout(tmp_path):
    network = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    with pytest.raises(CheckpointError, match="no counterpart"):
        legacy.save(tmp_path / "model1", maml(network))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_what_was_there(good, monkeypatch):
    before = {p.name: p.read_bytes() for p in good.parent.iterdir()}

    def full(**arguments):
        raise OSError("disk full")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", full)
    with pytest.raises(OSError, match="disk full"):
        legacy.save(good, maml(models.omniglot_conv(5, 8)))
    after = {p.name: p.read_bytes() for p in good.parent.iterdir()}
    assert after == before


def test_an_index_takes_its_place_after_its_data(tmp_path, monkeypatch):
    """Killed in between, it would be an old one's or a new one's alone."""
    replace, placed = os.replace, []

    def keep(source, target):
        placed.append(os.path.splitext(target)[1])
        replace(source, target)

    monkeypatch.setattr(legacy.os, "replace", keep)
    legacy.save(tmp_path / "model1", maml(models.sinusoid_mlp(1)))
    assert placed[:2] == [".data-00000-of-00001", ".index"]


def test_optimizer_tensors_of_a_maml_run_are_left_out(good):
    values = tensors(good)
    # Pretraining and meta-training have an Adam each.
    for slot in ("Adam", "Adam_1", "Adam_2", "Adam_3"):
        values[f"model/conv1/{slot}"] = values["model/conv1"]
    for power in ("beta1_power", "beta2_power_1"):
        values[power] = np.float32(0.9)
    write(good, values)
    learner = maml(models.omniglot_conv(5, 4))
    legacy.restore(good, learner)
    kernel, *_ = learner.network.get_weights()
    np.testing.assert_array_equal(kernel, values["model/conv1"])


def test_a_name_may_look_like_a_pattern(tmp_path):
    prefix = tmp_path / "[x] *? %s" / "model7"
    prefix.parent.mkdir()
    network = models.sinusoid_mlp(1)
    legacy.save(prefix, maml(network))
    loaded = legacy.load(prefix)
    assert loaded.iteration == 7
    for ours, theirs in zip(
        network.get_weights(), loaded.network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "iteration"),
    [
        ("model59000", 59000),
        ("model59000.index", 59000),
        ("model.ckpt-100000", 100000),
        ("model5/weights3", 0),
        ("run1", 0),
        ("old_model7", 0),
    ],
)
def test_only_the_originals_names_tell_an_iteration(name, iteration):
    assert legacy._iteration(name) == iteration
