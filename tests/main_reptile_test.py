"""`reptile-tf`: the original's commands, resuming, and wrong input."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from contents import rows

from maml_tf import checkpoints, main_reptile, omniglot, reptile_train
from maml_tf.cache import DataError
from maml_tf.image_classes import ImageClasses
from maml_tf.reptile_config import ReptileConfig

# The README of supervised-reptile, after `python -u run_` and the like.
TRAINING = """
omniglot --shots 1 --inner-batch 10 --inner-iters 5 --meta-step 1 --meta-batch 5 --meta-iters 100000 --eval-batch 5 --eval-iters 50 --learning-rate 0.001 --meta-step-final 0 --train-shots 10 --checkpoint ckpt_o15t --transductive
miniimagenet --shots 1 --inner-batch 10 --inner-iters 8 --meta-step 1 --meta-batch 5 --meta-iters 100000 --eval-batch 5 --eval-iters 50 --learning-rate 0.001 --meta-step-final 0 --train-shots 15 --checkpoint ckpt_m15t --transductive
miniimagenet --inner-batch 10 --inner-iters 8 --meta-step 1 --meta-batch 5 --meta-iters 100000 --eval-batch 15 --eval-iters 50 --learning-rate 0.001 --meta-step-final 0 --train-shots 15 --checkpoint ckpt_m55
miniimagenet --shots 1 --inner-batch 10 --inner-iters 8 --meta-step 1 --meta-batch 5 --meta-iters 100000 --eval-batch 5 --eval-iters 50 --learning-rate 0.001 --meta-step-final 0 --train-shots 15 --checkpoint ckpt_m15
omniglot --train-shots 10 --inner-batch 10 --inner-iters 5 --learning-rate 0.001 --meta-step 1 --meta-step-final 0 --meta-batch 5 --meta-iters 100000 --eval-batch 5 --eval-iters 50 --checkpoint ckpt_o55
omniglot --shots 1 --inner-batch 10 --inner-iters 5 --meta-step 1 --meta-batch 5 --meta-iters 100000 --eval-batch 5 --eval-iters 50 --learning-rate 0.001 --meta-step-final 0 --train-shots 10 --checkpoint ckpt_o15
omniglot --shots 1 --classes 20 --inner-batch 20 --inner-iters 10 --meta-step 1 --meta-batch 5 --meta-iters 200000 --eval-batch 10 --eval-iters 50 --learning-rate 0.0005 --meta-step-final 0 --train-shots 10 --checkpoint ckpt_o120
omniglot --classes 20 --inner-batch 20 --inner-iters 10 --meta-step 1 --meta-batch 5 --meta-iters 200000 --eval-batch 10 --eval-iters 50 --learning-rate 0.0005 --meta-step-final 0 --train-shots 10 --checkpoint ckpt_o520
""".strip().splitlines()  # noqa: E501
SHARED_FLAGS = (
    "--sgd --seed 0 --inner-batch 25 --learning-rate 0.003 "
    "--meta-step-final 0 --meta-iters 40000 --eval-batch 25 --eval-iters 5 "
    "--eval-interval 1"
)
COMBINATIONS = [
    f"omniglot {line} {SHARED_FLAGS}"
    for line in """
