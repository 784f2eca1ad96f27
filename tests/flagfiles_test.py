"""Published numbers: each is a line of published.csv, most have a flagfile."""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "run_experiments.sh"
FLAGFILES = sorted((ROOT / "flags").glob("*/*.flags"))
sys.path.insert(0, str(ROOT / "experiments"))

import collect  # noqa: E402  (a folder of programs, not a package)
import published  # noqa: E402
import run  # noqa: E402

from maml_tf import records  # noqa: E402
from maml_tf.config import Config  # noqa: E402
from maml_tf.evaluation import AdaptationCurve  # noqa: E402
from maml_tf.reptile_config import ReptileConfig  # noqa: E402

TABLE = published.by_name()


@pytest.fixture(params=FLAGFILES, ids=lambda path: path.stem)
def flagfile(request):
    return request.param


def is_one_command(flagfile):
    """Returns whether one command trains and tests."""
    return flagfile.parent.name in ("reptile", "rl")


def parse(flagfile, *more):
    return collect.settings(f"{flagfile.parent.name}/{flagfile.name}", *more)


def comment(flagfile):
    lines = flagfile.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("#")]


def run_experiments(*arguments):
    return subprocess.run(
        [SCRIPT, *arguments], capture_output=True, text=True, cwd="/"
    )


def test_every_flagfile_has_a_line_and_every_line_a_flagfile():
    named = {
        name: rows[0].flagfile
        for name, rows in TABLE.items()
        if rows[0].flagfile
    }
    assert named == {
        path.stem: f"{path.parent.name}/{path.name}" for path in FLAGFILES
    }


def test_opens_with_its_source(flagfile):
    first = flagfile.read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# .*(arXiv \d{4}\.\d{5}|cbfinn/maml)", first)


def test_cites_the_value_of_its_line(flagfile):
    for number in TABLE[flagfile.stem]:
        assert number.value in " ".join(comment(flagfile))


def test_numbers_of_policies_are_those_of_the_authors_files(golden):
    files = golden("rl/paper_curves")
    for path in FLAGFILES:
        env = path.stem.removeprefix("rl_").replace("nav2d", "point")
        for number in TABLE[path.stem] if path.parent.name == "rl" else ():
            method = number.part.removesuffix("_trpo")
            curve = AdaptationCurve(files[f"{env}_{method}"].T)
            found = curve.mean[int(number.step)], curve.ci95[int(number.step)]
            assert [f"{x:.2f}" for x in found] == [number.value, number.ci95]


def test_every_robot_is_said_to_be_simulated_otherwise():
    numbers = [number for rows in TABLE.values() for number in rows]
    robots = [number for number in numbers if number.data == "mujoco"]
    assert robots
    assert all("another MuJoCo" in number.note for number in robots)


def test_is_a_valid_config_with_a_folder_of_its_own(flagfile):
    config = parse(flagfile)
    folder = f"logs/{flagfile.stem}"
    if is_one_command(flagfile):
        assert config.folder == folder
        assert not getattr(config, "pretrained", False)
    else:
        assert config.logdir == folder and config.train


def test_is_tested_where_it_was_trained(flagfile):
    if is_one_command(flagfile):
        return
    for number in TABLE[flagfile.stem]:
        more = "--train=False", "--test_set=True", *number.test_flags.split()
        config = parse(flagfile, *more)
        assert config.folder == parse(flagfile).folder
        assert str(config.shots) == number.shots


# The commands of the originals, by how the experiments' names begin.
OF_MAML = {
    "omniglot_5way": {"meta_batch_size": 32, "inner_lr": 0.4},
    "omniglot_20way": {
        "ways": 20,
        "meta_batch_size": 16,
        "inner_lr": 0.1,
        "inner_steps": 5,
    },
    "miniimagenet": {
        "meta_batch_size": 4,
        "inner_lr": 0.01,
        "inner_steps": 5,
        "num_filters": 32,
        "max_pool": True,
    },
}
OF_REPTILE = {
    "omniglot_5way": {"inner_batch": 10, "inner_steps": 5, "eval_batch": 5},
    "omniglot_20way": {
        "ways": 20,
        "inner_lr": 0.0005,
        "inner_batch": 20,
        "inner_steps": 10,
        "meta_iterations": 200_000,
        "eval_batch": 10,
    },
    "miniimagenet_1shot": {"eval_batch": 5},
    "miniimagenet_5shot": {"eval_batch": 15},
}
ALPHAS = {
    "quickstart": 0.001,
    "sinusoid_maml": 0.01,
    "sinusoid_maml_code_default_lr": 0.001,
    "sinusoid_oracle": 0.01,
    "sinusoid_pretrained": 0.01,
    "sinusoid_pretrained_lr_002": 0.02,
    "sinusoid_pretrained_tuned": 0.002,
}


