"""What the flags say reaches the learners, the optimizers and the tasks."""

import itertools
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from maml_tf import (
    FOML,
    Reptile,
    checkpoints,
    datasets,
    explain,
    inner_optimizers,
    losses,
    main_rl,
    omniglot,
    reptile_train,
    samplers,
    train,
)
from maml_tf.config import Config
from maml_tf.image_classes import ImageClasses
from maml_tf.packing import Packed
from maml_tf.reptile_config import ReptileConfig
from maml_tf.rl import train as rl_train
from maml_tf.rl.navigation import Navigation

CLASSES, IMAGES = 8, 20


@pytest.fixture
def drawn(monkeypatch):
    """Returns what samplers are made with, of a few images."""

    def few_images(config, part):
        told["part"] = part
        side = 84 if config.datasource == "miniimagenet" else 28
        images = np.zeros([CLASSES * IMAGES, side, side, 1], np.uint8)
        names = tuple(map(str, range(CLASSES)))
        files = (tuple(map(str, range(IMAGES))),) * CLASSES
        return ImageClasses(images, names, files), np.arange(CLASSES)

    told = {}

    def keep(name):
        def sampler(*arguments, **options):
            told.update(options)
            return lambda t: t

        monkeypatch.setattr(samplers, name, sampler)

    for module in (train, reptile_train):
        monkeypatch.setattr(module, "image_classes", few_images)
    for name in ("image_sampler", "class_sampler"):
        keep(name)

    def task_list(cache_dir, starts, sizes, length, ways, images, seed):
        told.update(length=length, ways=ways, images=images, list_seed=seed)

    monkeypatch.setattr(samplers, "cached_task_list", task_list)
    return told


# maml-tf


def maml(phase="meta", **settings):
    config = Config(**{"datasource": "omniglot", "num_filters": 2, **settings})
    return train.build_learner(config, train.build_network(config), phase)


@pytest.mark.parametrize(
    ("settings", "attributes"),
    [
        ({"first_order": True}, {"first_order": True}),
        ({"remat": True}, {"remat": True}),
        ({"engine": "looped"}, {"engine": "looped"}),
        ({"norm_statistics": "support"}, {"norm_statistics": "support"}),
        ({"tasks_per_step": 2}, {"tasks_per_step": 2}),
        ({"inner_lr": 0.3}, {"inner_lr": 0.3}),
        (
            {"inner_steps": 3, "train": True},
            {"inner_steps": 3, "test_inner_steps": 10},
        ),
    ],
    ids=lambda value: next(iter(value)),
)
def test_settings_of_maml_reach_the_learner(settings, attributes):
    plain, made = maml(), maml(**settings)
    for name, value in attributes.items():
        assert getattr(made, name) == value, name
    assert any(getattr(plain, n) != v for n, v in attributes.items())


def test_both_losses_are_sums_per_support_image_of_a_class():
    made = maml(shots=3)
    assert made.inner_loss == made.loss == losses.CrossEntropy(3)
    assert [*made.task_metrics.values()] == [made.loss, losses.accuracy]


@pytest.mark.parametrize(
    ("settings", "found", "expected"),
    [
        ({"conv": False}, lambda n: n.name, "omniglot_mlp"),
        ({"ways": 7}, lambda n: n.output_shape[-1], 7),
        ({"num_filters": 3}, lambda n: n.layers[0].filters, 3),
        ({"max_pool": True}, lambda n: n.layers[0].max_pool, True),
        ({"norm": "None"}, lambda n: len(n.variables), 10),
        ({"norm_gradient": "legacy"}, lambda n: n.layers[0].gradient, "legacy"),
    ],
)
def test_settings_reach_the_network(settings, found, expected):
    plain, network = maml().network, maml(**settings).network
    assert found(network) == expected != found(plain)


@pytest.mark.parametrize(
    ("settings", "queries", "inner", "alpha", "meta"),
    [
        ({"ways": 5, "inner_lr": 0.4}, 1, 5, 2, 5),
        ({"ways": 20, "inner_lr": 0.1}, 1, 20, 2, 20),
        ({"inner_lr": 0.01}, 15, 5, 0.05, 75),
        ({"inner_lr": 0.01, "shots": 5}, 15, 5, 0.05, 15),
    ],
)
def test_losses_are_explained_by_their_means(
    settings, queries, inner, alpha, meta
):
    some = {"shots": 1, "num_queries": queries, **settings}
    first, second = explain._scales(Config("omniglot", **some))
    assert f": {inner} × its mean. α = " in first
    assert first.endswith(f" is {alpha} on a mean loss.")
    assert second.endswith(f": {meta} × its mean.")


