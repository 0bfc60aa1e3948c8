"""Chain: flows one after the other."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_nf.config import serialize_layer
from keras_nf.flow.adaptation import check_rows, latents_of
from keras_nf.flow.contract import Flow
from keras_nf.flow.door import OPPOSITE
from keras_nf.flow.members import build_members, check_dtypes, run_member
from keras_nf.flow.recomputation import recomputing, walk

__all__ = ["Chain"]


@keras.saving.register_keras_serializable("keras_nf")
class Chain(Flow):
    """Composition of flows, in order of application like `keras.Sequential`.

    x = f_n(... f_2(f_1(z))), with log|det dx/dz| the sum of the flows' own. (`tfb.Chain` lists
    them the other way round.) A direction costs what it costs in every flow together. Data that a
    flow does not reach, as a `Logit` beyond its interval, have density zero and no latent:
    `inverse_and_log_det` gives them a log-determinant of -inf, and `inverse` alone infinity.

    Args:
      flows: the flows, from the base to the data.
      recompute: whether a gradient recomputes the inputs of the flows from their outputs, instead
        of keeping all that the networks compute: memory that does not grow with the number of
        flows, for more time. Flows that are not `recomputable` are left as they are; so are second
        derivatives and those in forward mode, which are refused. Chains inside do the same.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.
        `validate_args` checks what enters the chain.

    Call arguments:
      condition: passed on to every flow.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `flows` is not a sequence of flows, or they differ in dtype; if there is
        nothing to recompute; in a call, if a network draws random numbers or changes its state.

    Example:

    >>> import numpy as np, keras_nf
    >>> chain = keras_nf.Chain([keras_nf.Scaling(), keras_nf.Permute()])
    >>> np.asarray(chain(np.array([[1.0, 2.0]], "float32"))).tolist()
    [[2.0, 1.0]]
    """

    def __init__(self, flows: Sequence[Flow], *, recompute: bool = False, **kwargs: Any) -> None:
        flows = list(flows) if isinstance(flows, (list, tuple)) else flows
        if not isinstance(flows, list) or not all(isinstance(f, Flow) for f in flows):
            raise ValueError(
                "`flows` must be a list of keras_nf flows, from the base to the data. "
                f"Received: {flows!r}. Use tfb.Chain for other TFP bijectors."
            )
        super().__init__(
            event_ndims=max((flow.event_ndims for flow in flows), default=1),
            is_constant_jacobian=all(flow.is_constant_jacobian for flow in flows),
            **kwargs,
        )
        check_dtypes(self, flows)
        self.flows = flows
        self.recompute = bool(recompute)
        if self.recompute and not any(map(_is_recomputable, self._flatten_layers())):
            raise ValueError(
                "`recompute=True` is for chains of couplings, linear layers and other flows that "
                f"are `recomputable`. Received: {flows!r}, of which none is. Leave it out."
            )

    @property
    def layers(self):
        """The flows, under the name by which Keras's summaries expand nested layers."""
        return self.flows

    @property
    def uses_condition(self):
        return any(flow.uses_condition for flow in self.flows)

    @property
    def reaches_everything(self):
        return all(flow.reaches_everything for flow in self.flows)

    @property
    def takes_integers(self):
        return bool(self.flows) and self.flows[-1].takes_integers

    @property
    def needs_data(self):
        return any(flow.needs_data for flow in self.flows)

    @property
    def adapted(self):
        return all(flow.adapted for flow in self.flows)

    def adapt(self, data: Any) -> None:
        """Let each flow adapt to the data as the flows after it leave them, from data to base.

        Args:
          data: array of shape `(rows, *event_shape)`, a dictionary of it as `"x"` and a
            `"condition"`, or a `tf.data.Dataset` of batches of either.

        Raises:
          ValueError: on data without an axis for rows, and as the flows' own `adapt`.
        """
        waiting = [flow for flow in self.flows if flow.needs_data]
        if waiting:
            check_rows(self, data)
        for flow in reversed(self.flows):
            if flow in waiting:
                flow.adapt(data)
                waiting.remove(flow)
            if not waiting:
                return
            data = latents_of(flow, data)

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        build_members(self, self.flows, self.event_shape, condition_shape)

    def _forward_event_shape(self, shape):
        for flow in self.flows:
            shape = flow.forward_event_shape(shape)
        return shape

    def _inverse_event_shape(self, shape):
        for flow in reversed(self.flows):
            shape = flow.inverse_event_shape(shape)
        return shape

    def _forward_and_log_det(self, x, condition=None):
        return self._through("forward", self.flows, x, condition)

    def _inverse_and_log_det(self, y, condition=None):
        return self._through("inverse", reversed(self.flows), y, condition)

    def _through(self, direction, flows, x, condition):
        if not self.flows:
            return x, self._constant_log_det(x, 0.0)
        directions = direction, OPPOSITE[direction]
        step, back = (functools.partial(run_member, self, each) for each in directions)
        with recomputing(self.recompute):
            return walk(step, back, flows, x, condition)

    def get_config(self):
        flows = [serialize_layer(flow) for flow in self.flows]
        return {**super().get_config(), "flows": flows, "recompute": self.recompute}


def _is_recomputable(layer):
    return isinstance(layer, Flow) and layer.recomputable
