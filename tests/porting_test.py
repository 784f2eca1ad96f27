"""The porting guide: its example runs, its flags and names are there."""

import importlib
import inspect
import pathlib
import re

import numpy as np
import pytest
from command_lines import flags_of

import maml_tf
from maml_tf import command_line, main, main_reptile
from maml_tf.config import Config
from maml_tf.reptile_config import ReptileConfig

GUIDE = pathlib.Path(__file__).parents[1] / "docs" / "porting.md"
TEXT = GUIDE.read_text(encoding="utf-8")
OF_MAML, OF_REPTILE = "Flags of cbfinn/maml", "Flags of supervised-reptile"


def blocks(language):
    """Returns the fenced blocks of a language; those of TF 1 are `text`."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def section(title):
    return re.search(rf"\n## {title}\n(.*?)\n## ", TEXT, re.DOTALL)[1]


def found(name):
    """Returns what a dotted name stands for."""
    value, (_, *parts) = maml_tf, name.split(".")
    for depth, part in enumerate(parts, 2):
        if not hasattr(value, part):
            importlib.import_module(".".join(name.split(".")[:depth]))
        value = getattr(value, part)
    return value


def test_the_example_learns_to_adapt_to_held_out_tasks():
    names = {}
    for block in blocks("python"):
        exec(compile(block, str(GUIDE), "exec"), names)
    loss = names["history"].history["loss"]
    assert loss[-1] < loss[0] / 2
    before, after = (
        np.mean((names[name] - names["query_y"]) ** 2)
        for name in ("before", "after")
    )
    assert after < before / 2
    assert names["curve"].mean.shape == names["curve"].ci95.shape == (4,)
    np.testing.assert_allclose(names["curve"].mean[-1], after, 1e-4)
    np.testing.assert_allclose(
        names["prediction"], names["after"][0], atol=1e-4
    )


@pytest.mark.parametrize("title", [OF_MAML, OF_REPTILE])
def test_every_flag_is_there(title):
    if title == OF_MAML:
        ours = flags_of(main)
    else:
        ours = {name.replace("_", "-") for name in flags_of(main_reptile)}
    assert set(re.findall(r"`--([a-z_-]+)`", section(title))) == ours


@pytest.mark.parametrize(
    "title, kind", [(OF_MAML, Config), (OF_REPTILE, ReptileConfig)]
)
def test_fields_are_those_of_the_settings(title, kind):
    rows = re.findall(r"^\| (`--.*?) \| (`.*?`) \|", section(title), re.M)
    assert len(rows) > 20
    for names, fields in rows:
        pairs = zip(
            re.findall(r"--([a-z_-]+)", names),
            re.findall(r"`(\w+)`", fields),
            strict=True,
        )
        for flag, field in pairs:
            assert field in kind.defaults()
            assert kind.flag_name(field) == flag.replace("-", "_")


def test_the_command_is_understood():
    (command,) = blocks("sh")
    values = main.PROGRAM.parse(re.findall(r"--\w+=\S+", command))
    fields = command_line.fields(Config, values, {})
    config = Config(**fields)  # PREFIX, as it stands there, is no checkpoint.
    assert config.import_checkpoint == "PREFIX" and not config.train


def test_names_of_ours_exist():
    for name in re.findall(r"maml_tf(?:\.\w+)+", TEXT):
        found(name)


def test_arguments_of_ours_exist():
    calls = re.findall(r"`((?:maml_tf\.)?[\w.]+)\(([^`]*)\)`", TEXT)
    checked = 0
    for name, arguments in calls:
        if not name.startswith("maml_tf."):
            if name not in maml_tf.__all__:
                continue
            name = f"maml_tf.{name}"
        ours = inspect.signature(found(name)).parameters
        for argument in re.findall(r"(\w+)=", arguments):
            assert argument in ours, f"{name}({argument}=)"
            checked += 1
    assert checked > 20