def test_adapt_reaches_the_learner():
    assert len(maml(adapt="head").adapted) == 2
    assert len(maml().adapted) > 2


def test_adam_is_that_of_the_original():
    for source, clip in (("omniglot", None), ("miniimagenet", 10.0)):
        settings = {"datasource": source, "max_pool": clip is not None}
        meta, before = (maml(p, **settings) for p in ("meta", "pretrain"))
        for made in (meta, before):
            assert made.optimizer.epsilon == 1e-8
            assert float(made.optimizer.learning_rate) == pytest.approx(1e-3)
        assert meta.optimizer.clipvalue == clip
        assert before.optimizer.clipvalue is None


def test_tasks_of_training_and_test_are_the_originals_lists(drawn):
    config = Config("omniglot", shots=1, seed=3)
    train.training_tasks(config)
    assert (drawn["list_seed"], drawn["length"]) == (5, 200_000)
    assert (drawn["seed"], drawn["images"]) == (3, 2)
    assert drawn["rotate"] and drawn["white"] == 1
    assert drawn["part"] == "train"
    train.validation_tasks(config)
    assert drawn["part"] == "validation"
    assert (drawn["list_seed"], drawn["length"], drawn["seed"]) == (6, 600, 3)
    train.test_tasks(Config("omniglot", shots=1, train=False, seed=3))
    assert (drawn["list_seed"], drawn["length"], drawn["seed"]) == (6, 600, 1)
    assert drawn["rotate"]


@pytest.mark.parametrize(("trains", "images"), [(True, 16), (False, 2)])
def test_mini_imagenet_has_queries_of_its_own_in_training(
    trains, images, drawn
):
    config = Config("miniimagenet", max_pool=True, shots=1, train=trains)
    tasks = train.training_tasks if trains else train.test_tasks
    tasks(config)
    assert (drawn["shots"], drawn["images"]) == (1, images)
    assert not drawn["rotate"] and drawn["white"] == 255


def test_a_test_has_no_fewer_tasks_than_it_says(drawn):
    config = Config("omniglot", train=False, test_tasks=9)
    assert train.test_tasks(config).cardinality() == 2  # of 8 each


def test_a_score_is_the_mean_over_orders_of_labels(monkeypatch):
    labels = np.array([[0, 1], [2, 2]])
    data = tf.data.Dataset.from_tensors(((0, labels, 0), labels))
    monkeypatch.setattr(train, "test_tasks", lambda config: data)
    config = Config("omniglot", ways=3, label_permutations=2, test_tasks=1)
    curve = train._curve(config, lambda x, y: {"label": y})
    np.testing.assert_array_equal(curve.values, [[0.5, 1.5]])


@pytest.mark.parametrize("test_set", [False, True])
def test_which_classes_a_test_is_of_and_how_many_tasks(test_set, drawn):
    some = {"train": False, "test_set": test_set, "test_tasks": 1000}
    train.test_tasks(Config("omniglot", **some))
    assert drawn["part"] == ("test" if test_set else "validation")
    assert drawn["length"] == 1000


def test_what_becomes_one_and_whether_tests_are_rotated(drawn):
    train.test_tasks(Config("omniglot", test_rotations=False, train=False))
    assert not drawn["rotate"]
    train.test_tasks(Config("miniimagenet", max_pool=True, train=False))
    assert not drawn["rotate"] and drawn["white"] == 255


def test_labels_of_support_and_queries_move_together():
    move = train._relabelled(1, 3)
    (_, support_y, _), query_y = move((0, tf.range(3), 0), tf.range(3))
    assert list(support_y) == list(query_y) == [1, 2, 0]


@pytest.mark.parametrize(
    ("source", "steps"),
    [("sinusoid", 5), ("omniglot", 10), ("miniimagenet", 1)],
)
def test_as_many_inner_steps_are_scored_as_in_the_original(source, steps):
    settings = {"datasource": source, "max_pool": source == "miniimagenet"}
    assert Config(**settings).test_inner_steps == steps
    assert Config(**settings, train=False).test_inner_steps == 10
    assert Config(**settings, inner_steps=12).test_inner_steps == 12


@pytest.mark.parametrize(
    ("source", "printed", "validated"),
    [("omniglot", 100, [500]), ("sinusoid", 1000, [])],
)
def test_training_reports_as_often_as_the_original(source, printed, validated):
    made = maml(datasource=source)
    run = types.SimpleNamespace(
        config=Config(source),
        scalars=lambda: types.SimpleNamespace(write=None),
        table=lambda *_: None,
    )
    held_out = "validation tasks" if validated else None
    log, _, _, *scores = train._logging(run, made, None, held_out, "meta", 0)
    assert (log.window, log.print_interval) == (100, printed)
    assert [score.interval for score in scores] == validated
    assert (train.SAVE_INTERVAL, checkpoints.KEPT) == (1000, 10)


