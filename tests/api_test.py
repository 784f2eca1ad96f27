"""The public interface: documented, and typed for a checker."""

import importlib
import inspect
import re

import keras
import pdoc
import pytest
from mypy import api

import maml_tf

RIGHT = """
import keras
from maml_tf import MAML, Reptile, check_meta_gradient, tasks
from maml_tf.inner_optimizers import Adam

network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
learner = MAML(network, "mse", inner_lr=0.1, inner_steps=2, adapt="head")
learner.compile("sgd", "mse")
data = tasks.from_arrays([[1.0]], [0], ways=1, shots=1, queries=1)
learner.fit(data, steps_per_epoch=1)
found = check_meta_gradient(learner, next(iter(data)))
print(found.error + 1.0, learner.execution_plan().layers[0][0].upper())
Reptile(network, Adam(0.1), inner_steps=1).adapt([[1.0]], [0], steps=2)
"""
WRONG = {
    'MAML(network, "mse", inner_lr=0.1, steps=2)': "Unexpected keyword",
    'MAML(network, "mse")': 'Missing named argument "inner_lr"',
    'MAML(network, "mse", inner_lr="fast")': 'incompatible type "str"',
    "found.error.upper()": 'has no attribute "upper"',
    "Reptile(network, 0.1, inner_steps=1)": "expected .InnerOptimizer",
}


def check(program, folder):
    path = folder / "program.py"
    path.write_text(program)
    cache = ["--cache-dir", str(folder / "cache")]
    printed, *_ = api.run([str(path), "--ignore-missing-imports", *cache])
    return printed


def test_a_users_program_passes_a_type_checker(tmp_path):
    assert "no issues found" in check(RIGHT, tmp_path)


def test_a_type_checker_finds_wrong_arguments(tmp_path):
    printed = check(RIGHT + "\n".join(WRONG), tmp_path)
    errors = [line for line in printed.splitlines() if ": error:" in line]
    assert len(errors) == len(WRONG), printed
    for error, message in zip(errors, WRONG.values(), strict=True):
        assert re.search(message, error), error


def test_the_reference_has_every_public_name(tmp_path):
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("maml_tf", output_directory=tmp_path)
    page = (tmp_path / "maml_tf.html").read_text(encoding="utf-8")
    for name in maml_tf.__all__:
        kind = "module" if inspect.ismodule(getattr(maml_tf, name)) else ""
        assert kind or f'id="{name}"' in page, name


def public():
    """Yields what the package exports, and what is in its public modules."""
    for name in maml_tf.__all__:
        yield (value := getattr(maml_tf, name))
        for part in vars(value).values() if inspect.ismodule(value) else ():
            own = getattr(part, "__module__", "") == value.__name__
            if own and not part.__name__.startswith("_"):
                yield part


@pytest.mark.parametrize("value", [*public()], ids=lambda v: v.__name__)
def test_public_names_are_documented(value):
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        own = [f for n, f in vars(value).items() if not n.startswith("_")]
        for method in filter(inspect.isfunction, own):
            assert inspect.getdoc(getattr(value, method.__name__)), method


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="expected tensorflow, .* found jax"):
        importlib.reload(maml_tf)
