"""Programs that need a TensorFlow of their own, with other devices."""

import subprocess
import sys


def check_runs(program, arguments):
    """Runs the text of a program, whose assertions have to hold."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
