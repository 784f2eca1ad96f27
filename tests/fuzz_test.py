"""Whatever bytes and words there are, readers give a value or their error.

FUZZ_EXAMPLES=20000 ./run_tests.sh tests/fuzz_test.py tries so many others.
"""

import os

import hypothesis
import numpy as np
import pytest
from command_lines import flags_of
from contents import npz
from hypothesis import strategies as st

from maml_tf import checkpoints, main, main_reptile, main_rl, mini_imagenet
from maml_tf.cache import DataError
from maml_tf.settings import ConfigError

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
modest = hypothesis.settings(
    max_examples=int(EXAMPLES or 100),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    # The folder is the same for all examples, each of which writes its file.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)

# Tables of mini-ImageNet

NAMES = mini_imagenet.class_list("validation")
IMAGES = [f"{name}{rank:08}.jpg" for name in NAMES[:2] for rank in (1, 2)]
CELLS = st.sampled_from([*IMAGES, *NAMES[:3], "filename", "label", "", "../x"])
LINES = st.lists(st.lists(CELLS | st.text(max_size=5), max_size=4), max_size=6)


def joined(lines, comma, end):
    return end.join(comma.join(line) for line in lines)


LIKE_TABLES = st.builds(
    joined,
    st.tuples(st.permutations(["filename", "label", "x"]), st.lists(CELLS)).map(
        list
    )
    | LINES,
    st.sampled_from([",", ",", ";", '","', "\t"]),
    st.sampled_from(["\n", "\r\n", "\r", '"\n"', "\0"]),
)
TABLES = st.binary() | st.one_of(st.text(), LIKE_TABLES).flatmap(
    lambda text: st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]).map(
        lambda code: text.encode(code, "surrogatepass")
    )
)


def check_table(content, folder):
    (folder / "val.csv").write_bytes(content)
    try:
        found = mini_imagenet.find_form(folder, "validation")
    except DataError as error:
        assert str(folder) in str(error)
        return
    paths = {
        path for files in found.classes.values() for path in files.values()
    }
    assert paths and all((folder / path).is_file() for path in paths)


@pytest.fixture
def table_folder(tmp_path, monkeypatch):
    def no_tfds(part):
        raise OSError("nothing is prepared")

    monkeypatch.setattr(mini_imagenet, "_tfds_rows", no_tfds)
    for name in IMAGES:
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@modest
@hypothesis.given(content=TABLES)
@hypothesis.example(content=b"filename,label\n" + IMAGES[0].encode() + b",x")
@hypothesis.example(content=b"filename,label\n" + IMAGES[0].encode())
@hypothesis.example(content=b"filename,label\n" + b"x" * 200_000)
@hypothesis.example(content=b"")
def test_tables(table_folder, content):
    check_table(content, table_folder)


# Command lines and files of flags

WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
VALUES = WORDS | st.sampled_from(
    ["", "0", "-1", "1e999", "nan", "True", "None", "a.flags", str(10**30)]
)


def command_lines_of(names):
    flag = st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["--", "--", "-", "--no"]),
        st.sampled_from([*sorted(names), "flagfile", "undefok"]),
        st.sampled_from(["=", "=", ""]),
        VALUES,
    )
    return st.lists(WORDS | flag, max_size=5)


def check_command_line(program, arguments):
    try:
        program.config_from_flags(program.PROGRAM.parse(arguments))
    except (ConfigError, checkpoints.CheckpointError) as error:
        assert str(error)


programs = pytest.mark.parametrize(
    "program",
    [main, main_reptile, main_rl],
    ids=lambda program: program.PROGRAM.name,
)


@programs
@modest
@hypothesis.given(data=st.data())
def test_command_lines(program, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = data.draw(command_lines_of(flags_of(program)))
    check_command_line(program, line)


def flagfiles_of(names):
    lines = command_lines_of(names).map("\n".join)
    return st.binary() | st.builds(str.encode, lines)


@programs
@modest
@hypothesis.given(data=st.data())
def test_flagfiles(program, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = data.draw(flagfiles_of(flags_of(program)))
    (tmp_path / "a.flags").write_bytes(content)
    check_command_line(program, ["--flagfile=a.flags"])


# Checkpoints


WHOLE = npz({"network/0": np.ones(3), "phase": "meta", "checksum": "0"})
EDITS = st.lists(
    st.tuples(
        st.integers(0, len(WHOLE)), st.integers(0, 9), st.binary(max_size=9)
    ),
    min_size=1,
    max_size=3,
)


def edited(edits):
    content = WHOLE
    for place, length, new in edits:
        content = content[:place] + new + content[place + length :]
    return content


VALUE = st.one_of(
    st.integers(-(2**60), 2**60), st.text(), st.binary(), st.floats()
)
CHECKPOINTS = st.one_of(
    st.binary(),
    st.builds(bytes.__add__, st.just(WHOLE[:40]), st.binary()),
    EDITS.map(edited),
    st.dictionaries(
        st.sampled_from(["checksum", "iteration", "phase", "settings", "a/0"]),
        VALUE,
    ).map(npz),
)


def check_checkpoint(content, folder):
    path = folder / "model5.npz"
    path.write_bytes(content)
    with pytest.raises(checkpoints.CheckpointError, match="model5.npz"):
        checkpoints.read(checkpoints.Checkpoint(path, 5))


@modest
@hypothesis.given(content=CHECKPOINTS)
@hypothesis.example(content=b"")
@hypothesis.example(content=WHOLE)
@hypothesis.example(content=WHOLE[:-1])
def test_checkpoints(tmp_path, content):
    check_checkpoint(content, tmp_path)
