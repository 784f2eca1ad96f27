"""Runs `maml-tf` in the test's own process, and knows the programs' flags."""

from absl import flags

from maml_tf import main, main_reptile, main_rl


def flags_of_maml():
    """Returns the names of the flags of `maml-tf`."""
    own = flags.FLAGS.flags_by_module_dict()[main.__name__]
    return {flag.name for flag in own}


def flags_of_reptile():
    """Returns the names of the flags of `reptile-tf`, with underscores."""
    return {name for _, name, _ in sum(main_reptile.FLAGS.values(), [])}


def flags_of_rl():
    """Returns the names of the flags of `maml-rl-tf`, with underscores."""
    return {name for _, name, _ in sum(main_rl.FLAGS.values(), [])}


def parse(*arguments):
    """Parses into the global flags and returns what is left."""
    for flag in flags.FLAGS.flags_by_module_dict()["maml_tf.main"]:
        flag.unparse()
    flags.FLAGS.unparse_flags()
    return flags.FLAGS(["maml-tf", *map(str, arguments)])


def run_whole(*arguments):
    """Returns the exit status, also where a flag cannot be parsed."""
    parse()
    try:
        return main.main(main.parse(["maml-tf", *map(str, arguments)]))
    except SystemExit as error:
        return error.code


def run(*arguments):
    """Returns the exit status."""
    return main.main(parse(*arguments))
