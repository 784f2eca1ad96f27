"""A program that may kill itself in the middle of saving.

    python tests/torture/victim.py maml|reptile STEP FLAG…

It is `maml-tf` or `reptile-tf`, but saves often and, if STEP is not 0, sends
itself SIGKILL at the STEPth thing that it does to a file: before it, after it,
or within the time that writing takes.
"""

import functools
import itertools
import os
import random
import signal
import sys
import threading
import time

SAVE_INTERVAL = 100


def main(program, step, *arguments):
    """Runs a program to its end, or its death."""
    from maml_tf import main as maml
    from maml_tf import main_reptile, reptile_train, train

    train.SAVE_INTERVAL = reptile_train.SAVE_INTERVAL = SAVE_INTERVAL
    if int(step):
        kill_at(int(step))
    sys.exit({"maml": maml, "reptile": main_reptile}[program].main(arguments))


def kill_at(step):
    """Counts what is done to files, and dies at the given count."""
    count = itertools.count(1)

    def dangerous(function):
        @functools.wraps(function)
        def counted(*arguments, **options):
            way = "no" if next(count) != step else random.choice(WAYS)
            if way == "before":
                die()
            if way == "meanwhile":
                threading.Thread(target=die_soon).start()
            result = function(*arguments, **options)
            if way == "after":
                die()
            return result

        return counted

    from maml_tf import checkpoints, logs

    os.fsync, os.replace, os.unlink = map(
        dangerous, (os.fsync, os.replace, os.unlink)
    )
    checkpoints.save = dangerous(checkpoints.save)
    logs.Table.append = dangerous(logs.Table.append)


WAYS = ("before", "meanwhile", "after")


def die():
    """Ends at once, as by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_soon():
    """Dies within the time that a checkpoint takes to save."""
    time.sleep(random.uniform(0, 0.01))
    die()


if __name__ == "__main__":
    main(*sys.argv[1:])
