"""The door of a flow: where arguments are prepared, once, and what comes back is checked."""

import threading
from typing import Any

import tensorflow as tf

from keras_nf.flow.arguments import (
    check_result,
    check_sizes,
    sizes_from,
    title,
    to_condition,
    to_events,
)
from keras_nf.flow.batch import broadcast_batch, with_known_sizes
from keras_nf.flow.bijector import LayerBijector

__all__ = ["BUILDING", "OPPOSITE", "Door"]

# Building is no business of several threads: each would add the weights again.
BUILDING = threading.RLock()

OPPOSITE = {"forward": "inverse", "inverse": "forward"}


class Door(LayerBijector):
    """The two public directions, which prepare their arguments for those of a subclass."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("forward_and_log_det", "inverse_and_log_det"):
            if name in vars(cls):
                raise TypeError(
                    f"{cls.__name__} must implement `_{name}`, with an underscore, instead of "
                    f"`{name}`, which checks and converts the arguments and then calls it."
                )

    @property
    def event_size(self) -> int | None:
        """Size of the last axis of an event, `None` while it is not known."""
        return None if self.event_shape is None else self.event_shape[-1]

    @property
    def uses_condition(self) -> bool:
        """Whether a `condition` changes what the flow computes."""
        return False

    @property
    def reaches_everything(self) -> bool:
        """Whether `forward` reaches every point; where it does not, `inverse` gives infinity."""
        return True

    @property
    def takes_integers(self) -> bool:
        """Whether `inverse` takes integers as they are, for data that are counts or levels."""
        return False

    @property
    def recomputable(self) -> bool:
        """Whether a gradient may recompute the inputs of a direction by the opposite one.

        For that, both directions have to be cheap, give the same at every call, and lose nothing
        but rounding. Where this is false, as it is unless a flow says otherwise, a `Chain` keeps
        what the gradient of the flow needs.
        """
        return False

    @property
    def needs_data(self) -> bool:
        """Whether `adapt` takes something from data."""
        return False

    @property
    def adapted(self) -> bool:
        """Whether the flow has seen data, if `adapt` takes something from them."""
        return True

    def adapt(self, data: Any) -> None:
        """Take from data what the flow takes from them at once: nothing, for most.

        Args:
          data: array of shape `(rows, *event_shape)`, a dictionary of it as `"x"` and a
            `"condition"`, or a `tf.data.Dataset` of batches of either.
        """

    def build(self, inputs_shape, condition_shape=None):
        sizes = sizes_from(self, inputs_shape, condition_shape)
        self.event_shape, self.condition_size = sizes
        self.data_shape = tuple(self.forward_event_shape(self.event_shape))

    @tf.autograph.experimental.do_not_convert
    def forward_and_log_det(self, x: Any, condition: Any = None) -> tuple[Any, Any]:
        """Return y = f(x), of the shape of `x`, and log|det dy/dx|, of its batch shape, in nats."""
        return self._enter("forward", x, condition)

    @tf.autograph.experimental.do_not_convert
    def inverse_and_log_det(self, y: Any, condition: Any = None) -> tuple[Any, Any]:
        """Return x = f^{-1}(y), of the shape of `y`, and log|det dx/dy|, in nats."""
        return self._enter("inverse", y, condition)

    def _forward_and_log_det(self, x, condition=None):
        raise NotImplementedError(f"{type(self).__name__} must implement `_forward_and_log_det`.")

    def _inverse_and_log_det(self, y, condition=None):
        raise NotImplementedError(f"{type(self).__name__} must implement `_inverse_and_log_det`.")

    def _enter(self, direction, x, condition):
        """Convert, check, build, broadcast; then run a direction.

        AutoGraph stays outside of this door: it would rewrite the source of all that a flow runs,
        at seconds for each trace, and find nothing to do. Keras leaves it out as well.
        """
        x = to_events(self, x, direction)
        condition = self._own(condition)
        if condition is not None:
            condition = to_condition(self, condition)
        self._build_once(direction, x, condition)
        self._freeze_values()
        shape = self._shape_of(direction)
        check_sizes(self, shape, x.shape, None if condition is None else condition.shape)
        x = with_known_sizes(x, shape)
        if condition is not None:
            x, condition = broadcast_batch(x, shape, condition, self.condition_size)
        if x.shape.rank is not None:
            return self._run(direction, x, condition)
        # A tensor of unknown rank does not even know the sizes of its last axes.
        batch_shape = tf.shape(x)[: -self.event_ndims]
        x = tf.reshape(x, (-1, *shape))
        if condition is not None:
            condition = tf.reshape(condition, (-1, self.condition_size))
        y, log_det = self._run(direction, x, condition)
        shape = self._shape_of(OPPOSITE[direction])
        y = tf.reshape(y, tf.concat([batch_shape, shape], axis=0))
        return y, tf.reshape(log_det, batch_shape)

    def _run(self, direction, x, condition):
        """Run a direction on arguments that this flow, or one that holds it, has prepared."""
        if self.validate_args:
            x = tf.debugging.assert_all_finite(
                x,
                f"{title(self)} received NaN or infinite inputs; remove or impute those rows",
            )
        name = f"_{direction}_and_log_det"
        result = getattr(self, name)(x, self._own(condition))
        shape = self._shape_of(OPPOSITE[direction])
        return check_result(self, name, x, shape, result)

    def _shape_of(self, direction):
        """Return the shape of the events that a direction takes."""
        return self.event_shape if direction == "forward" else self.data_shape

    def _own(self, condition):
        return condition if self.uses_condition else None

    def _build_once(self, direction, x, condition):
        if self.built:
            return
        shape = tf.TensorShape([None] * self.event_ndims)
        if x.shape.rank is not None:
            shape = x.shape[-self.event_ndims :]
        if direction == "inverse":
            shape = self.inverse_event_shape(shape)
        condition_shape = None if condition is None else (None, *condition.shape[-1:])
        with BUILDING:
            if not self.built:
                self.build((None, *shape), condition_shape)
