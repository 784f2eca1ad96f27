"""Makes a release file of a trained run: a learner that Keras loads.

    python experiments/release.py RUN_FOLDER FILE.keras

`keras.saving.load_model(FILE)` after `import maml_tf` gives it back, to adapt,
or to compile and train further. What adapting does not read is left out: the
outer optimizer's state, and the mean gradient of an inner Adam whose β₁ is 0.
So are unused arguments that only newer versions of Keras know.
See examples/pretrained_sinusoid.py.
"""

import json
import pathlib
import sys
import tempfile
import zipfile

from maml_tf import command_line, comparison, files
from maml_tf.learner import arguments_of, make

MOST = 1_000_000
# Keras 3.15 saves them always; 3.12, the newest on Python 3.10, refuses them.
NEW_ARGUMENTS = {"input_axes", "output_axes", "quantization_config"}


def write(folder: str, file: str) -> None:
    """Writes the newest checkpoint of a run as a learner.

    Raises:
      ValueError: if the file would take over 1 MB, or its name does not end in
        `.keras`; what was there before stays.
      checkpoints.CheckpointError: if there is no whole checkpoint.
    """
    if pathlib.Path(file).suffix != ".keras":
        raise ValueError(f"FILE: expected a name in .keras, got {file!r}.")
    run = comparison.load(folder, {})
    with tempfile.TemporaryDirectory() as beside:
        content = _packed(_for_adapting(run.learner), pathlib.Path(beside))
    if len(content) > MOST:
        raise ValueError(
            f"{file}: expected at most {MOST:,} bytes, found that {folder} "
            f"takes {len(content):,}; nothing is written."
        )
    with files.replacing(file) as whole:
        whole.write(content)
    print(f"Written: {file}, from {run.checkpoint.path.name}")


def _for_adapting(trained):
    """Returns a new learner with all of another that adapting reads."""
    learner = make(type(trained), arguments_of(trained))
    optimizer = getattr(trained, "inner_optimizer", None)
    forgets = getattr(optimizer, "beta_1", None) == 0
    mean_gradient = trained.inner_state.slots[0] if forgets else None
    for new, old in zip(
        learner.inner_variables, trained.inner_variables, strict=True
    ):
        if old is not mean_gradient:
            new.assign(old)
    return learner


def _packed(learner, folder):
    """Returns the bytes of a file that older versions of Keras load, too."""
    saved, packed = folder / "saved.keras", folder / "packed.keras"
    learner.save(saved)
    with (
        zipfile.ZipFile(saved) as parts,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file,
    ):
        for name in parts.namelist():
            content = parts.read(name)
            if name == "config.json":
                config = json.loads(content, object_hook=_without_new_arguments)
                content = json.dumps(config)
            file.writestr(name, content)
    return packed.read_bytes()


def _without_new_arguments(entries):
    """Returns a JSON object without those of the new arguments not in use."""
    return {
        name: value
        for name, value in entries.items()
        if value is not None or name not in NEW_ARGUMENTS
    }


def main() -> int:
    """Returns the exit status."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    return command_line.guarded("release.py", lambda: write(*sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
