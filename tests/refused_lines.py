"""Command lines that are refused, in the test's own process."""

import shlex

from snapshots import snapshot

from maml_tf import main, main_reptile, main_rl

PROGRAMS = {
    "maml-tf": (main, "--logdir=logs --cache_dir=cache"),
    "reptile-tf": (main_reptile, "--checkpoint=run --cache-dir=cache"),
    "maml-rl-tf": (main_rl, "--logdir=run"),
}
"""The programs, and flags that keep them in the current folder."""


def check_refused(program, line, fragments, capsys, folder):
    """Runs a command line, and returns the message that refuses it.

    There is one, with the fragments in it, and the folder is as it was.
    """
    module, where = PROGRAMS[program]
    before = snapshot(folder)
    capsys.readouterr()
    assert module.main(shlex.split(f"{where} {line}")) not in (0, None)
    error = capsys.readouterr().err
    assert error.startswith(f"{program}: ")
    assert error.count(f"{program}: ") == 1
    assert "Traceback" not in error
    for fragment in fragments:
        assert fragment in error
    assert snapshot(folder) == before
    return error
