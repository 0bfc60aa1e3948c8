"""Flows that a flow holds: they are built with it, and share its dtype."""

import tensorflow as tf

from keras_nf.flow.arguments import check_sizes, title
from keras_nf.flow.batch import at_each_position, sum_extra_axes

__all__ = ["build_members", "check_dtypes", "run_member"]


def build_members(holder, flows, shape, condition_shape):
    """Build the flows that a flow holds, from the base to the data.

    Those that are built must be of the same sizes.

    Args:
      holder: the flow that holds them, which knows the size of its condition.
      flows: the flows.
      shape: shape of the events of the first one.
      condition_shape: shape of the condition, or `None`.
    """
    size = holder.condition_size
    own_condition = None if size is None else tf.TensorShape([None, size])
    for flow in flows:
        if not flow.built:
            flow.build((None, *shape), condition_shape)
        # A flow of fewer axes maps each position, to all of which a condition is the same.
        inputs_shape = tf.TensorShape([None, *shape[len(shape) - flow.event_ndims :]])
        check_sizes(flow, flow.event_shape, inputs_shape, own_condition)
        shape = tuple(flow.forward_event_shape(shape))


def check_dtypes(holder, flows):
    """Refuse flows of another dtype than that of the flow that is to hold them."""
    for flow in flows:
        if flow.variable_dtype != holder.variable_dtype:
            raise ValueError(
                f"A flow and those that it holds need the same dtype. {title(holder)} has "
                f"{holder.variable_dtype}, but {title(flow)} {flow.variable_dtype}. Pass dtype= "
                "to both."
            )


def run_member(holder, direction, flow, x, condition):
    """Run a direction of a flow on events of the flow that holds it.

    Args:
      holder: the flow that holds it.
      direction: `"forward"` or `"inverse"`.
      flow: the flow, which may have fewer event axes, and use no condition.
      x: events, prepared for the holder.
      condition: `None`, or a condition of their batch shape.

    Returns:
      The value, and the log-determinant of the holder's batch shape.
    """
    own = None
    if condition is not None and flow.uses_condition:
        own = at_each_position(condition, x, flow)
    x, log_det = flow._run(direction, x, own)
    return x, sum_extra_axes(log_det, holder.event_ndims - flow.event_ndims)
