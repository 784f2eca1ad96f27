"""How queries are predicted: whose batch statistics normalise them.

A layer with batch statistics makes a prediction depend on the whole batch.
Each function returns predictions `[(B,) T, …]` and penalties `[(B)]`, as
`apply_fn` does for parameters and inputs.
"""

import keras
import tensorflow as tf

from maml_tf import norms, shapes

_map = tf.nest.map_structure


def together(apply_fn, phi, support_x, query_x, axis, dtypes):
    """Predicts all queries of a task in one batch: *transductive*."""
    del support_x, axis, dtypes
    return apply_fn(phi, query_x)


def alone(apply_fn, phi, support_x, query_x, axis, dtypes):
    """Predicts each query in a batch of its own, with the support set.

    Args:
      apply_fn: see above, as for the next ones.
      phi: parameters.
      support_x: `[(B,) S, …]`.
      query_x: `[(B,) T, …]`.
      axis: of the examples, 0 or 1.
      dtypes: of predictions and penalties.
    """
    queries = shapes.leading(query_x, axis)

    def predict(t):
        def company(support, query):
            one = tf.gather(query, t[None], axis=axis)
            return tf.concat([support, one], axis)

        x = _map(company, support_x, query_x)
        prediction, penalty = apply_fn(phi, x)
        last = _map(lambda p: p[:, -1] if axis else p[-1], prediction)
        return last, penalty

    predictions, penalties = tf.map_fn(
        predict, tf.range(queries), fn_output_signature=dtypes
    )
    if axis:
        predictions = _map(_tasks_first, predictions)
    return predictions, tf.reduce_mean(penalties, 0)


def _tasks_first(p):
    """[T, B, …] → [B, T, …]."""
    return tf.transpose(p, [1, 0, *range(2, len(p.shape))])


def by_support(apply_fn, phi, support_x, query_x, axis, dtypes):
    """Predicts queries with the statistics of the support set."""
    del dtypes
    support = shapes.leading(support_x, axis)
    both = _map(lambda s, q: tf.concat([s, q], axis), support_x, query_x)

    def queries_of(p):
        return p[:, support:] if axis else p[support:]

    with norms.statistics_of_first(support):
        predictions, penalty = apply_fn(phi, both)
    return (
        _map(lambda p: shapes.predicted(queries_of, p), predictions),
        penalty,
    )


NORM_STATISTICS = {
    "queries": together,
    "support_and_query": alone,
    "support": by_support,
}
"""The ways that have a name, see `MAML`."""


def require(way, network):
    """Raises `ValueError` for a way that is none, or that a layer ignores."""
    if way not in NORM_STATISTICS:
        raise ValueError(
            f"norm_statistics: expected one of {tuple(NORM_STATISTICS)}, got "
            f"{way!r}."
        )
    for layer in network._flatten_layers() if way == "support" else ():
        if isinstance(layer, keras.layers.BatchNormalization):
            raise ValueError(
                "norm_statistics: expected layers of maml_tf.norms with "
                f"'support', got {layer.name!r} of Keras. `adapt` returns a "
                "network that has the support set's statistics in it."
            )
