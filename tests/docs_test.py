"""Every page is true: its programs run, its commands and links exist.

A block of ```output is what the block above it prints.
"""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from command_lines import flags_of

from maml_tf import main, main_reptile, main_rl

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

FLAGS = {
    "maml-tf": flags_of(main),
    "maml-rl-tf": flags_of(main_rl),
    "reptile-tf": flags_of(main_reptile),
}

page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def some_digits(name, split, as_supervised):
    """Stands in for `tfds.load`, which downloads."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(10), 12)
    x = rng.integers(0, 256, [120, 28, 28, 1], "uint8")
    return tf.data.Dataset.from_tensor_slices((x, y))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds, "load", some_digits)


@page
def test_programs_run(page, capsys):
    if page.stem == "porting":
        pytest.skip("porting_test.py runs them, and looks at what they give")
    names = {"__name__": f"page_{page.stem}"}
    printed = None
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
            printed = capsys.readouterr().out
        elif language == "output":
            assert printed == text


@page
def test_flags_of_commands_exist(page):
    for language, text in blocks(page):
        commands = text.replace("\\\n", " ").splitlines()
        for command in commands if language == "sh" else []:
            name, *arguments = command.split()
            given = [a[2:] for a in arguments if a.startswith("--")]
            given = {a.split("=")[0].replace("-", "_") for a in given}
            if name in FLAGS:
                assert not given - FLAGS[name] - {"flagfile"}
            elif name.startswith("./"):
                assert (ROOT / name).exists()


def anchors(page):
    """Returns the headings of a page as links name them."""
    text = re.sub("```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w -]", "", heading.lower()) for heading in headings]
    return {word.replace(" ", "-") for word in words}


@page
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text)
    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), anchor


def test_the_quickstart_is_thirty_lines():
    first = dict(blocks(ROOT / "docs" / "quickstart.md")[:1])["python"]
    assert len(first.splitlines()) <= 30
