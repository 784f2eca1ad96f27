"""The published numbers of MAML and Reptile, by name.

  ./run_experiments.sh quickstart report   meta-trains on sinusoids, in minutes,
                                           and makes results/report.html
  ./run_experiments.sh list                every number, and the state of ours
  ./run_experiments.sh NAME… [FLAGS]       trains, tests, keeps the result; an
                                           interrupted run goes on
  ./run_experiments.sh NAME… --budget=30m  trains each for at most that long
                                           (h, m or s), says how far that is
  ./run_experiments.sh report              results/report.md and report.html,
                                           from the results on disk
  ./run_experiments.sh protocols [FLAGS]   what each choice of a test is worth,
                                           on the trained omniglot_5way_1shot

FLAGS go to training and test alike: --data_dir=DIR, --seed=1, ...
Runs are in logs/NAME, results in results/records. Paths are relative to this
folder. The first run installs the package into .venv, made from python3, or
with PYTHON=python3.12 from that; a GPU also needs
.venv/bin/pip install -e .[gpu].
"""

import itertools
import re
import signal
import subprocess
import sys
import time

import published

MODULES = {
    "regression": "maml_tf.main",
    "multitask": "experiments.multitask",
    "classification": "maml_tf.main",
    "reptile": "maml_tf.main_reptile",
    "rl": "maml_tf.main_rl",
}
TEST_ALONE = {
    "maml_tf.main_reptile": "--pretrained",
    "maml_tf.main_rl": "--train=False",
}
"""Programs that test what they have trained, and how they do it alone."""
UNTRAINED = re.compile("--?(notrain|train=(false|f|no|n|0))", re.IGNORECASE)
"""The flag of `maml-tf` to test without training."""
OF_FOLDERS = ("checkpoint", "logdir", "seed")
"""Flags that name a run's folder, see `published.placed`."""
VERBS = ("list", "report", "protocols")
STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)


class Refusal(Exception):
    """What was asked for makes no sense."""


def parse(arguments: list[str]) -> tuple[list[str], list[str], float | None]:
    """Returns names and verbs, flags, and the budget in seconds.

    Raises:
      Refusal: if there is no such name, or nothing to run for it.
    """
    words = [a for a in arguments if not a.startswith("-")]
    flags = [a for a in arguments if a.startswith("-")]
    budgets = [f for f in flags if f.split("=")[0] == "--budget"]
    flags = [f for f in flags if f not in budgets]
    known = published.by_name()
    _require_no_values(arguments, known)
    for word in words:
        if word not in VERBS:
            _require_known(word, known)
    _require_heeded(words, budgets, flags)
    return words, flags, _seconds(budgets[-1]) if budgets else None


def _require_heeded(words, budgets, flags):
    """Refuses flags that nothing of what is to be done takes."""
    if words and {*words} <= {"list", "report"}:
        for flag in (*budgets, *flags):
            name = flag.partition("=")[0]
            raise Refusal(f"{name}: expected no flags with {' '.join(words)}.")
    for word in words if budgets else ():
        if word in ("quickstart", "protocols"):
            raise Refusal(f"--budget: expected none with {word}.")


def _require_no_values(arguments, known):
    """Refuses --seed alone, and --flag value: the value counts as a name."""
    for flag in arguments:
        if flag.startswith("-") and flag.strip("-=") in OF_FOLDERS:
            raise Refusal(f"{flag}: expected --{flag.strip('-=')}=VALUE.")
    for flag, word in itertools.pairwise(arguments):
        is_name = word in known or word in VERBS or word.startswith("-")
        if flag.startswith("--") and "=" not in flag and not is_name:
            raise Refusal(f"{flag}: expected {flag}={word}, in one word.")


def _require_known(name, known):
    if name not in known:
        raise Refusal(
            f"No experiment is named {name}; ./run_experiments.sh list names "
            "them."
        )
    number = known[name][0]
    if not number.flagfile:
        raise Refusal(
            f"{name} is another method's number ({number.source}: "
            f"{number.paper}): nothing to run."
        )


def _seconds(flag):
    match = re.fullmatch(r"--budget=(\d+(?:\.\d+)?)([hms])", flag)
    if not match or not float(match[1]):
        raise Refusal(
            "--budget: expected a time such as 30m, 2h or 90s, got "
            f"{flag.partition('=')[2]!r}."
        )
    return float(match[1]) * {"h": 3600, "m": 60, "s": 1}[match[2]]


def show_list() -> None:
    """Prints every published number, its needs and the state of ours."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` may cut it short.
    found = published.records()
    line = "{:<41} {:<13} {:>15} {:>5} {:>5}  {:<16} {}"
    print(
        line.format(
            "NAME", "DATA", "PAPER", "HOURS", "GPU", "STATUS", "SOURCE"
        ).rstrip()
    )
    for number in published.numbers():
        where = f", K = {number.shots}" * (number.unit == "MSE")
        after = f" after step {number.step}" * bool(number.step)
        unknown = "?" if number.flagfile else "-"
        cells = (
            number.name,
            number.data or "quoted",
            number.paper or "curve",
            number.hours or unknown,
            number.gpu_hours or unknown,
            published.status(number, found) if number.flagfile else "-",
            f"{number.origin or 'not in the paper'}{where}{after}",
        )
        print(line.format(*cells))
    print(NOTES)


NOTES = """
DATA   none          made up: sinusoids, points on a plane
       omniglot      found in --data_dir, or downloaded
       miniimagenet  bring it, in --data_dir
       mujoco        none: simulated; .venv/bin/pip install -e .[mujoco]
       quoted        another method's number, nothing to run