def test_a_validation_is_scored_after_the_steps_of_training():
    line = train._validation_line(Config("omniglot", inner_steps=2))
    row = {f"accuracy_{u}": u / 10 for u in range(11)}
    assert line(500, row) == "Validation results: 0.0, 0.2"


def test_the_originals_line_counts_meta_iterations():
    config = Config(pretrain_iterations=200)
    means = {"pre_loss": 1.0, "post_loss": 2.0}
    line = train._original_line(config, "meta")
    assert line(300, means) == "Iteration 100: 1.0, 2.0"
    line = train._original_line(config, "pretrain")
    assert line(100, means) == "Pretrain Iteration 100: 1.0, 2.0"


# reptile-tf


def reptile(**settings):
    return reptile_train.build_learner(ReptileConfig("sinusoid", **settings))


@pytest.mark.parametrize(
    ("field", "value", "attribute"),
    [
        ("eval_batch", 3, "test_inner_batch"),
        ("eval_steps", 3, "test_inner_steps"),
        ("inner_batch", 3, "inner_batch"),
        ("inner_steps", 3, "inner_steps"),
        ("replacement", True, "replacement"),
        ("weight_decay", 0.5, "weight_decay"),
        ("reset_inner_optimizer", True, "reset_inner_optimizer"),
        ("transductive", True, "transductive"),
        ("engine", "looped", "engine"),
        ("seed", 7, "seed"),
    ],
)
def test_settings_of_reptile_reach_the_learner(field, value, attribute):
    assert getattr(reptile(), attribute) != value
    assert getattr(reptile(**{field: value}), attribute) == value


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({}, inner_optimizers.Adam(0.3)),
        ({"sgd": True}, inner_optimizers.SGD(0.3)),
    ],
)
def test_the_inner_optimizer_of_reptile(settings, optimizer):
    assert reptile(inner_lr=0.3, **settings).inner_optimizer == optimizer


def test_foml_is_another_learner_with_a_tail():
    tailed = ReptileConfig(foml=True, tail_shots=2)
    made = reptile_train.build_learner(tailed)
    assert type(made) is FOML and made.tail_shots == 2
    assert type(reptile(foml=True)) is FOML
    assert type(reptile()) is Reptile


def test_the_inner_loss_of_reptile_is_a_sum():
    made = reptile_train.build_learner(ReptileConfig(shots=3))
    assert made.inner_loss == losses.CrossEntropy(1)


def test_the_meta_step_decays():
    made = reptile(meta_step=1.0, meta_step_final=0.25, meta_iterations=4)
    made.optimizer.iterations.assign(2)
    assert float(made.optimizer.learning_rate) == pytest.approx(0.625)


def test_reptile_is_tested_on_other_tasks_than_it_learns_from():
    config = ReptileConfig("sinusoid")
    inputs = [reptile_train.training_tasks(config)(0)[0]]
    for stream in (1, 2):
        sampler = reptile_train.evaluation_tasks(config, "test", 1, stream)
        inputs.append(sampler(0)[0][0])
    for some, others in itertools.combinations(inputs, 2):
        assert not np.isin(some, others).any()


def test_an_evaluation_of_reptile_has_a_stream_of_its_own(monkeypatch):
    streams = []

    def evaluation_tasks(config, part, group, stream):
        streams.append(stream)
        return lambda t: (tf.zeros([group]), tf.zeros([group]))

    monkeypatch.setattr(reptile_train, "evaluation_tasks", evaluation_tasks)
    config = ReptileConfig("sinusoid", eval_tasks=1)
    reptile_train._score(config, lambda x, y, t: x, "test")
    assert streams == [2]


def test_meta_batches_of_a_test_of_reptile_have_draws_of_their_own():
    draws = reptile_train._scores_at(lambda x, y, t: t, lambda t: (t, t))
    assert [int(draws(t)) for t in range(3)] == [0, 1, 2]


def test_reptile_rotates_in_training_alone(drawn):
    config = ReptileConfig("omniglot")
    reptile_train.training_tasks(config)
    assert drawn["rotate"] and drawn["white"] == 1
    for part in ("train", "test"):
        reptile_train.evaluation_tasks(config, part, 1, 2)
        assert drawn["part"] == part
        assert drawn["rotate"] == (part == "train")
        assert drawn["seed"] == 2 << 32


@pytest.mark.parametrize("source", ["omniglot", "miniimagenet"])
def test_reptile_trains_with_more_shots_than_it_is_tested_with(source, drawn):
    config = ReptileConfig(source, shots=2, train_shots=9)
    reptile_train.training_tasks(config)
    drawings = source == "omniglot"
    assert drawn["part"] == "train" and drawn["shots"] == 9
    assert drawn["rotate"] == drawings
    assert drawn["white"] == (1 if drawings else 255)
    reptile_train.evaluation_tasks(config, "test", 1, 2)
    assert drawn["shots"] == 3  # and a query


