"""The architecture: who may import whom, and which packages."""

import ast
import pathlib
import sys

import pytest

# module: (side, third-party packages it may import), from low to high.
# A module imports from lower ones of its own side, or of no side; data and
# learners meet only in modules of both sides.
ARCHITECTURE = {
    "settings": ("", ""),
    "config": ("", ""),
    "reptile_config": ("", ""),
    "files": ("", ""),
    "command_line": ("", "absl tensorflow"),
    "records": ("", ""),
    "checks": ("", ""),
    "replicas": ("learner", "keras tensorflow"),
    "saving": ("learner", "keras"),
    "shapes": ("learner", "tensorflow"),
    "losses": ("learner", "keras numpy tensorflow"),
    "compiled": ("learner", "keras tensorflow"),
    "products": ("learner", "tensorflow"),
    "tied": ("learner", "tensorflow"),
    "remat": ("learner", "keras tensorflow"),
    "seeds": ("learner", "keras tensorflow"),
    "adaptation": ("learner", "tensorflow"),
    "exact": ("learner", "tensorflow"),
    "convolution": ("learner", "numpy tensorflow"),
    "few_images": ("learner", "tensorflow"),
    "norms": ("learner", "keras tensorflow"),
    "models": ("learner", "keras"),
    "queries": ("learner", "keras tensorflow"),
    "task_data": ("learner", "keras numpy tensorflow"),
    "functional": ("learner", "keras tensorflow"),
    "selection": ("learner", "keras"),
    "copies": ("learner", "keras tensorflow"),
    "rules": ("learner", "keras tensorflow"),
    "stacked": ("learner", "keras tensorflow"),
    "cores": ("learner", "tensorflow"),
    "provenance": ("learner", "keras tensorflow"),
    "engines": ("learner", "keras tensorflow"),
    "learner": ("learner", "keras tensorflow"),
    "maml": ("learner", "keras tensorflow"),
    "self_check": ("learner", "keras numpy tensorflow"),
    "variants": ("learner", "keras tensorflow"),
    "inner_optimizers": ("learner", "tensorflow"),
    "descent": ("learner", "tensorflow"),
    "reptile": ("learner", "keras tensorflow"),
    "cache": ("data", "numpy"),
    "image_classes": ("data", "numpy"),
    "archives": ("data", ""),
    "omniglot": ("data", "PIL numpy tensorflow_datasets"),
    "pickles": ("data", "numpy"),
    "packing": ("data", "PIL numpy tqdm"),
    "class_folders": ("data", ""),
    "mini_imagenet": ("data", "PIL numpy tensorflow_datasets"),
    "mini_imagenet_tfds": ("data", "tensorflow_datasets"),
    "datasets": ("data", "PIL"),
    "samplers": ("data", "numpy tensorflow"),
    "sinusoids": ("data", "numpy tensorflow"),
    "tasks": ("data", "numpy tensorflow tensorflow_datasets"),
    "evaluation": ("learner", "numpy tensorflow"),
    "checkpoints": ("learner", "numpy"),
    "legacy": ("learner", "keras numpy tensorflow"),
    "logs": ("learner", "numpy tensorflow"),
    "run_folder": ("learner", ""),
    "callbacks": ("learner", "keras numpy tensorflow"),
    "alarms": ("learner", "numpy tensorflow"),
    "distribution": ("learner", "tensorflow"),
    "explain": ("learner", "keras"),
    "reptile_explain": ("learner", "keras"),
    "plots": ("", "matplotlib numpy"),
    "rl": ("learner", ""),
    "rl.config": ("learner", ""),
    "rl.published": ("learner", ""),
    "rl.policies": ("learner", "keras tensorflow"),
    "rl.advantages": ("learner", "numpy tensorflow"),
    "rl.navigation": ("learner", "keras numpy tensorflow"),
    "rl.locomotion": ("learner", "gymnasium keras mujoco numpy tensorflow"),
    "rl.rollouts": ("learner", "tensorflow"),
    "rl.objectives": ("learner", "tensorflow"),
    "rl.trpo": ("learner", "tensorflow"),
    "rl.learners": ("learner", "keras tensorflow"),
    "rl.evaluation": ("learner", "numpy tensorflow"),
    "rl.explain": ("learner", "keras"),
    "rl.pictures": ("learner", "matplotlib numpy"),
    "train": ("both", "keras numpy tensorflow"),
    "reptile_train": ("both", "PIL keras numpy tensorflow"),
    "comparison": ("both", "numpy tensorflow"),
    "rl.train": ("both", "keras numpy tensorflow"),
    "__init__": ("both", "keras"),
    "main_flags": ("", ""),
    "main": ("both", "absl numpy"),
    "main_quickstart": ("both", ""),
    "main_reptile": ("both", "absl"),
    "main_rl": ("both", "absl"),
}
ORDER = list(ARCHITECTURE)
PACKAGE = pathlib.Path(__file__).parents[1] / "maml_tf"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(
        ".__init__"
    )
    for path in PACKAGE.rglob("*.py")
)


def imports(module):
    """Yields what a module imports, anywhere in it, with full names."""
    path = PACKAGE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_named(parts):
    """Returns the module of this package that a dotted name is in."""
    for end in range(len(parts), 0, -1):
        if (module := ".".join(parts[:end])) in MODULES:
            return module
    return "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    side, packages = ARCHITECTURE[module]
    for name in imports(module):
        top, *inner = name.split(".")
        if top == "maml_tf":
            lower = module_named(inner)
            assert ORDER.index(lower) < ORDER.index(module), name
            assert side == "both" or ARCHITECTURE[lower][0] in ("", side), name
    tops = {name.split(".")[0] for name in imports(module)}
    used = tops - sys.stdlib_module_names - {"maml_tf"}
    assert used == {*packages.split()}
