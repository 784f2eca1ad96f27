"""Runs `maml-tf` in the test's own process, and knows the programs' flags."""

import itertools

from maml_tf import main


def flags_of(program):
    """Returns the names of a program's flags, with underscores.

    Args:
      program: its module.
    """
    return {*itertools.chain(*program.FLAGS.values())}


def run(*arguments):
    """Returns the exit status of `maml-tf`."""
    return main.main([*map(str, arguments)])
