"""`maml-rl-tf`: training, resuming, evaluation, pictures, and wrong input."""

import functools
import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from contents import rows
from PIL import Image
from refused_lines import check_refused

from maml_tf import checkpoints, main_rl, records
from maml_tf.evaluation import AdaptationCurve
from maml_tf.rl import evaluation, published, train
from maml_tf.rl.config import RLConfig
from maml_tf.rl.navigation import Navigation

TINY = (
    "--n_itr=3",
    "--meta_batch_size=2",
    "--fast_batch_size=3",
    "--max_path_length=10",
    "--hidden_size=4",
    "--test_goals=3",
    "--test_trajectories=4",
    "--test_updates=2",
)


def run(folder, *arguments):
    return main_rl.main([*TINY, *arguments, f"--logdir={folder}"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the folder of a whole run, to be read alone."""
    folder = tmp_path_factory.mktemp("rl") / "whole"
    assert run(folder, "--plot") == 0
    return folder


@pytest.fixture
def trained(whole, tmp_path):
    """Returns a copy of the folder of a whole run."""
    return shutil.copytree(whole, tmp_path / "trained")


def config(*arguments):
    return main_rl.config_from_flags(main_rl.PROGRAM.parse(list(arguments)))


@pytest.mark.slow
def test_ten_iterations_learn_to_adapt(tmp_path):
    arguments = "--n_itr=10", "--seed=1", "--test_goals=1", "--test_updates=1"
    assert main_rl.main([*arguments, f"--logdir={tmp_path}"]) == 0
    *_, last = rows(tmp_path / "training.csv")
    assert float(last["return_after"]) > -20
    assert -50 < float(last["return"]) < -30


def test_resuming_gives_the_same_numbers(whole, tmp_path, capsys):
    parted = tmp_path / "parted"
    assert run(parted, "--n_itr=2") == 0
    assert run(parted) == 0
    printed = capsys.readouterr().out
    assert "Changed: --n_itr: 2 before, 3" in printed
    assert "Iteration 3: return " in printed
    first, second = (
        checkpoints.read(checkpoints.find(folder, 3)).arrays
        for folder in (whole, parted)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    for name in ("training.csv", "evaluation.csv"):
        assert (whole / name).read_text() == (parted / name).read_text()
    table = rows(whole / "training.csv")
    assert [row["iteration"] for row in table] == ["1", "2", "3"]
    assert rows(parted / "seconds.csv")[-1]["iteration"] == "3"


def test_a_record_says_what_was_measured(whole):
    record = records.read(whole / "evaluation.json")
    table = rows(whole / "evaluation.csv")
    for name, row in ("mean", table[0]), ("ci95", table[2]):
        numbers = [float(number) for number in row.values()]
        np.testing.assert_allclose(record[name], numbers, 1e-6)
    assert record["algo"] == "maml_trpo"
    assert record["metric"] == "return"
    assert (record["tasks"], record["shots"]) == (3, 4)
    assert record["iterations"] == 3
    assert record["seconds"] > 0
    assert record["settings"]["hidden_size"] == 4


def test_writes_settings_curves_and_pictures(whole):
    settings = json.loads((whole / "config.json").read_text())
    assert settings["trajectories"] == 3 and settings["explanation"]
    assert list(whole.glob("events*"))
    for name in ("training.png", "evaluation_paths.png"):
        assert (whole / name).stat().st_size > 1000
    with Image.open(whole / "evaluation_paths.gif") as moving:
        assert moving.n_frames > 2


@pytest.mark.slow
def test_all_methods_in_one_figure(tmp_path, capsys):
    assert run(tmp_path, "--algo=all", "--n_itr=1") == 0
    for algo in published.RETURNS["nav2d"]:
        assert (tmp_path / algo / "evaluation.csv").exists()
    assert (tmp_path / "methods.png").stat().st_size > 1000
    oracle = rows(tmp_path / "oracle" / "evaluation.csv")
    assert list(oracle[0]) == ["update0"]
    assert "return_after" not in rows(tmp_path / "oracle" / "training.csv")[0]
    assert not list((tmp_path / "random").glob("model*"))
    assert "random: updates, average return" in capsys.readouterr().out


def test_the_random_policy_is_tested_as_it_is(tmp_path, capsys):
    assert run(tmp_path, "--algo=random", "--seed=3") == 0
    assert "random: updates, average return" in capsys.readouterr().out
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert (record["iterations"], record["seed"]) == (0, 3)
    assert record["checkpoint"] is None
    assert record["test_settings"]["algo"] == "random"


def test_defaults_are_the_published_settings():
    nav = config()
    assert nav.test_rates == [0.5, 0.25, 0.25, 0.25]
    assert nav == RLConfig(
        algo="maml_trpo",
        env="nav2d",
        inner_lr=0.5,
        meta_batch_size=20,
        trajectories=20,
        inner_steps=1,
        horizon=100,
        trust_region=0.01,
        meta_iterations=100,
        first_order=False,
        pretrain_with="adam",
        meta_lr=1e-3,
        discount=0.99,
        gae_lambda=1.0,
        hidden_size=100,
        activation="relu",
        reward="distance",
        done="box",
        mode="paper",
        test_updates=4,
        test_goals=40,
        test_trajectories=40,
        test_transitions=0,
        seed=1,
    )
    oracle = config("--algo=oracle")
    assert (oracle.meta_batch_size, oracle.trajectories) == (1, 20)
    assert oracle.test_rates == []
    farther = config("--env=ant_dir", "--fast_learning_rate=0.2")
    assert farther.test_rates == pytest.approx([0.2, 0.002, 0.002])
    assert config("--algo=random").activation == "tanh"
    assert config("--algo=random", "--activation=relu").activation == "relu"
    runs = train.methods(config("--env=ant_dir", "--algo=all", "--n_itr=7"))
    assert {run.meta_iterations for run in runs.values()} == {7}
    runs = train.methods(config("--algo=all"))
    assert runs["random"].activation == "tanh"
    runs = train.methods(config("--algo=all"), given=["activation"])
    assert runs["random"].activation == "relu"


@pytest.mark.parametrize(
    "env, iterations, trajectories, trust_region, pretrained, random, later",
    [
        ("cheetah_dir", 100, 20, 0.02, 0.2, 1.0, 0.5),
        ("cheetah_vel", 475, 20, 0.01, 0.02, 0.1, 0.5),
        ("ant_dir", 575, 40, 0.01, 0.2, 1.0, 0.01),
        ("ant_vel", 375, 20, 0.01, 0.2, 1.0, 0.5),
    ],
)
def test_robots_have_the_published_settings(
    env, iterations, trajectories, trust_region, pretrained, random, later
):
    runs = train.methods(config(f"--env={env}", "--algo=all"))
    learnt = runs["maml_trpo"]
    assert (learnt.meta_iterations, learnt.trajectories) == (
        iterations,
        trajectories,
    )
    assert (learnt.trust_region, learnt.meta_batch_size) == (trust_region, 40)
    for algo, first in (
        ("maml_trpo", 0.1),
        ("pretrain", pretrained),
        ("random", random),
    ):
        expected = [first, *[later * first] * 2]
        assert runs[algo].test_rates == pytest.approx(expected)
        assert runs[algo].test_trajectories == trajectories
        assert runs[algo].horizon == 200
        assert runs[algo].activation == "relu"
    for plain in runs["pretrain"], runs["oracle"]:
        # A hundred trajectories, each of its own task.
        assert not plain.has_tasks
        assert plain.meta_batch_size * plain.trajectories == 100
        assert (plain.trust_region, plain.meta_iterations) == (0.01, 1000)


def test_help_groups_every_flag_and_explains(tmp_path, capsys):
    assert main_rl.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in main_rl.PROGRAM.parse([]):
        assert f"--{name} " in text
    assert run(tmp_path / "none", "--explain", "--algo=all") == 0
    text = capsys.readouterr().out
    assert "TRPO, δ = 0.01" in text and "Adam 0.001" in text
    assert not (tmp_path / "none").exists()


def test_a_budget_of_steps_keeps_the_first_trajectories():
    # Lengths 2, 3, 1, 3: the second is the one that makes it 4 steps.
    lengths = np.array([[2, 3, 1, 3]])
    mask = tf.constant((np.arange(3) < lengths[..., None]) * 1.0)
    for budget, kept in ((4, [1, 1, 0, 0]), (0, [1, 1, 1, 1])):
        found = evaluation._kept(mask, budget)
        np.testing.assert_array_equal(found, [kept])


def test_evaluation_of_one_goal_gives_its_numbers(trained, capsys):
    before = (trained / "model3.npz").read_bytes()
    each = np.load(trained / "evaluation.pkl", allow_pickle=True)["mses"]
    goal = Navigation().test_tasks(3)[0]
    given = f"--goal={goal[0]},{goal[1]}"
    assert run(trained, "--train=False", given) == 0
    alone = [*rows(trained / "evaluation_goal.csv")[0].values()]
    np.testing.assert_allclose(np.array(alone, float), each[0], 1e-4)
    printed = capsys.readouterr().out
    assert "Iteration" not in printed and "±" not in printed
    assert (trained / "model3.npz").read_bytes() == before
    kept = np.load(trained / "evaluation.pkl", allow_pickle=True)["mses"]
    np.testing.assert_array_equal(kept, each)


def test_a_new_learning_rate_is_used(tmp_path, capsys):
    pretrain = "--algo=pretrain", "--learning_rate=0.001"
    assert run(tmp_path, *pretrain) == 0
    more = "--n_itr=6", "--learning_rate=0.25"
    assert run(tmp_path, "--algo=pretrain", *more) == 0
    assert "Changed: --learning_rate: 0.001 before" in capsys.readouterr().out
    with np.load(tmp_path / "model6.npz") as file:
        rates = [v for v in file.values() if v.shape == () and v == 0.25]
    assert rates


def test_another_step_size_in_a_test_is_warned_of(trained, capsys):
    assert run(trained, "--train=False") == 0
    assert "Warning" not in capsys.readouterr().err
    assert run(trained, "--train=False", "--test_learning_rate=2") == 0
    message = capsys.readouterr().err
    assert "Warning: --test_learning_rate=2: " in message
    assert "trained with 1 step(s) of --fast_learning_rate=0.5" in message
    config = functools.partial(RLConfig, inner_steps=2, folder=str(trained))
    assert config().test_rates == [0.5, 0.5, 0.25, 0.25]
    assert train.rate_warning(config()) is None
    message = train.rate_warning(config(test_inner_lr_later=0.5))
    assert message.startswith("--test_learning_rate_later=0.5: ")


def test_the_papers_returns_are_shown_beside_returns_like_them():
    assert train.published_returns(RLConfig(discount=0.9))
    for other in (
        {"goal": "0.1,0.2"},
        {"reward": "squared"},
        {"done": "l2"},
        {"horizon": 50},
        {"env": "cheetah_dir", "mode": "gym", "horizon": 200},
    ):
        assert not train.published_returns(RLConfig(**other))


def test_returns_that_are_not_finite_end_a_test(trained, capsys):
    before = (trained / "evaluation.csv").read_text()
    lines = "--train=False", "--test_learning_rate=1e38", "--test_updates=3"
    assert run(trained, *lines) == 1
    message = capsys.readouterr().err
    assert "expected finite numbers, found" in message
    assert "--test_learning_rate" in message
    assert (trained / "evaluation.csv").read_text() == before


def test_returns_that_are_not_finite_end_training(
    tmp_path, monkeypatch, capsys
):
    def step(self, states, actions, tasks):
        rewards = tf.fill(states.shape[:-1], np.nan)
        return states, rewards, tf.zeros_like(rewards, tf.bool)

    monkeypatch.setattr(Navigation, "step", step)
    assert run(tmp_path) == 1
    message = capsys.readouterr().err
    assert "Not finite at iteration 1: first the returns" in message
    assert not checkpoints.list_checkpoints(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path, capsys):
    pretrain = "--algo=pretrain", "--learning_rate=1e39"
    assert run(tmp_path, *pretrain, "--n_itr=1") == 1
    message = capsys.readouterr().err
    words = "Not finite at iteration 1: first the weights. Lower --learning_rat"
    assert words in message
    assert not checkpoints.list_checkpoints(tmp_path)


def test_a_damaged_table_is_found_before_a_test(trained, capsys):
    before = (trained / "evaluation.csv").read_text()
    (trained / "seconds.csv").write_text("garbage\n1\n")
    assert run(trained, "--train=False", "--test_learning_rate=0.1") == 1
    assert "seconds.csv: expected a table of num" in capsys.readouterr().err
    assert (trained / "evaluation.csv").read_text() == before


def test_random_weights_leave_the_results_of_others(trained, capsys):
    before = (trained / "evaluation.json").read_text()
    assert run(trained, "--algo=random") == 1
    message = capsys.readouterr().err
    assert "--logdir: expected one of its own for --algo=random" in message
    assert (trained / "evaluation.json").read_text() == before


def test_the_figure_of_one_goal_is_another_file(tmp_path):
    (tmp_path / "methods.png").write_text("of all goals")
    curves = {"random": AdaptationCurve(np.array([[-2.0, -1.0]]))}
    of_one = config(f"--logdir={tmp_path}", "--goal=0,0")
    path = train.draw_methods(of_one, curves)
    assert path == str(tmp_path / "methods_goal.png")
    with Image.open(path) as picture:
        assert picture.width > 100
    assert (tmp_path / "methods.png").read_text() == "of all goals"


@pytest.mark.parametrize("half", ["", "2", "2,0.5", "2,0.5,"])
def test_half_a_row_is_none_of_the_curves(half, tmp_path):
    table = tmp_path / "training.csv"
    of_run = config(f"--logdir={tmp_path}")
    table.write_text(f"iteration,return,return_after\n{half}")
    assert train.training_curves(of_run) == {}
    table.write_text(f"iteration,return,return_after\n1,-3,-2\n{half}")
    curves = train.training_curves(of_run)
    found = {k: [part.tolist() for part in c] for k, c in curves.items()}
    assert found == {"before": [[1], [-3]], "after adaptation": [[1], [-2]]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "--algo=maml_trpo",
            "20 tasks × 20 trajectories × 100 steps|every iteration.|by task.",
        ),
        (
            "--algo=pretrain --pretrain_with=trpo",
            "400 trajectories, each of its own task, × 100 steps|"
            "every iteration for every trajectory.|over all of them.",
        ),
        (
            "--algo=random --test_transitions=30 --test_trajectories=2",
            "40 goals, trajectories until they have 30 steps, at most 8,",
        ),
    ],
)
def test_explains_whose_tasks_are_drawn(line, words, capsys):
    assert main_rl.main([*line.split(), "--explain"]) == 0
    text = capsys.readouterr().out
    for part in words.split("|"):
        assert part in text


REFUSED = """
--env=nav3d | --env: expected one of nav2d, cheetah_dir, cheetah_vel, ant_dir
--algo=ppo | --algo: expected one of maml_trpo, pretrain, oracle, random, all
--goal=0.6,0 | --goal: expected two numbers in [-0.5, 0.5]
--goal=0.1 | --goal: expected two numbers in [-0.5, 0.5]
--goal=left | --goal: expected two numbers in [-0.5, 0.5]
--goal=nan,0 | --goal: expected two numbers in [-0.5, 0.5]
--env=ant_dir --goal=2 | --goal: expected -1 or 1
--env=ant_vel --goal=-1 | --goal: expected a number in [0, 3]
--fast_learning_rate=-1 | --fast_learning_rate: expected a number of at least 0
--meta_step_size=0 | --meta_step_size: expected a positive number
--n_itr=0 | --n_itr: expected an integer of at least 1
--max_path_length=1 | --max_path_length: expected an integer of at least 2
--discount=1.5 | --discount: expected a number from 0 to 1
--reward=cubed | --reward: expected one of distance, squared
--done=never | --done: expected one of box, l2
--mode=new | --mode: expected one of paper, gym
--activation=gelu | --activation: expected one of relu, tanh
--pretrain_with=sgd | --pretrain_with: expected one of adam, trpo
--strategy=tpu | --strategy: expected one of none, mirrored, multi_worker
--algo=oracle --strategy=multi_worker | expected none unless a meta-batch has
--strategy=multi_worker | variable TF_CONFIG as
--mode=gym | --mode: expected paper unless --env is a robot's, got 'gym'
--env=ant_dir --done=l2 | --done: expected box unless --env=nav2d, got 'l2'
--env=ant_dir --reward=squared | --reward: expected distance unless --env=nav2d
--test_learning_rate=-2 | --test_learning_rate: expected a number of at least 0
--test_goals=0 | --test_goals: expected an integer of at least 1
--train=False | expected a checkpoint, model*.npz, found none
--horizon=5 | 'horizon'
--learning_rate=0.5 | --learning_rate: expected none with --algo=maml_trpo
--algo=pretrain --meta_step_size=1 | --meta_step_size: expected none with
--algo=oracle --first_order | --first_order: expected none with --algo=oracle
--algo=oracle --test_updates=3 | --test_updates: expected none with
--algo=oracle --test_learning_rate=0.1 | --test_learning_rate: expected none
--algo=random --pretrain_with=trpo | --pretrain_with: expected none with
""".strip().splitlines()


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case, home, capsys):
    line, fragment = case.split(" | ")
    check_refused("maml-rl-tf", line, [fragment], capsys, home)


def test_missing_mujoco_names_the_extra(monkeypatch, home, capsys):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.delitem(sys.modules, "maml_tf.rl.locomotion", raising=False)
    message = check_refused(
        "maml-rl-tf", "--env=cheetah_dir", ["--env=cheetah_dir"], capsys, home
    )
    assert "pip install .[mujoco]" in message
