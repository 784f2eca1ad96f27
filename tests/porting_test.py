"""The porting guide: its example runs, its flags and names are there."""

import importlib
import pathlib
import re

import numpy as np
from absl import flags

from maml_tf import main_reptile
from maml_tf.config import Config
from maml_tf.reptile_config import ReptileConfig

GUIDE = pathlib.Path(__file__).parents[1] / "docs" / "porting.md"
TEXT = GUIDE.read_text(encoding="utf-8")


def test_the_example_learns_to_adapt():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, str(GUIDE), "exec"), names)
    loss = names["history"].history["loss"]
    assert loss[-1] < loss[0] / 2
    before, after = (
        np.mean((names[name] - names["query_y"][:5]) ** 2)
        for name in ("before", "after")
    )
    assert after < before / 2


def named(section):
    """Returns the flags that a section names."""
    start = TEXT.index(f"## {section}")
    end = TEXT.index("\n## ", start + 1)
    return set(re.findall(r"`--([a-z_-]+)`", TEXT[start:end]))


def test_every_flag_of_maml_is_there():
    import maml_tf.main

    ours = flags.FLAGS.flags_by_module_dict()[maml_tf.main.__name__]
    assert named("Flags of cbfinn/maml") == {flag.name for flag in ours}


def test_every_flag_of_reptile_is_there():
    ours = {name.replace("_", "-") for name in main_reptile.parse([])}
    ours -= {"flagfile", "undefok"}
    assert named("Flags of supervised-reptile") == ours


def test_fields_are_those_of_the_settings():
    for section, kind in (
        ("Flags of cbfinn/maml", Config),
        ("Flags of supervised-reptile", ReptileConfig),
    ):
        start = TEXT.index(f"## {section}")
        end = TEXT.index("\n## ", start + 1)
        for flag_names, fields in re.findall(
            r"^\| (`--.*?) \| (.*?) \|", TEXT[start:end], re.M
        ):
            pairs = zip(
                re.findall(r"--([a-z_-]+)", flag_names),
                re.findall(r"`(\w+)`", fields),
                strict=True,
            )
            for flag, field in pairs:
                assert kind.flag_name(field) == flag.replace("-", "_")


def test_names_of_ours_exist():
    for name in re.findall(r"maml_tf(?:\.\w+)+", TEXT):
        found = importlib.import_module("maml_tf")
        for depth, part in enumerate(name.split(".")[1:], 2):
            if not hasattr(found, part):
                importlib.import_module(".".join(name.split(".")[:depth]))
            found = getattr(found, part)
