"""Inverse of a scalar map without a closed form: a safeguarded root search."""

import numpy as np
from keras import ops


def invert_monotone(function, target, low, high):
    """Solve function(v) = target for v, elementwise, to float precision.

    Newton's method inside a bracket that shrinks with every evaluation; a step that leaves the
    bracket, or does not halve the residual, is replaced by a bisection. All elements stop together.

    The result is differentiable with respect to everything that `function` and `target` depend
    on. Two Newton steps from the root, recorded where the search was not, leave its value in place
    and make the first three derivatives exact, at the cost of two evaluations.

    Args:
      function: increasing function; returns its value and its derivative.
      target: tensor of values.
      low: tensor with function(low) <= target.
      high: tensor with function(high) >= target.
    """
    epsilon = float(np.finfo(target.dtype.as_numpy_dtype).eps)
    goal = ops.stop_gradient(target)
    low, high = ops.stop_gradient(low), ops.stop_gradient(high)

    def unsettled(low, high, root, error, move):
        return ops.any(move > epsilon * ops.maximum(ops.abs(root), ops.abs(goal)))

    def search(low, high, root, last_error, move):
        value, slope = map(ops.stop_gradient, function(root))
        error = value - goal
        low, high = ops.where(error < 0.0, root, low), ops.where(error > 0.0, root, high)
        newton = root - error / slope
        trusted = ops.logical_and(newton > low, newton < high)
        trusted = ops.logical_and(trusted, ops.abs(error) < 0.5 * ops.abs(last_error))
        new = ops.where(trusted, newton, low + 0.5 * (high - low))
        new = ops.where(error == 0.0, root, new)
        return low, high, new, error, ops.abs(new - root)

    infinity = ops.zeros_like(goal) + np.inf
    _, _, root, _, _ = ops.while_loop(
        unsettled,
        search,
        (low, high, low + 0.5 * (high - low), infinity, infinity),
        # Bisection alone takes one step per bit of the bracket's width over the precision.
        maximum_iterations=100 if epsilon > 1e-10 else 200,
    )
    root = ops.stop_gradient(root)
    for _ in range(2):
        value, slope = function(root)
        step = (value - target) / slope
        root = root - (step - ops.stop_gradient(step))
    return root
