"""Which engine runs a meta-batch: groups of tasks at once, or one by one.

Both compute the same, and loop inside one graph. *Stacked* runs as many tasks
at once as stay in the processor's caches, or nearly: their operations are
larger, and cheaper to start. *Looped* runs one task by Keras's own layers,
which is faster where one task fills the caches, and runs any Keras model.
Groups of tasks run side by side where cores are shared, see `cores`.
"""

import functools
import warnings
from typing import NamedTuple

import keras
import tensorflow as tf

from maml_tf import cores, stacked

ENGINES = ("auto", "stacked", "looped")

STACKED_BYTES = 150e6
"""The largest estimate, in bytes, of tasks that are stacked."""

SHARED_BYTES = 40e6
"""The same where several such groups run side by side."""

_GROUP = {"stacked": None, "looped": 1}

# Operations whose result shares memory with their input, or is a weight.
_WITHOUT_MEMORY = {"Const", "Identity", "Placeholder", "Reshape", "Unpack"}


class Choice(NamedTuple):
    """An engine.

    Attributes:
      engine: "stacked" or "looped".
      reason: for it, in words.
      group: how many tasks run at once; `None` for all of a meta-batch.
    """

    engine: str
    reason: str
    group: int | None


class Plan(NamedTuple):
    """How a network runs, layer by layer; as text, a table.

    Attributes:
      choice: the engine, or `None` if the sizes of the tasks will decide.
      layers: of each its name and class, and why it cannot run stacked:
        nothing if it can.
    """

    choice: Choice | None
    layers: tuple[tuple[str, str, str], ...]

    def __str__(self):
        if self.choice:
            title = f"{self.choice.engine}: {self.choice.reason}"
        else:
            title = "stacked or looped: the sizes of the tasks decide"
        width = max((len(name) for name, *_ in self.layers), default=0)
        return "\n".join(
            [title]
            + [
                f"  {name:{width}}  {kind:22}  {reasons or 'can be stacked'}"
                for name, kind, reasons in self.layers
            ]
        )


def plan(choice: Choice | None, network: keras.Model) -> Plan:
    """Returns which layers of a network can run stacked."""
    return Plan(
        choice,
        tuple(
            (layer.name, type(layer).__name__, "; ".join(reasons))
            for layer, reasons in stacked.layers(network)
        ),
    )


def choose(engine: str, network: keras.Model) -> Choice | None:
    """Returns the engine of a network, or `None` if the sizes decide.

    Raises:
      ValueError: if there is no such engine, the network is not built, or
        cannot run in it.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {ENGINES}, got {engine!r}.")
    reasons = stacked.unsupported(network)
    if engine == "stacked" and reasons:
        raise ValueError(f"Cannot stack tasks: {'; '.join(reasons)}.")
    if engine != "auto":
        return Choice(engine, "as asked for", _GROUP[engine])
    if not reasons:
        return None
    warnings.warn(
        f"The tasks of {network.name!r} run one after another: "
        f"{'; '.join(reasons)}. With engine='looped' nothing is said.",
        stacklevel=3,
    )
    return Choice("looped", "; ".join(reasons), 1)


def bounded(choice: Choice, tasks: int | None, most: int | None) -> Choice:
    """Returns an engine that was asked for, with at most so many at once.

    Args:
      choice: the engine.
      tasks: B, if it is known.
      most: tasks, or `None` for no bound.

    Raises:
      ValueError: if there is a bound and B is not known.
    """
    if most is None or choice.group == 1:
        return choice
    _require_known(tasks)
    group = _largest_divisor(tasks, most)
    return choice._replace(
        group=group, reason=f"{choice.reason}, {group} at once"
    )


def choose_by_size(
    tasks: int | None, needed: float | None, most: int | None = None
) -> Choice:
    """Returns the engine for a network that can be stacked.

    Groups are equal, and stacked from two tasks on.

    Args:
      tasks: B, if it is known.
      needed: the bytes of a task, see `task_bytes`, if they are known.
      most: tasks at once, or `None` for no bound.

    Raises:
      ValueError: if there is a bound and B is not known.
    """
    if tasks is None or needed is None:
        choice = Choice("stacked", "sizes are not known", None)
        return bounded(choice, tasks, most)
    groups = cores.side_by_side()
    limit = STACKED_BYTES if groups == 1 else SHARED_BYTES
    group = _largest_divisor(tasks, min(limit / needed, most or tasks))
    name = "stacked" if group >= min(tasks, 2) else "looped"
    beside = (
        f" in each of {groups} groups" if group < tasks and groups > 1 else ""
    )
    reason = f"{group} at once{beside}, each takes about {needed / 1e6:,.2f} MB"
    return Choice(name, reason, group)


def task_bytes(
    network: keras.Model,
    variables,
    support_x,
    query_x,
    *,
    inner_steps: int,
    keeps_one: bool,
) -> float | None:
    """Returns about how many bytes a task takes while it is meta-learnt.

    They are U s + q, where s and q are what its support and query pass
    compute: a rough estimate.

    Args:
      network: a network that can be stacked.
      variables: those that the inner loop adapts.
      support_x: inputs `[B, S, …]`, nested as the network takes them.
      query_x: inputs `[B, T, …]`.
      inner_steps: U.
      keeps_one: whether one of the U passes is kept at a time, as in first
        order, or where steps are computed again.

    Returns:
      The bytes, or `None` if a shape is not known.
    """
    apply_fn = functools.partial(
        stacked.many_tasks(network, variables), seed=tf.zeros([2], tf.int64)
    )
    support, query = (
        _pass_bytes(apply_fn, variables, x) for x in (support_x, query_x)
    )
    if support is None or query is None:
        return None
    passes = min(inner_steps, 1) if keeps_one else inner_steps
    return passes * support + query


def tasks_at_once(choice: Choice, tasks: int) -> int:
    """Returns how many of B tasks are in memory at a time."""
    return min(tasks, (choice.group or tasks) * cores.side_by_side())


def _require_known(tasks):
    if tasks is None:
        raise ValueError(
            "tasks_per_step: expected meta-batches of a known number of tasks, "
            "found one that may change. `batch(…, drop_remainder=True)` of "
            "tf.data keeps it; for another size than before, `compile` anew."
        )


def _largest_divisor(number, limit):
    """Returns the largest divisor up to a limit, or 1."""
    most = int(min(number, max(1, limit)))
    return next(d for d in range(most, 0, -1) if number % d == 0)


def _pass_bytes(apply_fn, variables, x):
    """Returns the bytes of the floats that one task's pass computes."""
    like = [tf.TensorSpec([1, *v.shape], v.dtype) for v in variables]
    task = tf.nest.map_structure(
        lambda part: tf.TensorSpec([1, *part.shape[1:]], part.dtype), x
    )
    function = tf.function(apply_fn, autograph=False)
    graph = function.get_concrete_function(like, task).graph
    sizes = [
        (output.shape.num_elements(), output.dtype.size)
        for operation in graph.get_operations()
        for output in operation.outputs
        if operation.type not in _WITHOUT_MEMORY and output.dtype.is_floating
    ]
    if any(count is None for count, _ in sizes):
        return None
    return sum(count * size for count, size in sizes)