def those_of(folder, pattern=""):
    """Returns what goes through a folder's flagfiles of like names."""
    found = [path for path in FLAGFILES if path.parent.name == folder]
    found = [path for path in found if re.search(pattern, path.stem)]
    return pytest.mark.parametrize("path", found, ids=lambda path: path.stem)


def told(name, commands):
    """Returns what a name and the command that it begins like say."""
    [own] = [own for start, own in commands.items() if name.startswith(start)]
    shots = int(re.search(r"_(\d)shot", name)[1])
    return {"datasource": name.split("_")[0], "shots": shots, **own}


@those_of("classification")
def test_maml_learns_images_by_the_originals_commands(path):
    assert parse(path) == Config(
        meta_iterations=60_000,
        first_order=path.stem.endswith("_first_order"),
        conv=not path.stem.endswith("_noconv"),
        logdir=f"logs/{path.stem}",
        **told(path.stem, OF_MAML),
    )


@those_of("regression")
def test_sinusoids_are_learnt_by_the_originals_commands(path):
    config = parse(path)
    assert (config.shots, config.norm) == (10, "None")
    assert (config.meta_batch_size, config.inner_steps) == (25, 1)
    assert config.inner_lr == ALPHAS[path.stem]
    trained = 30_000 if path.stem == "quickstart" else 70_000
    pretrains = "pretrained" in path.stem or "oracle" in path.stem
    assert config.phases == ((trained, 0) if pretrains else (0, trained))
    assert config.is_oracle == ("oracle" in path.stem)


@those_of("reptile", "shot")
def test_reptile_learns_images_by_the_originals_commands(path):
    name = path.stem.removeprefix("reptile_")
    settings = {
        "inner_batch": 10,
        "inner_steps": 8,
        "train_shots": 10 if name.startswith("omniglot") else 15,
        "meta_iterations": 100_000,
        **told(name, OF_REPTILE),
    }
    assert parse(path) == ReptileConfig(
        meta_step=1.0,
        meta_step_final=0.0,
        meta_batch_size=5,
        transductive=name.endswith("_transductive"),
        folder=f"logs/{path.stem}",
        **settings,
    )


@those_of("reptile", r"_g\d")
def test_combinations_are_the_originals_commands(path):
    _, part, *_ = path.stem.split("_")
    parts = {"half": 0.125, "third": 0.08325, "fourth": 0.0625}
    steps = int(path.stem[-1])
    assert parse(path) == ReptileConfig(
        sgd=True,
        foml=path.stem in ("reptile_g2", "reptile_g3", "reptile_g4"),
        inner_batch=25,
        inner_steps=steps,
        inner_lr=0.003,
        train_shots=5 * steps,
        meta_step=parts.get(part, 0.25),
        meta_step_final=0.0,
        meta_iterations=40_000,
        eval_batch=25,
        eval_steps=5,
        eval_interval=1,
        folder=f"logs/{path.stem}",
    )


def test_explains_itself_without_arguments():
    result = run_experiments()
    assert result.returncode == 0
    assert "./run_experiments.sh NAME" in result.stdout


def test_lists_every_number():
    result = run_experiments("list")
    assert result.returncode == 0
    header, *lines = result.stdout.splitlines()
    listed = [line.split()[0] for line in lines if line]
    assert set(TABLE) <= set(listed)
    numbers = published.numbers()
    sources = [line[header.index("SOURCE") :] for line in lines]
    for number, source in zip(numbers, sources, strict=False):
        assert source.startswith(number.source), number


@pytest.mark.parametrize("words", ["help", "list"])
def test_a_terminal_may_lack_letters(words):
    line = [sys.executable, ROOT / "experiments" / "run.py", words]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    subprocess.run(line, env=environment, check=True, capture_output=True)


