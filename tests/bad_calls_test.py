"""Wrong arguments and tensors: a `ValueError` says what was expected."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from snapshots import check_error

from maml_tf import (
    ANIL,
    FOML,
    MAML,
    JointTraining,
    MAMLPlusPlus,
    MetaSGD,
    Reptile,
    losses,
    share_cores,
    tasks,
)
from maml_tf.cache import DataError
from maml_tf.evaluation import adaptation_curve
from maml_tf.inner_optimizers import SGD, Adam

NAN = float("nan")
CROSS_ENTROPY = losses.CrossEntropy(1)


@pytest.fixture(autouse=True)
def here(home):
    """Nothing is written, wherever it would be."""
    return home.parent


def by_name(table):
    return pytest.mark.parametrize("row", table.values(), ids=table)


# Data of one's own

X, Y = np.zeros([8, 3]), np.repeat([0, 1], 4)


def arrays(x=X, y=Y, **changes):
    options = {"ways": 2, "shots": 1, "queries": 1, **changes}
    return lambda: tasks.from_arrays(x, y, **options)


def with_nan(y):
    return np.where(np.arange(len(y)) == 2, NAN, y)


ARRAYS = {
    "a number": (arrays(3.0), "x: expected an array of numbers"),
    "no x": (arrays(None), "x: expected an array of numbers"),
    "no arrays": (arrays({}), "x: expected an array or several, found none"),
    "text": (arrays(np.array(["a"] * 8)), "x: expected an array of numbers"),
    "objects": (
        arrays(np.array([None] * 8)),
        "x: expected an array of numbers, an example in each row, found object",
    ),
    "complex numbers": (arrays(X + 0j), "found complex128 of shape (8, 3)"),
    "rows of two lengths": (
        arrays([[1.0], [2.0, 3.0]] * 4),
        "x: expected rows of one shape",
    ),
    "a number in a dictionary": (
        arrays({"a": X, "b": 3}),
        "found int64 of shape ()",
    ),
    "two lengths": (
        arrays({"a": X, "b": X[:5]}),
        "one label for each of the 5 examples, found an array of shape (8,)",
    ),
    "labels in a column": (arrays(y=Y[:, None]), "found an array of shape (8,"),
    "one label": (arrays(y=3), "found an array of shape ()"),
    "no labels": (arrays(y=None), "found an array of shape ()"),
    "too few labels": (arrays(y=Y[:7]), "the 8 examples, found an array of"),
    "one-hot labels": (
        arrays(y=np.eye(2)[Y]),
        "found an array of shape (8, 2)",
    ),
    "labels of two kinds": (
        arrays(y=np.array([0, "a"] * 4, object)),
        "y: expected labels of one kind",
    ),
    "labels of rows": (arrays(y=[[1], [2, 3]] * 4), "y: expected rows of one"),
    "labels of which one is none": (
        arrays(y=with_nan(Y)),
        "y: expected a label",
    ),
    "no examples": (arrays(X[:0], Y[:0]), "2 different classes (ways)"),
    "more ways than classes": (arrays(ways=3), "3 different classes (ways)"),
    "too many shots": (arrays(shots=4), "5 different examples of a class"),
    "too many queries": (arrays(queries=4), "only 4 are available in 0"),
    **{
        f"{name} = {number}": (
            arrays(**{name: number}),
            f"{name}: expected {kind}, got {number!r}",
        )
        for name in ("ways", "shots", "queries", "meta_batch_size")
        for kind, *numbers in (
            ("at least 1", 0, -1),
            ("an integer", 1.5, "2", None),
        )
        for number in numbers
    },
    "a start below zero": (arrays(start=-1), "start: expected at least 0"),
    "a start that is text": (arrays(start="a"), "start: expected an integer"),
}


@by_name(ARRAYS)
def test_arrays(row, here):
    call, fragment = row
    check_error(call, [fragment], here)


def directory(part="train", **changes):
    options = {"image_size": 16, "ways": 2, "shots": 1, "queries": 1}
    return lambda: tasks.from_directory("data", part, **options | changes)


DIRECTORIES = {
    "missing": (directory(), "--data_dir=data: expected images", DataError),
    "a part there is none of": (
        directory("training"),
        "part: expected one of train, validation, test, got 'training'",
        ValueError,
    ),
    "a size of nothing": (
        directory(image_size=0),
        "image_size: expected at least 1",
        ValueError,
    ),
    "a size of two numbers": (
        directory(image_size=(16, 16)),
        "image_size: expected an integer",
        ValueError,
    ),
    "two channels": (
        directory(image_channels=2),
        "image_channels: expected 1 or 3, got 2",
        ValueError,
    ),
}


@by_name(DIRECTORIES)
def test_directories(row, here):
    call, fragment, kind = row
    check_error(call, [fragment], here, kind)


# Arguments of learners


def network(*parts, shape=(3,), outputs=2):
    return keras.Sequential(
        [keras.Input(shape), *parts, layers.Dense(outputs)], name="mine"
    )


def frozen():
    model = network()
    model.trainable = False
    return model


def maml(*arguments, kind=MAML, **changes):
    options = {"inner_lr": 0.1, **changes}
    given = [*arguments, *(network(), CROSS_ENTROPY)[len(arguments) :]]
    return lambda: kind(*given, **options)


def reptile(*arguments, kind=Reptile, **changes):
    options = {"inner_steps": 2, **changes}
    given = [*arguments, *(network(), SGD(0.1))[len(arguments) :]]
    return lambda: kind(*given, **options)


ARGUMENTS = {
    "no model": (maml(None), "expected a Keras model, got a NoneType"),
    "a name": (maml("resnet"), "expected a Keras model, got a str"),
    "a model that is not built": (
        maml(keras.Sequential([layers.Dense(2)])),
        "must be built",
    ),
    "a model that is not built, task after task": (
        maml(keras.Sequential([layers.Dense(2)]), engine="looped"),
        "must be built",
    ),
    "a frozen model": (lambda: maml(frozen())(), "selects no trainable"),
    "no loss": (maml(network(), None), "a function, got None"),
    "a loss there is none of": (maml(network(), "hinge2"), "hinge2"),
    "a name of no selection": (maml(adapt="tail"), "got 'tail'"),
    "nothing selected": (maml(adapt=[]), "selects no trainable variable"),
    "a number selected": (maml(adapt=3), "adapt: expected one of"),
    "names in a list": (maml(adapt=["head"]), "head is not a trainable"),
    "nothing that is selected": (
        maml(adapt=lambda variable: False),
        "selects no trainable variable of 'mine'",
    ),
    "variables of another model": (
        lambda: maml(adapt=network().trainable_variables)(),
        "is not a trainable variable of the model 'mine'",
    ),
    "an engine there is none of": (maml(engine="fast"), "got 'fast'"),
    "an engine that cannot run it": (
        maml(network(layers.GRU(2), shape=(4, 1)), engine="stacked"),
        "Cannot stack tasks: ",
    ),
    "a rate of text": (maml(inner_lr="fast"), "inner_lr: expected a finite"),
    "no rate": (maml(inner_lr=None), "inner_lr: expected a finite number"),
    "a rate of nan": (maml(inner_lr=NAN), "finite number, got nan"),
    "a rate of infinity": (maml(inner_lr=1e999), "finite number, got inf"),
    "MetaSGD of nan": (maml(kind=MetaSGD, inner_lr=NAN), "inner_lr: expected"),
    "steps below zero": (maml(inner_steps=-1), "inner_steps: expected at"),
    "half a step": (maml(inner_steps=0.5), "inner_steps: expected an integer"),
    "test steps below zero": (maml(test_inner_steps=-1), "test_inner_steps: "),
    "no block": (maml(block=0), "block: expected at least 1, got 0"),
    "half a block": (maml(block=0.5), "block: expected an integer, got 0.5"),
    "ANIL's selection": (maml(kind=ANIL, adapt="top"), "got 'top'"),
    "MAML++ without steps": (
        maml(kind=MAMLPlusPlus, inner_steps=0),
        "inner_steps: expected at least 1",
    ),
    "MAML++ that ends before it begins": (
        maml(kind=MAMLPlusPlus, inner_steps=1, multi_step_iterations=-1),
        "multi_step_iterations: expected at least 1, got -1",
    ),
    "Reptile without a model": (reptile(None), "got a NoneType"),
    "Reptile's engine": (reptile(engine="fast"), "engine: expected one of"),
    "Reptile with a frozen model": (
        lambda: reptile(frozen())(),
        "The model 'mine': expected trainable variables, all of one type, "
        "found none",
    ),
    "Reptile with two types": (
        lambda: reptile(network(layers.Dense(2, dtype="float64")))(),
        "found float32, float64",
    ),
    "a name of an optimizer": (reptile(network(), "adam"), "got 'adam'"),
    "an optimizer of Keras": (
        reptile(network(), keras.optimizers.SGD(0.1)),
        "inner_optimizer: expected one of `maml_tf.inner_optimizers`",
    ),
    **{
        f"Reptile with {name} = {number}": (
            reptile(**{name: number}),
            f"{name}: expected {kind}, got {number}",
        )
        for name in (
            "inner_steps",
            "inner_batch",
            "test_inner_steps",
            "test_inner_batch",
        )
        for number, kind in (
            (0, "at least 1"),
            (-1, "at least 1"),
            (1.5, "an integer"),
        )
    },
    "a decay of nan": (reptile(weight_decay=NAN), "weight_decay: expected"),
    "a decay of text": (reptile(weight_decay="1"), "weight_decay: expected"),
    "FOML without a tail": (
        reptile(kind=FOML, tail_shots=0),
        "tail_shots: expected at least 1, got 0",
    ),
    "SGD of nan": (lambda: SGD(NAN), "learning_rate: expected a finite"),
    "SGD of text": (lambda: SGD("fast"), "learning_rate: expected a finite"),
    "Adam of infinity": (lambda: Adam(-1e999), "learning_rate: expected"),
    "a metric that is none": (
        maml(task_metrics={"a": "speed"}),
        "Could not interpret loss identifier: speed",
    ),
    "a metric of Keras that counts": (
        maml(task_metrics={"a": keras.metrics.SparseCategoricalAccuracy()}),
        "expected one of Keras or a function, got <SparseCategoricalAccuracy",
    ),
    "metrics without names": (
        maml(task_metrics=["mae"]),
        "task_metrics: expected losses by name, in a dictionary, got ['mae']",
    ),
    "no steps": (maml(inner_steps=None), "inner_steps: expected an integer"),
    "no seed": (maml(seed=None), "seed: expected an integer of 64 bits, got N"),
    "half a seed": (reptile(seed=0.5), "seed: expected an integer of 64 bits"),
    "a block of None": (maml(block=None), "block: expected an integer, got No"),
    "Reptile without steps": (
        reptile(inner_steps=None),
        "inner_steps: expected an integer, got None",
    ),
    "a class of optimizers": (
        reptile(network(), Adam),
        "inner_optimizer: expected one of",
    ),
    "a function with statistics of the support set": (
        maml(lambda x: x, norm_statistics="support"),
        "The network: expected a Keras model, got a function",
    ),
    "Adam that never learns": (
        lambda: Adam(0.1, beta_1=1.0),
        "beta_1: expected a number in 0 … 1 without 1, got 1.0",
    ),
    "Adam of less than nothing": (
        lambda: Adam(0.1, beta_2=-0.1),
        "beta_2: expected a number in 0 … 1",
    ),
    "no shots": (lambda: losses.CrossEntropy(0), "shots: expected at least 1"),
    "half a shot": (lambda: losses.CrossEntropy(0.5), "shots: expected an int"),
    "cores for no tasks": (lambda: share_cores(0), "tasks: expected at least"),
    "cores for half a task": (lambda: share_cores(0.5), "tasks: expected an i"),
}


@by_name(ARGUMENTS)
def test_arguments_of_learners(row, here):
    call, fragment = row
    check_error(call, [fragment], here)


# Tensors of tasks

QUERY = np.zeros([2, 4, 3], "float32")
LABELS = np.zeros([2, 4], "int32")
RAGGED = tf.RaggedTensor.from_row_lengths(np.zeros([7, 3], "float32"), [4, 3])
TENSORS = {
    "without tasks": ((QUERY[0], LABELS[0], QUERY[0]), "[B, n, 3]"),
    "with an axis too many": (
        (QUERY[None], LABELS[None], QUERY[None]),
        "found [1, 2, 4, 3]",
    ),
    "features too many": ((np.zeros([2, 4, 5]), LABELS, QUERY), "[2, 4, 5]"),
    "query features": ((QUERY, LABELS, np.zeros([2, 4, 5])), "[2, 4, 5]"),
    "tasks of labels": ((QUERY, LABELS[:1], QUERY), "[2, 4, 3], [1, 4]"),
    "tasks of queries": ((QUERY, LABELS, QUERY[:1]), "[2, 4, 3], [1, 4, 3]"),
    "too few labels": ((QUERY, LABELS[:, :3], QUERY), "[2, 4, 3], [2, 3]"),
    "labels without tasks": ((QUERY, LABELS[:, 0], QUERY), "[2, 4, 3], [2]"),
    "an empty support set": (
        (QUERY[:, :0], LABELS[:, :0], QUERY),
        "none of them empty",
    ),
    "an empty query set": ((QUERY, LABELS, QUERY[:, :0]), "none of them empty"),
    "no tasks": ((QUERY[:0], LABELS[:0], QUERY[:0]), "none of them empty"),
    "labels too large": (
        (QUERY, LABELS + 2, QUERY),
        "The labels: expected integers in 0 … 1, found 2",
    ),
    "labels below zero": ((QUERY, LABELS - 1, QUERY), "0 … 1, found -1"),
    "labels between": ((QUERY, LABELS + 0.5, QUERY), "0 … 1, found 0.5"),
    "labels of nan": ((QUERY, LABELS + NAN, QUERY), "0 … 1, found nan"),
    "two parts": ((QUERY, LABELS), "The data: expected `((support_x"),
    "four parts": ((QUERY, LABELS, QUERY, LABELS), "The data: expected"),
    "one part": (QUERY, "The data: expected `((support_x, support_y, query_x)"),
    "inputs of a data set": (QUERY, "yields `((support_x, support_y, query_x)"),
    "a ragged support set": (
        (RAGGED, tf.ragged.constant([[0] * 4, [0] * 3]), QUERY),
        "as many examples in a meta-batch, found a ragged tensor of shape [2, ",
    ),
    "a dictionary": ({"x": QUERY}, "The data: expected `((support_x"),
    "nothing": (None, "found inputs of shape NoneType"),
    "no support set": ((None, LABELS, QUERY), "takes inputs of shape"),
    "no query set": ((QUERY, LABELS, None), "takes inputs of shape"),
    "no labels": ((QUERY, None, QUERY), "found None in place of one"),
}


@pytest.mark.parametrize("make", [maml(), reptile()], ids=["MAML", "Reptile"])
@by_name(TENSORS)
def test_tensors(row, make, here):
    data, fragment = row
    learner = make()
    check_error(lambda: learner(data), [fragment], here)


@pytest.mark.parametrize(
    ("make", "inputs"),
    [(maml(), (RAGGED, LABELS, QUERY)), (reptile(), RAGGED)],
    ids=["MAML", "Reptile"],
)
def test_tasks_of_several_sizes_in_training(make, inputs, here):
    learner = make()
    learner.compile("sgd")
    check_error(
        lambda: learner.fit(inputs, LABELS, verbose=0),
        ["found a ragged tensor"],
        here,
    )


@pytest.mark.parametrize(
    "y, fragment",
    [
        (None, "expected inputs and targets, found None"),
        (tf.ragged.constant([[0] * 4, [0] * 3]), "found a ragged tensor"),
    ],
)
def test_targets_of_reptile_in_training(y, fragment, here):
    learner = reptile()()
    learner.compile("sgd")
    check_error(lambda: learner.fit(QUERY, y, verbose=0), [fragment], here)


def test_queries_in_the_training_of_reptile(here):
    learner = reptile()()
    learner.compile("sgd")
    check_error(
        lambda: learner.fit((QUERY, LABELS, QUERY), LABELS, verbose=0),
        ["expected `(support_x, support_y)` in training, found queries"],
        here,
    )


def test_tensors_of_any_number_of_axes(here):
    learner = maml()()
    learner.compile("sgd")
    data = tf.data.Dataset.from_generator(
        lambda: iter([((QUERY, LABELS, QUERY), LABELS)]),
        output_types=((tf.float32, tf.int32, tf.float32), tf.int32),
    )
    check_error(
        lambda: learner.fit(data, verbose=0, shuffle=False),
        ["expected tensors of a known number of axes", "`output_signature`"],
        here,
    )


@pytest.mark.parametrize("engine", ["stacked", "looped"])
@pytest.mark.parametrize("shape", [[2, 4, 1], [2, 4], [2, 4, 3]], ids=str)
def test_targets_that_a_compiled_loss_would_broadcast(shape, engine, here):
    learner = maml(network(), "mse", engine=engine)()
    learner.compile("sgd", "mse")
    tasks_ = (QUERY, np.zeros([2, 4, 2], "float32"), QUERY)
    for call in (learner.fit, learner.evaluate):
        check_error(
            lambda call=call: call(tasks_, np.zeros(shape), verbose=0),
            ["The targets: expected, by the predictions, the shape"],
            here,
        )


SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OF_KERAS = {
    "too large": (LABELS + 2, "0 … 1, found 2"),
    "text": (np.array([["a"] * 4] * 2), "0 … 1, found b'a'"),
}


@pytest.mark.parametrize(
    "make",
    [maml(network(), SPARSE), reptile(inner_loss=SPARSE)],
    ids=["MAML", "Reptile"],
)
@by_name(OF_KERAS)
def test_labels_of_a_loss_of_keras(row, make, here):
    labels, fragment = row
    learner = make()
    for call in (
        lambda: learner.adapt(QUERY[0], labels[0]),
        lambda: learner((QUERY, labels, QUERY)),
    ):
        check_error(call, [fragment], here)


WEIGHTS = {
    "of classes": ({"class_weight": {0: 1.0}}, "class_weight: expected None"),
    "of tasks": ({"sample_weight": np.ones(2)}, "sample_weight: expected none"),
}


@by_name(WEIGHTS)
def test_weights_that_nothing_takes(row, here):
    options, fragment = row
    learner = reptile()()
    learner.compile("sgd", CROSS_ENTROPY)
    check_error(
        lambda: learner.fit(QUERY, LABELS, verbose=0, **options),
        [fragment],
        here,
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda learner: learner.train_on_batch(
            QUERY, LABELS, class_weight={0: 1.0}
        ),
        lambda learner: learner.fit(
            *(QUERY, LABELS, None, 1, 0, None, 0.0, None, True), {0: 1.0}
        ),
    ],
    ids=["train_on_batch", "fit"],
)
def test_weights_of_classes(call, here):
    learner = reptile()()
    learner.compile("sgd")
    fragment = "class_weight: expected None, as labels"
    check_error(lambda: call(learner), [fragment], here)


@pytest.mark.parametrize("make", [maml(), reptile()], ids=["MAML", "Reptile"])
def test_a_loss_of_the_learner_that_nothing_would_add(make, here):
    learner = make()
    check_error(
        lambda: learner.add_loss(0.5),
        ["add_loss: expected a layer of the network", "got 0.5"],
        here,
    )


@pytest.mark.parametrize("option", [{"reduction": "sum"}, {"ignore_class": 1}])
def test_a_loss_that_is_no_mean_of_tasks_that_run_apart(option, here):
    learner = maml(engine="looped")()
    loss = keras.losses.SparseCategoricalCrossentropy(True, **option)
    learner.compile("sgd", loss)
    data = (QUERY, LABELS, QUERY), LABELS
    check_error(
        lambda: learner.fit(*data, verbose=0),
        ["expected a mean over examples", str(option)],
        here,
    )


@pytest.mark.parametrize(
    "kind, loss, shape",
    [
        (MAML, CROSS_ENTROPY, [2, 4]),
        (MAML, CROSS_ENTROPY, [2, 1]),
        (MAML, SPARSE, [2, 3]),
        (JointTraining, SPARSE, [2, 4]),
    ],
)
def test_weights_of_another_shape(kind, loss, shape, here):
    learner = maml(kind=kind)()
    learner.compile("sgd", loss)
    data = (QUERY, LABELS, QUERY), LABELS
    check_error(
        lambda: learner.train_on_batch(*data, sample_weight=np.ones(shape)),
        ["sample_weight: expected", f"found the shape {shape}"],
        here,
    )


def test_weights_of_outputs_where_tasks_have_them(here):
    learner = maml(kind=JointTraining)()
    learner.compile("sgd", [SPARSE])
    data, weights = ((QUERY, LABELS, QUERY), LABELS), [np.ones([2, 4])]
    check_error(
        lambda: learner.train_on_batch(*data, sample_weight=weights),
        ["one for each task, found some for each output"],
        here,
    )


def test_a_weight_of_tasks_for_several_losses(here):
    learner = maml()()
    learner.compile("sgd", [CROSS_ENTROPY])
    data = (QUERY, LABELS, QUERY), LABELS
    check_error(
        lambda: learner.evaluate(*data, sample_weight=np.ones(2), verbose=0),
        ["sample_weight: expected none with a loss for each output"],
        here,
    )


@pytest.mark.parametrize("loss", [losses.accuracy, CROSS_ENTROPY])
def test_labels_in_a_column(loss, here):
    labels, logits = np.zeros([2, 2, 1]), tf.zeros([2, 2, 2])
    fragment = "The labels: expected, by the predictions, the shape [2, 2]"
    check_error(lambda: loss(labels, logits), [fragment], here)


def test_scoring_no_tasks(here):
    data = tasks.from_arrays(X, Y, ways=2, shots=2, queries=2).take(0)
    check_error(
        lambda: adaptation_curve(maml()(), data, SPARSE),
        ["The data: expected meta-batches, found none."],
        here,
    )


def test_scoring_what_predicts_at_its_end_alone(here):
    data = tasks.from_arrays(X, Y, ways=2, shots=2, queries=2).take(1)
    check_error(
        lambda: adaptation_curve(reptile()(), data, SPARSE),
        ["The learner: expected a MAML", "got a Reptile."],
        here,
    )


def test_a_score_there_is_none_of():
    data = tasks.from_arrays(X, Y, ways=2, shots=2, queries=2).take(1)
    with pytest.raises(ValueError, match="^Could not interpret loss .*: speed"):
        adaptation_curve(maml()(), data, "speed")


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch"])
def test_right_data_after_wrong_ones(method, here):
    learner = maml()()
    learner.compile("adam", CROSS_ENTROPY, metrics=["accuracy"])
    call = getattr(learner, method)
    check_error(lambda: call(QUERY, LABELS), ["The data: expected `(("], here)
    call((QUERY, LABELS, QUERY), LABELS)


def test_a_layer_that_is_frozen_late(here):
    model = network(layers.Dense(2))
    learner = reptile(model)()
    model.layers[0].trainable = False
    learner.compile("sgd")
    check_error(
        lambda: learner.train_on_batch(QUERY, LABELS),
        ["expected the 4 trainable variables that the learner", "found 2."],
        here,
    )


def test_scoring_tasks_without_an_end(here):
    data = tasks.from_arrays(X, Y, ways=2, shots=2, queries=2)
    for endless in (data, data.take(1).repeat()):
        check_error(
            lambda data=endless: adaptation_curve(maml()(), data, SPARSE),
            ["The data: expected a data set with an end"],
            here,
        )


OUTPUTS = {
    "names of others": (
        {"a": "mse", "b": "mse"},
        {"a": QUERY, "c": QUERY},
        "for each output, named a, c, found named a, b",
    ),
    "a list for names": (
        ["mse", "mse"],
        {"a": QUERY, "b": QUERY},
        "for each output, named a, b, found 2 in a list",
    ),
    "names for a list": (
        {"a": "mse", "b": "mse"},
        [QUERY, QUERY],
        "for each output, 2 in a list, found named a, b",
    ),
    "one too many": (
        ["mse", "mse"],
        [QUERY],
        "for each output, 1 in a list, found 2 in a list",
    ),
    "several for one": (["mse", "mse"], QUERY, "a single one, found 2"),
}


@by_name(OUTPUTS)
def test_losses_of_several_outputs(row, here):
    loss, outputs, fragment = row
    task_loss = losses.per_task(loss, 1)
    check_error(lambda: task_loss(outputs, outputs), [fragment], here)


@pytest.mark.parametrize("labels", [2, -1])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
@pytest.mark.parametrize("make", [maml(), reptile()], ids=["MAML", "Reptile"])
@pytest.mark.usefixtures("not_deterministic")
def test_labels_in_a_graph(make, method, labels, here):
    learner = make()
    learner.compile("sgd", CROSS_ENTROPY, jit_compile=False)
    inputs = QUERY, LABELS + labels, QUERY
    data = (inputs, LABELS)
    if (method, type(learner)) == ("fit", Reptile):
        data = inputs[:2]
    check_error(
        lambda: getattr(learner, method)(*data, verbose=0),
        [f"The labels: expected integers in 0 … 1, found {labels}."],
        here,
    )


def two_inputs():
    a, b = keras.Input([3], name="a"), keras.Input([3], name="b")
    outputs = layers.Dense(2)(layers.Add()([a, b]))
    return keras.Model({"a": a, "b": b}, outputs, name="mine")


KEYS = {
    "another": (("a", "c"), "takes inputs named a, b; found a, c"),
    "one too few": (("a",), "takes inputs named a, b; found a"),
    "one too many": (("a", "b", "c"), "inputs named a, b; found a, b, c"),
    "none": ((), "takes inputs named a, b; found none"),
}


@by_name(KEYS)
@pytest.mark.parametrize("engine", ["looped", "stacked"])
def test_keys_of_inputs(engine, row, here):
    keys, fragment = row
    learner = maml(two_inputs(), CROSS_ENTROPY, engine=engine)()
    x = dict.fromkeys(keys, QUERY)
    data = x, LABELS, dict.fromkeys(("a", "b"), QUERY)
    check_error(lambda: learner(data), [fragment], here)


@by_name(KEYS)
def test_keys_of_one_task(row, here):
    keys, fragment = row
    learner = maml(two_inputs(), CROSS_ENTROPY, engine="looped")()
    x = dict.fromkeys(keys, QUERY[0])
    check_error(lambda: learner.adapt(x, LABELS[0]), [fragment], here)


ONE_TASK = {
    "of two tasks": ((QUERY, LABELS), {}, "[n, 3]"),
    "with too few labels": ((QUERY[0], LABELS[0, :2]), {}, "[4, 3], [2]"),
    "without labels": ((QUERY[0], LABELS[0, 0]), {}, "[4, 3], []"),
    "that is empty": ((QUERY[0, :0], LABELS[0, :0]), {}, "none of them empty"),
    "with labels too large": ((QUERY[0], LABELS[0] + 7), {}, "0 … 1, found 7"),
    "with None for labels": ((QUERY[0], None), {}, "found None in place of"),
    "of steps below zero": (
        (QUERY[0], LABELS[0]),
        {"steps": -1},
        "steps: expected at least 0, got -1",
    ),
    "of half a step": (
        (QUERY[0], LABELS[0]),
        {"steps": 0.5},
        "steps: expected an integer, got 0.5",
    ),
}


@pytest.mark.parametrize("make", [maml(), reptile()], ids=["MAML", "Reptile"])
@by_name(ONE_TASK)
def test_one_task(row, make, here):
    data, options, fragment = row
    learner = make()
    before = [variable.numpy() for variable in learner.variables]
    check_error(lambda: learner.adapt(*data, **options), [fragment], here)
    for variable, value in zip(learner.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


TARGETS = {
    "without an axis": (np.zeros([2, 4], "float32"), "[2, 4, 2], found [2, 4]"),
    "of another size": (np.zeros([2, 4, 1]), "[2, 4, 2], found [2, 4, 1]"),
}


@by_name(TARGETS)
def test_targets_of_another_shape(row, here):
    y, fragment = row
    learner = maml(network(), losses.mean_squared_error)()
    data = QUERY, tf.constant(y, tf.float32), QUERY
    check_error(lambda: learner(data), [fragment], here)


def test_training_with_a_support_set_that_is_empty(here):
    for learner in (maml()(), reptile()()):
        learner.compile("sgd", CROSS_ENTROPY)
        empty = QUERY[:, :0], LABELS[:, :0]
        data = empty
        if isinstance(learner, MAML):
            data = (*empty, QUERY), LABELS
        check_error(
            lambda learner=learner, data=data: learner.fit(*data, verbose=0),
            ["none of them empty"],
            here,
        )
