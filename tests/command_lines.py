"""Runs `maml-tf` in the test's own process."""

from absl import flags

from maml_tf import main


def parse(*arguments):
    """Parses into the global flags and returns what is left."""
    for flag in flags.FLAGS.flags_by_module_dict()["maml_tf.main"]:
        flag.unparse()
    flags.FLAGS.unparse_flags()
    return flags.FLAGS(["maml-tf", *map(str, arguments)])


def run(*arguments):
    """Returns the exit status."""
    return main.main(parse(*arguments))