def test_a_score_of_reptile_is_of_so_many_tasks(monkeypatch):
    monkeypatch.setattr(
        reptile_train,
        "evaluation_tasks",
        lambda config, part, group, stream: lambda t: (t, tf.zeros([group])),
    )
    config = ReptileConfig(eval_tasks=reptile_train.EVALUATION_GROUP + 1)
    found = reptile_train._score(config, lambda x, y, t: y, "test")
    assert len(found.values) == config.eval_tasks


def test_the_seed_divides_the_classes_of_reptile(monkeypatch):
    names = tuple(map(str, range(1623)))
    data = ImageClasses(np.zeros([1, 28, 28, 1], np.uint8), names, ((),) * 1623)
    monkeypatch.setattr(omniglot, "load_omniglot", lambda *_: data)
    parts = [
        reptile_train.image_classes.__wrapped__(ReptileConfig(seed=3), part)[1]
        for part in ("train", "test")
    ]
    expected = omniglot.split_omniglot_reptile(names, 3)
    for found, part in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(found, part)


def test_photos_are_resized_as_the_originals_do(monkeypatch):
    told = []

    def load(part, resample, **where):
        told.append((part, resample))
        return Packed("", 0, ImageClasses(np.zeros(0), (), ()))

    monkeypatch.setattr(datasets, "load_mini_imagenet", load)
    settings = {"datasource": "miniimagenet", "max_pool": True}
    train.image_classes(Config(**settings), "validation")
    config = ReptileConfig("miniimagenet")
    reptile_train.image_classes.__wrapped__(config, "test")
    Filter = Image.Resampling
    assert told == [("validation", Filter.LANCZOS), ("test", Filter.NEAREST)]


# maml-rl-tf


def policy(*line):
    return main_rl.config_from_flags(main_rl.PROGRAM.parse(list(line)))


def test_settings_of_policies_reach_the_learner():
    line = """--discount=0.9 --gae_lambda=0.5 --meta_step_size=0.3
        --num_grad_updates=2 --first_order --reward=squared --done=l2
        --activation=tanh --fast_learning_rate=0.7 --max_path_length=9
        --hidden_size=5"""
    plain, made = (
        rl_train.build_learner(policy(*words)) for words in ([], line.split())
    )
    for name, value in {
        "discount": 0.9,
        "gae_lambda": 0.5,
        "trust_region": 0.3,
        "rounds": 3,
        "first_order": True,
        "inner_lr": 0.7,
        "horizon": 9,
    }.items():
        assert getattr(made, name) == value != getattr(plain, name), name
    assert (made.environment.reward, made.environment.done) == ("squared", "l2")
    first = made.network.layers[1]
    assert first.units == 5
    assert first.activation.__name__ == "tanh"


def test_each_iteration_of_a_policy_draws_anew():
    sampler = rl_train.training_tasks(policy(), Navigation(), 2)
    first, second, again = map(sampler, (0, 1, 1))
    for one, other, same in zip(first, second, again, strict=True):
        assert (one != other).numpy().any()
        np.testing.assert_array_equal(other, same)


def test_tasks_have_trajectories_or_each_trajectory_its_task():
    few = "--meta_batch_size=2", "--fast_batch_size=3"
    by_trpo = "--algo=pretrain", "--pretrain_with=trpo"
    for line, shape in (((), (2, 3)), (by_trpo, (1, 6))):
        config = policy(*few, *line)
        drawn, _ = rl_train.training_tasks(config, Navigation(), 1)(0)
        assert drawn.shape == [*shape, 2]
        assert len(np.unique(drawn[..., 0])) == (6 if line else 2)


@pytest.mark.parametrize(("more", "drawn"), [([], 4), (["9"], 16)])
def test_trajectories_of_a_policys_test(more, drawn, tmp_path):
    line = "--algo=random --test_goals=3 --test_trajectories=4"
    line += " --max_path_length=5 --test_updates=0"
    budget = [f"--test_transitions={steps}" for steps in more]
    config = policy(*line.split(), *budget, f"--logdir={tmp_path}")
    [found] = rl_train.evaluate(config).trajectories
    assert found.mask.shape == [3, drawn, 5]


def test_the_seed_draws_the_goals():
    goals = [
        rl_train.training_tasks(policy(f"--seed={s}"), Navigation(), 2)(0)[0]
        for s in (0, 1)
    ]
    assert (goals[0] != goals[1]).numpy().any()
