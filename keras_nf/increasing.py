"""Increasing functions: activations of planar flows, with bounds of their slopes; a soft bound."""

from keras import ops

__all__ = ["INCREASING", "check_bound", "softly_bounded"]


def _tanh(v):
    h = ops.tanh(v)
    return h, 1.0 - h**2, h**2


def _sigmoid(v):
    h = ops.sigmoid(v)
    return h, h * (1.0 - h), (1.0 - 2.0 * h) ** 2


def _arctan(v):
    slope = 1.0 / (1.0 + v**2)
    return ops.arctan(v), slope, v**2 * slope


def _softplus(v):
    return ops.softplus(v), ops.sigmoid(v), ops.sigmoid(-v)


def _elu(v):
    negative = ops.minimum(v, 0.0)
    drop = -ops.expm1(negative)
    return ops.maximum(v, 0.0) - drop, 1.0 - drop, drop


# Each gives h, h' and 1 - h' / max h', the last without cancellation; beside it, max h'.
INCREASING = {
    "tanh": (_tanh, 1.0),
    "sigmoid": (_sigmoid, 0.25),
    "arctan": (_arctan, 1.0),
    "softplus": (_softplus, 1.0),
    "elu": (_elu, 1.0),
}


def check_bound(log_scale_bound):
    """Return a bound of log-scales, which must be positive, or `None`."""
    if log_scale_bound is not None and not log_scale_bound > 0:
        raise ValueError(
            "`log_scale_bound` must be a positive number, or None for no bound. "
            f"Received: {log_scale_bound!r}."
        )
    return log_scale_bound


def softly_bounded(raw, bound):
    """Return raw / (1 + |raw| / bound), within ±bound, whose gradient never vanishes altogether."""
    return raw if bound is None else raw / (1.0 + ops.abs(raw) / bound)
