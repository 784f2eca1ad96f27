"""Published numbers: each is a flagfile and a line of run_experiments.sh."""

import copy
import pathlib
import re
import subprocess

import pytest
from absl import flags

from maml_tf import main, main_reptile, main_rl

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "run_experiments.sh"
FLAGFILES = sorted((ROOT / "flags").glob("*/*.flags"))
TABLE = {
    row[0]: row[1:]
    for row in (
        re.split(r" *\| *", line)
        for line in SCRIPT.read_text(encoding="utf-8").splitlines()
    )
    if len(row) == 5
}


@pytest.fixture(params=FLAGFILES, ids=lambda path: path.stem)
def flagfile(request):
    return request.param


OF_ONE_COMMAND = {"reptile": main_reptile, "rl": main_rl}
"""Programs that train and test at once, by the folder of their flagfiles."""


def program_of(flagfile):
    return OF_ONE_COMMAND.get(flagfile.parent.name)


def parse(flagfile, *more):
    if program := program_of(flagfile):
        values = program.parse([f"--flagfile={flagfile}", *more])
        return program.config_from_flags(values)
    values = copy.deepcopy(flags.FLAGS)
    values(["maml-tf", f"--flagfile={flagfile}", *more])
    return main.config_from_flags(values)


def comment(flagfile):
    lines = flagfile.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("#")]


def run_experiments(*arguments):
    return subprocess.run(
        [SCRIPT, *arguments], capture_output=True, text=True, cwd="/"
    )


def test_every_flagfile_has_a_line_and_every_line_a_flagfile():
    named = {name: row[0] for name, row in TABLE.items() if row[0] != "-"}
    assert named == {
        path.stem: f"{path.parent.name}/{path.name}" for path in FLAGFILES
    }


def test_opens_with_its_source(flagfile):
    first = flagfile.read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# .*(arXiv \d{4}\.\d{5}|cbfinn/maml)", first)


def test_cites_the_value_of_its_line(flagfile):
    value = TABLE[flagfile.stem][-1]
    for number in re.findall(r"\d+\.\d+", value):
        assert number in " ".join(comment(flagfile))


def test_is_a_valid_config_with_a_folder_of_its_own(flagfile):
    config = parse(flagfile)
    folder = f"logs/{flagfile.stem}"
    if program_of(flagfile):
        assert config.folder == folder
        assert not getattr(config, "pretrained", False)
    else:
        assert config.logdir == folder and config.train


def test_is_tested_where_it_was_trained(flagfile):
    if program_of(flagfile):
        return  # one command trains and tests
    (k5,) = re.findall(r"k5='(.*)'", SCRIPT.read_text(encoding="utf-8"))
    more = TABLE[flagfile.stem][1].replace("$k5", k5).split()
    config = parse(flagfile, "--train=False", "--test_set=True", *more)
    assert config.folder == parse(flagfile).folder


def test_explains_itself_without_arguments():
    result = run_experiments()
    assert result.returncode == 0
    assert "./run_experiments.sh NAME" in result.stdout


def test_lists_every_number():
    result = run_experiments("list")
    assert result.returncode == 0
    listed = [line.split()[0] for line in result.stdout.splitlines() if line]
    assert set(TABLE) <= set(listed)


@pytest.mark.parametrize(
    "name, message",
    [
        ("omniglot", "No experiment is named omniglot"),
        ("omniglot_5way_1shot_siamese_nets", "nothing to run"),
    ],
)
def test_refuses_what_it_cannot_run(name, message):
    result = run_experiments(name)
    assert result.returncode == 2
    assert message in result.stderr
    assert not result.stdout
