"""Distribution functions and quantiles of events of one component."""

import tensorflow as tf
from tensorflow_probability import distributions as tfd

__all__ = ["cdf", "check_probabilities", "has_quantiles", "quantile"]


def cdf(base, flow, y, **kwargs):
    """Return P(Y <= y) for y of shape `(..., 1)` and Y = flow(Z), Z of the base."""
    marginal = _marginal(base, flow)
    below = marginal.cdf(flow.inverse(y, **kwargs))[..., 0]
    return tf.where(_increases(base, flow, kwargs), below, 1.0 - below)


def quantile(base, flow, p, **kwargs):
    """Return the y of shape `(..., 1)` with P(Y <= y) = p, for p of shape `(...)`."""
    marginal = _marginal(base, flow)
    p = check_probabilities(p, flow.dtype)
    p = tf.where(_increases(base, flow, kwargs), p, 1.0 - p)
    return flow.forward(marginal.quantile(p[..., None]), **kwargs)


def check_probabilities(p, dtype):
    """Return probabilities as a tensor, and refuse what are none where they are known."""
    p = tf.cast(tf.convert_to_tensor(p), dtype)
    if tf.executing_eagerly() and not bool(tf.reduce_all((p >= 0.0) & (p <= 1.0))):
        raise ValueError(f"Probabilities lie between 0 and 1. Received: {p.numpy()!r}.")
    return p


def has_quantiles(base, flow):
    """Return whether events have one component, of a base whose quantiles are known."""
    if base.event_shape != (1,) or flow.event_ndims != 1:
        return False
    return isinstance(base, tfd.Independent)


def _marginal(base, flow):
    """Return the distribution of the one component, with a batch axis for it."""
    if base.event_shape != (1,) or flow.event_ndims != 1:
        raise ValueError(
            "Distribution functions and quantiles are those of events of one component. Received: "
            f"events of shape {tuple(base.event_shape)}. Take them from samples."
        )
    if not isinstance(base, tfd.Independent):
        raise ValueError(
            "Distribution functions and quantiles need a base of independent components, a "
            f"tfd.Independent. Received: {base}. Take them from samples."
        )
    return base.distribution


def _increases(base, flow, kwargs):
    """Return whether the map of the one component increases, which each condition may decide."""
    # Any two points tell: a continuous invertible map of a line is monotonic.
    first, last = tf.unstack(base.sample(2, seed=(0, 0)))
    difference = flow.forward(last, **kwargs) - flow.forward(first, **kwargs)
    return ((difference > 0.0) == (last > first))[..., 0]
