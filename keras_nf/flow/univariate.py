"""Distribution functions and quantiles of events of one component."""

import tensorflow as tf
from tensorflow_probability import distributions as tfd

__all__ = ["cdf", "check_probabilities", "has_quantiles", "quantile"]


def cdf(base, flow, y, **kwargs):
    """Return P(Y <= y) for y of shape `(..., 1)` and Y = flow(Z), Z of the base."""
    marginal = _marginal(base, flow)
    z = flow.inverse(y, **kwargs)
    first, last, increases = _two_points(base, flow, kwargs)
    below = marginal.cdf(z)[..., 0]
    below = tf.where(increases, below, 1.0 - below)
    if flow.reaches_everything:
        return below
    # What no latent reaches lies on either side of all that some latent does.
    beyond = tf.cast(y > 0.5 * first + 0.5 * last, y.dtype)[..., 0]
    return tf.where(tf.math.is_inf(z)[..., 0], beyond, below)


def quantile(base, flow, p, **kwargs):
    """Return the y of shape `(..., 1)` with P(Y <= y) = p, for p of shape `(...)`."""
    marginal = _marginal(base, flow)
    p = check_probabilities(p, flow.dtype)
    p = tf.where(_two_points(base, flow, kwargs)[2], p, 1.0 - p)
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


def _two_points(base, flow, kwargs):
    """Return the images of two latents, and whether the map of the one component increases.

    Each condition may decide. Any two points tell: a continuous invertible map of a line is
    monotonic.
    """
    first, last = tf.unstack(base.sample(2, seed=(0, 0)))
    images = flow.forward(first, **kwargs), flow.forward(last, **kwargs)
    increases = ((images[1] - images[0] > 0.0) == (last > first))[..., 0]
    return *images, increases
