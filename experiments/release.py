"""Makes a release file of a trained run: a learner that Keras loads.

    python experiments/release.py RUN_FOLDER FILE.keras

`keras.saving.load_model(FILE)` after `import maml_tf` gives it back, to adapt,
or to compile and train further: the outer optimizer's state, twice the size of
the weights, is left out. See examples/pretrained_sinusoid.py.
"""

import os
import sys

from maml_tf import comparison, saving

MOST = 1_000_000


def main(folder: str, file: str) -> None:
    """Writes the newest checkpoint of a run as a learner.

    Raises:
      SystemExit: if the file would take over 1 MB.
    """
    run = comparison.load(folder, {})
    arguments = saving.arguments_of(run.learner)
    learner = saving.make(type(run.learner), arguments)
    for new, trained in zip(
        learner.inner_variables, run.learner.inner_variables, strict=True
    ):
        new.assign(trained)
    learner.save(file)
    if os.path.getsize(file) > MOST:
        os.unlink(file)
        sys.exit(f"{file}: expected at most 1 MB; nothing is kept.")
    print(f"Written: {file}, from {run.checkpoint.path.name}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
