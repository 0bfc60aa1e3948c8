"""Inverse of a scalar map without a closed form: a safeguarded root search."""

import numpy as np
from keras import ops

__all__ = ["invert_monotone"]

# Evaluations from one check of convergence to the next: a check costs as much as several.
_STRIDE = 4


def invert_monotone(function, target, low, high):
    """Solve function(v) = target for v, elementwise, to float precision.

    Newton's method inside a bracket that shrinks with every evaluation; a step that leaves the
    bracket, or does not halve the residual, is replaced by a bisection, unless it is of the size of
    a rounding. All elements stop together. The result carries no gradient.

    Args:
      function: increasing function; returns its value and its derivative.
      target: tensor of values.
      low: tensor with function(low) <= target.
      high: tensor with function(high) >= target.
    """
    epsilon = float(np.finfo(target.dtype.as_numpy_dtype).eps)

    def settled(move, root):
        return ops.abs(move) <= epsilon * ops.maximum(ops.abs(root), ops.abs(target))

    def unsettled(low, high, root, error, move):
        # Numbers that are not finite settle nowhere.
        return ops.any(ops.logical_and(ops.isfinite(root), ops.logical_not(settled(move, root))))

    def search(low, high, root, error, move):
        for _ in range(_STRIDE):
            last_error = error
            value, slope = function(root)
            error = value - target
            low, high = ops.where(error < 0.0, root, low), ops.where(error > 0.0, root, high)
            newton = root - error / slope
            trusted = ops.logical_and(newton > low, newton < high)
            trusted = ops.logical_and(trusted, ops.abs(error) < 0.5 * ops.abs(last_error))
            trusted = ops.logical_or(trusted, settled(newton - root, root))
            new = ops.where(trusted, newton, low + 0.5 * (high - low))
            root, move = new, new - root
        return low, high, root, error, move

    infinity = ops.zeros_like(target) + np.inf
    _, _, root, _, _ = ops.while_loop(
        unsettled,
        search,
        (low, high, low + 0.5 * (high - low), infinity, infinity),
        # Bisection alone takes one step per bit of the bracket's width over the precision.
        maximum_iterations=(100 if epsilon > 1e-10 else 200) // _STRIDE,
    )
    return ops.stop_gradient(root)
