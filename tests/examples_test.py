"""Every example runs to its picture, with fewer iterations."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
PATHS = sorted(EXAMPLES.glob("*.py"))
LONG = {
    "keyword_signals",
    "omniglot_own_network",
    "sine_uncertainty",
    "tabular_regression",
}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG)
        )
        for path in PATHS
    ],
)
def test_example(path, tmp_path, request):
    picture = tmp_path / "picture.png"
    arguments = ["--iterations=12", f"--picture={picture}"]
    if path.stem == "omniglot_own_network":
        folder = request.getfixturevalue("real_data")
        arguments += [f"--data_dir={folder}", f"--cache_dir={tmp_path}"]
    ran = subprocess.run(
        [sys.executable, path, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert f"Picture: {picture}" in ran.stdout
    assert np.ptp(np.asarray(Image.open(picture))) > 100


def test_every_example_is_listed():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in PATHS:
        assert f"[{path.name}]({path.name})" in listed