PAPER  curve         the paper draws it and prints no value; Figure 2 of MAML
                     shows fits to points, by the runs of Figure 3
HOURS  on two cores and on one GPU, measured, or computed from the times in
       docs/performance.md; ? was not measured
STATUS from results/records: iterations done of those published; otherwise:
       the report names how training or test was not the published"""


def run(name: str, flags: list[str], budget: float | None) -> None:
    """Trains and tests one experiment, and keeps its results.

    Raises:
      subprocess.CalledProcessError: if a program fails.
    """
    import collect

    rows = published.by_name()[name]
    flagfile = rows[0].flagfile
    flags, folder = published.placed(name, flagfile, flags)
    began = time.time()
    if name == "quickstart":
        _call("maml_tf.main_quickstart", flagfile, flags)
    else:
        _train_and_test(rows, flagfile, flags, budget, folder)
        for _, group in itertools.groupby(rows, lambda row: row.part):
            own = [*group]
            _say(f"Paper ({own[0].origin or 'no value'}): {_values(own)}")
    results = collect.collect(name, folder, began)
    for file in results:
        _say(f"Result: results/records/{file}")
        if budget:
            _say(f"Iterations: {_progress(file)}")
    if not results:
        _say(f"No result: no test wrote a record in {folder}.")


def _say(line):
    from maml_tf import files  # TensorFlow takes seconds to load

    files.say(line)


def _progress(file):
    record = published.read(published.RECORDS / file, published.KINDS)
    return f"{published.progress(record)} published"


def _values(rows):
    printed = [row for row in rows if row.value]
    if not printed:
        return rows[0].note or "a curve, no value is printed"
    values = ", ".join(row.paper for row in printed)
    steps = ", ".join(row.step for row in printed)
    where = f", K = {printed[0].shots}" * (printed[0].unit == "MSE")
    return f"{values} after step {steps}{where}"


def _train_and_test(rows, flagfile, flags, budget, folder):
    module = MODULES[flagfile.split("/")[0]]
    if module in TEST_ALONE:
        if _call(module, flagfile, flags, budget):
            _require_checkpoint(folder)
            flags = [*_without_import(flags), TEST_ALONE[module]]
            _call(module, flagfile, flags)
        return
    if not any(UNTRAINED.fullmatch(flag) for flag in flags):
        if _call(module, flagfile, flags, budget):
            _require_checkpoint(folder)
        flags = _without_import(flags)
    tests = dict.fromkeys(row.test_flags for row in rows)
    for test in tests:
        only = [*published.TEST, *test.split()]
        _call(module, flagfile, [*only, *flags])


def _require_checkpoint(folder):
    if not any(folder.rglob("model*.npz")):
        raise ValueError(
            "--budget: expected enough time for a first checkpoint, found none "
            f"in {folder}."
        )


def _without_import(flags):
    """Leaves out what was trained from: what was trained is tested."""
    return [f for f in flags if not re.match("--?import[-_]checkpoint", f)]


def _call(module, flagfile, flags, budget=None):
    """Runs a program; at the end of a budget it is asked to save and end.

    Returns:
      Whether the budget ended it.
    """
    command = [sys.executable, "-m", module, f"--flagfile=flags/{flagfile}"]
    process = subprocess.Popen([*command, *flags], cwd=published.ROOT)
    asked = False
    try:
        process.wait(budget)
    except subprocess.TimeoutExpired:
        asked = True
        process.terminate()
        process.wait()
    except KeyboardInterrupt:
        process.wait()  # It had the signal too, and saves.
        raise
    except SystemExit:
        process.terminate()
        process.wait()
        raise
    stopped = asked and process.returncode in STOPPED
    if process.returncode and not stopped:
        raise subprocess.CalledProcessError(process.returncode, module)
    if stopped:
        _say(f"The budget of {budget:.0f} s is spent.")
    return stopped


def main(arguments: list[str]) -> int:
    """Does what the words say, one after another; returns the status."""
    if not arguments or {"help", "-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    check_only = arguments[0] == "--check"
    try:
        words, flags, budget = parse(arguments[check_only:])
        if not words:
            raise Refusal("Expected the name of an experiment.")
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 2
    if check_only:
        return 0
    failed = [w for w in words if _failed(w, flags, budget)]
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _failed(word, flags, budget):
    try:
        if word == "list":
            show_list()
        elif word == "report":
            import pages

            pages.build(published.ROOT / "results")
        elif word == "protocols":
            import protocols

            protocols.show(flags)
        else:
            run(word, flags, budget)
    except subprocess.CalledProcessError:
        return True  # The program has said what is wrong.
    except (ValueError, OSError) as error:
        print(f"{word}: {error}", file=sys.stderr)
        return True
    return False


def _end(signal_number, frame):
    """Ends this on SIGTERM, and first what it runs."""
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # see command_line.py
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