def test_a_list_may_be_cut_short():
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, ROOT / "experiments" / "run.py", "list"]
    cut = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert cut.returncode == -signal.SIGPIPE and not cut.stderr


@pytest.mark.parametrize(
    "name, message",
    [
        ("omniglot", "No experiment is named omniglot"),
        ("omniglot_5way_1shot_siamese_nets", "nothing to run"),
        ("--budget=soon", "--budget: expected a time such as 30m"),
        ("--seed=1", "Expected the name of an experiment"),
        ("list --model_steps 1", "expected --model_steps=1, in one word"),
        ("sinusoid_maml --seed 1", "--seed: expected --seed=VALUE"),
        ("sinusoid_maml --logdir=", "--logdir=: expected --logdir=VALUE"),
        ("quickstart --budget=1m", "--budget: expected none with quickstart"),
        ("protocols --budget=1m", "--budget: expected none with protocols"),
        ("report --budget=1m", "--budget: expected no flags with report"),
        ("list report --seed=1", "--seed: expected no flags with list report"),
    ],
)
def test_refuses_what_it_cannot_run(name, message):
    result = run_experiments(*name.split())
    assert result.returncode == 2
    assert message in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("words", ["", "list", "quickstart", "list report"])
def test_an_old_python_is_named(words, tmp_path):
    """Nothing of it is run, as it may not be able to read the program."""
    for folder in ("tools", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(SCRIPT, tmp_path)
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\n[ $1 = --version ] && echo Python 3.9.1\n")
    old.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(old)}
    result = subprocess.run(
        [tmp_path / SCRIPT.name, *words.split()],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Python 3.10 to 3.13 is needed")
    assert "old is Python 3.9.1" in result.stderr
    assert not (tmp_path / ".venv").exists()


def fake_calls(monkeypatch, fails=()):
    """Stands in for training and testing, and returns what was called."""
    called = []

    def call(module, flagfile, flags, budget=None):
        name = flagfile.split("/")[1].removesuffix(".flags")
        called.append((name, [f for f in flags if "folder" not in f], budget))
        if name in fails:
            raise subprocess.CalledProcessError(1, module)

    monkeypatch.setattr(run, "_call", call)
    return called


def test_runs_several_and_lists_those_that_fail(monkeypatch, capsys, tmp_path):
    called = fake_calls(monkeypatch, fails=["omniglot_5way_1shot"])
    names = ["omniglot_5way_1shot", "reptile_g1", "omniglot_20way_1shot"]
    where = f"--logdir={tmp_path}", "--seed=3"
    assert run.main([*names, *where]) == 1
    assert [name for name, *_ in called] == [
        "omniglot_5way_1shot",
        "reptile_g1",
        *2 * ["omniglot_20way_1shot"],  # training and test
    ]
    assert all("--seed=3" in flags for _, flags, _ in called)
    assert capsys.readouterr().err.endswith("Failed: omniglot_5way_1shot\n")


def test_lines_come_between_those_of_the_programs(monkeypatch, tmp_path):
    raw, seen = io.BytesIO(), []
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
    monkeypatch.setattr(
        run, "_call", lambda *call: seen.append(raw.getvalue().decode())
    )
    run.main(["reptile_g1", "rl_nav2d", f"--logdir={tmp_path}"])
    assert seen[0] == "" and seen[1].startswith("Paper (Reptile, Figure 3)")
    assert "No result" in seen[1]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("2m", 120), ("2h", 7200), ("90s", 90), ("1.5h", 5400)],
)
def test_a_budget_is_for_training(given, seconds, monkeypatch, tmp_path):
    called = fake_calls(monkeypatch)
    run.main(["sinusoid_maml", f"--budget={given}", f"--logdir={tmp_path}"])
    assert [budget for *_, budget in called] == [seconds, None, None, None]