--inner-iters 1 --train-shots 5 --meta-step 0.25 --checkpoint g1_ckpt
--inner-iters 2 --train-shots 10 --meta-step 0.25 --checkpoint g1_g2_ckpt
--inner-iters 2 --train-shots 10 --meta-step 0.125 --checkpoint half_g1_g2_ckpt
--foml --inner-iters 2 --train-shots 10 --meta-step 0.25 --checkpoint g2_ckpt
--inner-iters 3 --train-shots 15 --meta-step 0.25 --checkpoint g1_g2_g3_ckpt
--inner-iters 3 --train-shots 15 --meta-step 0.08325 --checkpoint third_g1_g2_g3_ckpt
--foml --inner-iters 3 --train-shots 15 --meta-step 0.25 --checkpoint g3_ckpt
--foml --inner-iters 4 --train-shots 20 --meta-step 0.25 --checkpoint g4_ckpt
--inner-iters 4 --train-shots 20 --meta-step 0.25 --checkpoint g1_g2_g3_g4_ckpt
--inner-iters 4 --train-shots 20 --meta-step 0.0625 --checkpoint fourth_g1_g2_g3_g4_ckpt
""".strip().splitlines()  # noqa: E501
]
SINE = (
    "--datasource=sinusoid",
    "--shots=5",
    "--meta-iters=200",
    "--eval-iters=2",
    "--eval-samples=40",
    "--eval-interval=50",
)


@pytest.fixture
def images(monkeypatch):
    """Puts a few random images in the place of both data sets."""

    def random_images(config, part):
        rng = np.random.default_rng(len(part))
        side = {"omniglot": (28, 28, 1), "miniimagenet": (84, 84, 3)}
        shape = (24 * 20, *side[config.datasource])
        images = rng.integers(0, 2, shape, "uint8")
        names = tuple(map(str, range(24)))
        data = ImageClasses(
            images, names, (tuple("abcdefghijklmnopqrst"),) * 24
        )
        return data, np.arange(24)

    monkeypatch.setattr(reptile_train, "image_classes", random_images)
    monkeypatch.setattr(reptile_train, "EVALUATION_GROUP", 1)


def run(folder, *arguments):
    return main_reptile.main([*arguments, f"--checkpoint={folder}"])


# One of each data set and study; the others differ in numbers.
SHORT = {TRAINING[0], TRAINING[1], COMBINATIONS[0]}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=[pytest.mark.slow] * (c not in SHORT))
        for c in [*TRAINING, *COMBINATIONS]
    ],
)
def test_the_originals_commands_run(command, images, tmp_path, capsys):
    data, *arguments = shlex.split(command)
    few = ("--meta-iters=2", "--eval-iters=2", "--eval-samples=1")
    assert run(tmp_path, f"--datasource={data}", *arguments, *few) == 0
    printed = capsys.readouterr().out
    assert "batch 0: train=" in printed
    assert "Train accuracy: " in printed and "Test accuracy: " in printed
    assert "Evaluating: " in printed
    assert (tmp_path / "model2.npz").exists()
    way = "_transductive" * ("--transductive" in arguments)
    parts = {"omniglot": 2, "miniimagenet": 3}[data]
    assert len(rows(tmp_path / f"evaluation{way}.csv")) == parts


def test_defaults_are_the_originals():
    assert main_reptile.config_from_flags(main_reptile.PROGRAM.parse([])) == (
        ReptileConfig(
            datasource="omniglot",
            ways=5,
            shots=5,
            train_shots=0,
            inner_batch=5,
            inner_steps=20,
            replacement=False,
            inner_lr=1e-3,
            weight_decay=1.0,
            sgd=False,
            foml=False,
            tail_shots=None,
            meta_step=0.1,
            meta_step_final=0.1,
            meta_batch_size=1,
            meta_iterations=400_000,
            pretrained=False,
            eval_batch=5,
            eval_steps=50,
            eval_tasks=10_000,
            eval_interval=10,
            transductive=False,
            folder="model_checkpoint",
            seed=0,
        )
    )


def test_both_spellings_mean_the_same(tmp_path):
    file = tmp_path / "some.flags"
    file.write_text("--inner-batch=7\n--meta_step_final=0.5\n-foml-tail=1\n")
    nested = tmp_path / "nested.flags"
    nested.write_text(
        f"  # Of another\n\n  --flagfile\n {file}\n// no more", "utf-8-sig"
    )
    hyphens = ["--inner-batch=7", "-meta-step-final", "0.5", "--foml-tail=1"]
    first, *others = (
        main_reptile.PROGRAM.parse(arguments).flag_values_dict()
        for arguments in (
            hyphens,
            [f"--flagfile={file}"],
            ["-flagfile", str(nested)],
        )
    )
    assert others == [first, first]
    assert first["inner_batch"] == 7 and first["foml_tail"] == 1


def test_help_groups_every_flag(capsys):
    assert main_reptile.main(["--help"]) == 0
    text = capsys.readouterr().out
    for group in ("Tasks", "Inner loop", "Outer loop", "Evaluation", "Program"):
        assert f"\n{group}:\n" in text
    for name in main_reptile.PROGRAM.parse([]):
        assert f"--{name.replace('_', '-')} " in text


def test_resuming_gives_the_same_numbers(tmp_path, monkeypatch):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run(whole, *SINE) == 0
    monkeypatch.setattr(reptile_train, "SAVE_INTERVAL", 70)
    assert run(parted, *SINE) == 0
    for name in ("model200", "model140"):
        (parted / f"{name}.npz").unlink()
    assert run(parted, *SINE) == 0
    first, second = (
        checkpoints.read(checkpoints.find(folder, 200)).arrays
        for folder in (whole, parted)
    )
    assert any(name.startswith("inner/") for name in first)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    for name in ("curve.csv", "training.csv", "evaluation.csv"):
        assert (whole / name).read_text() == (parted / name).read_text()


def test_writes_settings_curves_and_pictures(tmp_path, capsys):
    assert run(tmp_path, *SINE, "--plot") == 0
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["shots"] == 5
    assert any("moments pass" in line for line in settings["explanation"])
    assert [r["iteration"] for r in rows(tmp_path / "curve.csv")] == [
        "1",
        "51",
        "101",
        "151",
    ]
    for name in ("evaluation_curve.png", "evaluation_fits.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert list((tmp_path / "test").glob("events*"))
    assert "Test mean squared error: " in capsys.readouterr().out


def test_pretrained_only_evaluates(tmp_path, capsys):
    assert run(tmp_path, *SINE) == 0
    before = (tmp_path / "model200.npz").read_bytes()
    first = rows(tmp_path / "evaluation.csv")
    capsys.readouterr()
    assert run(tmp_path, *SINE, "--pretrained") == 0
    assert rows(tmp_path / "evaluation.csv") == first
    record = json.loads((tmp_path / "evaluation.json").read_text())
    found = [float(first[0][name]) for name in ("mean", "ci95")]
    assert found == record["parts"][first[0]["classes"]]
    assert "batch" not in capsys.readouterr().out
    assert (tmp_path / "model200.npz").read_bytes() == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--pretrained", *SINE], "expected a checkpoint"),
        (["--shots=20"], "different examples of a class"),
        (["--classes=25"], "different classes"),
    ],
)
def test_refuses(arguments, message, images, tmp_path, capsys):
    assert run(tmp_path / "folder", *arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "folder").exists()


def test_a_loss_that_is_not_finite_is_named(tmp_path, capsys):
    fast = "--learning-rate=1e30"
    assert run(tmp_path, *SINE, "--sgd", fast, "--meta-batch=2") == 1
    message = capsys.readouterr().err
    assert "Not finite at iteration 1" in message
    assert "--learning-rate" in message
    assert not checkpoints.list_checkpoints(tmp_path)


def test_real_omniglot_is_not_inverted_and_split_as_the_original(real_data):
    config = ReptileConfig(data_dir=str(real_data))
    data, train = reptile_train.image_classes(config, "train")
    assert data.images.mean() > 0.5  # paper is 1
    assert len(train) == 1200
    assert len(reptile_train.image_classes(config, "test")[1]) == 423
    names = omniglot.load_omniglot(config.data_dir).names
    train, test = omniglot.split_omniglot_reptile(names, 0)
    path = real_data.parent / "golden" / "reptile_sampling.json"
    original = json.loads(path.read_text())
    assert [names[i] for i in train] == original["train"]
    assert [names[i] for i in test] == original["test"]


TINY = (
    "--classes=3",
    "--shots=2",
    "--meta-iters=3",
    "--eval-iters=2",
    "--eval-samples=2",
)


def test_legacy_checkpoints_go_out_and_in(images, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    prefix = tmp_path / "model.ckpt-3"
    assert run(first, *TINY) == 0
    assert run(first, *TINY, f"--export-checkpoint={prefix}") == 0
    assert f"Written: {prefix}.index" in capsys.readouterr().out
    line = *TINY, f"--import-checkpoint={prefix}"
    copy = tmp_path / "copy" / prefix.name
    assert run(second, *line, f"--export-checkpoint={copy}") == 0
    content = [Path(f"{p}.data-00000-of-00001") for p in (prefix, copy)]
    assert content[0].read_bytes() == content[1].read_bytes()
    assert run(second, *line, "--pretrained") == 0
    assert rows(second / "evaluation.csv") == rows(first / "evaluation.csv")
    assert not list(second.glob("model*"))
    capsys.readouterr()
    assert run(second, *line, "--pretrained", "--plot") == 0
    assert f"No curve of training: {second}" in capsys.readouterr().out
    assert run(first, *line, "--pretrained", "--plot") == 0
    assert f"No curve of training: {first}" in capsys.readouterr().out
    assert not list(tmp_path.glob("*/*.png"))
    assert run(second, *line, "--meta-iters=5") == 0
    assert f"Imported: {prefix}, of step 3" in capsys.readouterr().out
    assert {p.stem for p in second.glob("model*")} == {"model3", "model5"}
    ours, theirs = (
        checkpoints.read(checkpoints.find(folder, 3)).arrays
        for folder in (first, second)
    )
    for name, array in ours.items():
        if name.startswith(("network", "inner", "optimizer")):
            np.testing.assert_allclose(array, theirs[name], 1e-6)


@pytest.mark.parametrize("more", [["--pretrained"], []])
def test_refuses_a_legacy_checkpoint(more, images, tmp_path, capsys):
    line = *TINY, f"--import-checkpoint={tmp_path / 'nothing'}", *more
    assert run(tmp_path / "folder", *line) == 1
    assert "nothing" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


def test_a_test_keeps_to_the_classes_of_its_training(images, tmp_path, capsys):
    short = "--meta-iters=1", "--eval-samples=1", "--eval-interval=1"
    assert run(tmp_path / "run", *short, "--seed=3", "--shots=1") == 0
    capsys.readouterr()
    assert run(tmp_path / "run", *short, "--pretrained", "--shots=1") == 1
    assert "--seed: expected 3, with which" in capsys.readouterr().err


def test_images_that_the_test_will_miss_are_missed_before(
    images, tmp_path, monkeypatch, capsys
):
    there = reptile_train.image_classes

    def missing(config, part):
        if part == "validation":
            raise DataError("no validation classes")
        return there(config, part)

    monkeypatch.setattr(reptile_train, "image_classes", missing)
    line = "--datasource=miniimagenet", "--meta-iters=1", "--eval-samples=1"
    assert run(tmp_path / "run", *line) == 1
    assert "no validation classes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_test_alone_takes_what_only_training_could_not():
    flags = "--pretrained", "--shots=1", "--inner-batch=50", "--eval-batch=5"
    for more in ["--replacement"], ["--foml", "--foml-tail=5"]:
        parsed = main_reptile.PROGRAM.parse([*flags, *more])
        assert main_reptile.config_from_flags(parsed).pretrained
