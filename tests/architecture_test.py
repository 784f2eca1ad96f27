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
    "command_line": ("", ""),
    "files": ("", ""),
    "provenance": ("", ""),
    "records": ("", ""),
    "checks": ("", ""),
    "saving": ("learner", "keras"),
    "losses": ("learner", "keras numpy tensorflow"),
    "shapes": ("learner", "tensorflow"),
    "products": ("learner", "tensorflow"),
    "tied": ("learner", "tensorflow"),
    "adaptation": ("learner", "tensorflow"),
    "exact": ("learner", "tensorflow"),
    "convolution": ("learner", "numpy tensorflow"),
    "norms": ("learner", "keras tensorflow"),
    "models": ("learner", "keras"),
    "queries": ("learner", "tensorflow"),
    "selection": ("learner", "keras"),
    "copies": ("learner", "keras tensorflow"),
    "functional": ("learner", "keras tensorflow"),
    "rules": ("learner", "keras tensorflow"),
    "stacked": ("learner", "keras tensorflow"),
    "cores": ("learner", "tensorflow"),
    "engines": ("learner", "keras tensorflow"),
    "meta_learners": ("learner", "keras tensorflow"),
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
    "logs": ("learner", "tensorflow"),
    "run_folder": ("learner", ""),
    "callbacks": ("learner", "keras numpy tensorflow"),
    "explain": ("learner", "keras"),
    "reptile_explain": ("learner", "keras"),
    "plots": ("", "matplotlib numpy"),
    "train": ("both", "keras numpy tensorflow"),
    "reptile_train": ("both", "PIL keras numpy tensorflow"),
    "comparison": ("both", "numpy"),
    "__init__": ("both", ""),
    "main": ("both", "absl numpy"),
    "main_quickstart": ("both", "absl"),
    "main_reptile": ("both", "absl numpy"),
}
ORDER = list(ARCHITECTURE)
PACKAGE = pathlib.Path(__file__).parents[1] / "maml_tf"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports(module):
    """Yields what a module imports, anywhere in it, with full names."""
    source = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    side, packages = ARCHITECTURE[module]
    for name in imports(module):
        top, inner, *_ = [*name.split("."), ""]
        if top == "maml_tf":
            lower = inner if inner in MODULES else "__init__"
            assert ORDER.index(lower) < ORDER.index(module), name
            assert side == "both" or ARCHITECTURE[lower][0] in ("", side), name
        elif top not in sys.stdlib_module_names:
            assert top in packages.split(), name