@pytest.mark.parametrize("budget", [[], ["--budget=30m"]])
def test_says_how_far_a_budget_went(budget, monkeypatch, tmp_path, capsys):
    path = (
        ROOT / "results" / "records" / "sinusoid_oracle.5shot.seed0.70000.json"
    )
    part = json.loads(path.read_text()) | {"iterations": 700}
    monkeypatch.setattr(published, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(
        run, "_call", lambda *_: records.write(tmp_path / "test_x.json", part)
    )
    assert run.main(["sinusoid_oracle", f"--logdir={tmp_path}", *budget]) == 0
    words = "Iterations: 700 of 70,000 published\n"
    assert (words in capsys.readouterr().out) == bool(budget)


def test_a_policy_is_tested_when_its_budget_is_spent(
    monkeypatch, tmp_path, capsys
):
    called = []
    monkeypatch.setattr(
        run, "_call", lambda *call: called.append(call) or len(call) == 4
    )
    line = "rl_nav2d", "--budget=2m", f"--logdir={tmp_path}"
    assert run.main([*line]) == 1
    [training] = called
    assert training[3] == 120
    message = f"found none in {tmp_path}.\nFailed: rl_nav2d"
    assert message in capsys.readouterr().err
    (tmp_path / "model5.npz").touch()
    called.clear()
    run.main([*line])
    assert "--train=False" in called[1][2]


def test_what_was_trained_is_tested_not_what_was_imported(
    monkeypatch, tmp_path
):
    called = fake_calls(monkeypatch)
    imported = "--import_checkpoint=x"
    run.main(["sinusoid_maml", f"--logdir={tmp_path}", imported])
    assert [imported in flags for _, flags, _ in called] == [True, *3 * [False]]


def test_an_imported_checkpoint_is_tested_without_training(
    monkeypatch, tmp_path
):
    called = fake_calls(monkeypatch)
    line = "--train=False", "--import_checkpoint=x", f"--logdir={tmp_path}"
    run.main(["sinusoid_maml", *line])
    assert len(called) == 3
    for _, flags, _ in called:
        assert {"--test_set=True", "--import_checkpoint=x"} <= set(flags)


def test_a_program_ends_with_what_runs_it(monkeypatch):
    class Process:
        ended = []

        def wait(self, budget=None):
            if not self.ended:
                raise SystemExit(143)

        def terminate(self):
            self.ended.append(True)

    monkeypatch.setattr(run.subprocess, "Popen", lambda *a, **k: Process())
    with pytest.raises(SystemExit):
        run._call("module", "flagfile", [])
    assert Process.ended


class Lasting:
    """A process that outlasts its budget, and ends as it is asked to."""

    def __init__(self, status):
        self.status, self.returncode, self.asked = status, None, False

    def wait(self, budget=None):
        if not self.asked:
            raise subprocess.TimeoutExpired("x", budget)
        self.returncode = self.status

    def terminate(self):
        self.asked = True


@pytest.mark.parametrize(
    ("status", "stopped"), [(-15, True), (143, True), (0, False)]
)
def test_a_program_is_asked_to_end_with_its_budget(
    status, stopped, monkeypatch
):
    process = Lasting(status)
    monkeypatch.setattr(run.subprocess, "Popen", lambda *a, **k: process)
    assert run._call("module", "flagfile", [], 1) is stopped
    assert process.asked


def test_a_budget_ends_though_nobody_reads_that(monkeypatch, unread):
    monkeypatch.setattr(run.subprocess, "Popen", lambda *a, **k: Lasting(143))
    with contextlib.redirect_stdout(unread):
        assert run._call("module", "flagfile", [], 1)


def test_a_program_that_fails_at_the_end_of_its_budget_has_failed(monkeypatch):
    monkeypatch.setattr(run.subprocess, "Popen", lambda *a, **k: Lasting(1))
    with pytest.raises(subprocess.CalledProcessError):
        run._call("module", "flagfile", [], 1)


@pytest.mark.parametrize("name", [n for n in TABLE if TABLE[n][0].flagfile])
def test_the_usual_seed_has_the_folder_without_a_seed(name):
    flagfile = TABLE[name][0].flagfile
    usual = parse(ROOT / "flags" / flagfile).seed
    for seed in (0, 1):
        _, folder = published.placed(name, flagfile, [f"--seed={seed}"])
        words = [name] if seed == usual else [name, f"seed{seed}"]
        assert folder.name == "_".join(words)


def test_other_seeds_have_folders_of_their_own():
    flags, folder = published.placed("reptile_g1", "reptile/x", ["--seed=2"])
    assert flags == ["--seed=2", "--checkpoint=logs/reptile_g1_seed2"]
    assert folder == ROOT / "logs" / "reptile_g1_seed2"
