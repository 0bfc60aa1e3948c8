"""Round trips through a flow, with log-determinants against those of autodiff."""

import numpy as np
import tensorflow as tf

__all__ = [
    "both_ways",
    "largest_error",
    "round_trip",
    "to_numpy",
    "tolerance_of",
    "with_jacobian",
]

_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


def tolerance_of(flow):
    """Return the error that the dtype of a flow explains: half of the digits.

    A pass rounds some hundred times, and maps that are steep somewhere stretch that.
    """
    return _EPSILON[flow.compute_dtype] ** 0.5


def to_numpy(value):
    """Return a tensor of any floating-point dtype as an array of float64."""
    return np.asarray(tf.cast(value, tf.float64))


def largest_error(actual, expected, slack=0.0):
    """Return the largest difference: absolute for small numbers, relative for large ones."""
    actual, expected = to_numpy(actual), to_numpy(expected)
    with np.errstate(invalid="ignore"):
        difference = np.where(actual == expected, 0.0, np.abs(actual - expected))
        return float(np.max(difference / (1.0 + np.abs(expected) + slack), initial=0.0))


def both_ways(flow, points, condition=None):
    """Return what the inverse gives for points, and the forward direction for its value."""
    z, log_det = flow.inverse_and_log_det(points, condition)
    return z, log_det, *flow.forward_and_log_det(z, condition)


def with_jacobian(direction, points, *condition):
    """Return value, log-determinant and Jacobian of each row, from one batch and one gradient."""
    size = int(np.prod(points.shape[1:]))
    x, *condition = (tf.repeat(part, size, axis=0) for part in (points, *condition))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, log_det = direction(x, *condition)
    units = tf.reshape(tf.tile(tf.eye(size, dtype=y.dtype), (len(points), 1)), y.shape)
    jacobian = tape.gradient(y, x, units, unconnected_gradients="zero")
    return y[::size], to_numpy(log_det[::size]), to_numpy(jacobian).reshape(-1, size, size)


def _explain(found, true):
    """Say how log-determinants differ from those of the Jacobians."""
    with np.errstate(invalid="ignore"):
        lacking = np.nan_to_num(true - found, nan=np.inf)
    if np.allclose(found, -true):
        return "it has the wrong sign."
    if np.isfinite(lacking).all() and np.allclose(lacking, lacking[:1]):
        return f"it lacks {lacking[0]:.4g} in every row: a constant factor is missing."
    worst = np.argmax(np.abs(lacking))
    return f"expected that of the Jacobian, {true[worst]:.6g}. Received: {found[worst]:.6g}."


def round_trip(flow, names, inputs, where, far=False):
    """Go there and back; compare the points, and the log-determinants with autodiff's.

    Args:
      flow: the flow.
      names: `("inverse", "forward")` or the reverse: which direction to go first.
      inputs: list of points, of shape `(rows, ...)`, and their conditions if there are any.
      where: what to call the points.
      far: whether to leave out points where an honest map has no inverse: beyond the domain, or so
        flat that rounding must end it.

    Yields:
      Lines of the report: name, largest error, tolerance, and what to do beyond it.
    """
    points, *condition = inputs
    there, back = (getattr(flow, f"{name}_and_log_det") for name in names)
    image, log_det, jacobian = with_jacobian(there, points, *condition)
    again, back_log_det, back_jacobian = with_jacobian(back, image, *condition)
    points, image, again = (to_numpy(t).reshape(len(points), -1) for t in (points, image, again))
    exact, back_exact = (np.linalg.slogdet(j)[1] for j in (jacobian, back_jacobian))
    tolerance, size = tolerance_of(flow), 1.0 + np.abs(image).max(axis=1)
    keep = np.full(len(points), True)
    if far:
        keep = np.isfinite(log_det) & np.isfinite(size)
        # Autodiff cannot tell of a determinant that underflows.
        honest = np.isclose(log_det, exact, rtol=tolerance, atol=tolerance)
        honest |= log_det < np.log(np.finfo("float64").tiny)
        least = np.linalg.svd(np.nan_to_num(jacobian), compute_uv=False)[:, -1]
        keep &= ~(honest & (least < 10.0 * tolerance * size))
        where += f" ({np.sum(keep)} of {len(keep)})"
    # Rounding of the image moves the way back by this much.
    slack = 1000.0 * tolerance * np.abs(back_jacobian).max(axis=(1, 2)) * size
    advice = f"`{names[1]}` does not undo `{names[0]}`."
    if np.isneginf([exact[keep], back_exact[keep]]).any():
        advice += " One of them saturates: distinct inputs have the same output. Bound the "
        advice += "parameters of a map, not its values."
    error = largest_error(again[keep], points[keep], slack[keep, None])
    yield f"{where}: {names[0]}, then {names[1]}", error, tolerance, advice
    for name, value, true in zip(names, (log_det, back_log_det), (exact, back_exact)):
        error, advice = largest_error(value[keep], true[keep]), _explain(value[keep], true[keep])
        yield f"{where}: log-det of {name}", error, tolerance, advice
    advice = "the log-determinant of a direction must be minus that of the other."
    yield (
        f"{where}: sum of log-dets",
        largest_error(log_det[keep], -back_log_det[keep]),
        tolerance,
        advice,
    )
