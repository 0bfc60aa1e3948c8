"""Autoregressive flows: each component's map is parameterized by those before it."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_nf.config import map_config, serialize_layer
from keras_nf.elementwise.affine import FORMAT_1, Affine
from keras_nf.elementwise.spline import RationalQuadraticSpline
from keras_nf.flow.arguments import title
from keras_nf.flow.contract import Flow
from keras_nf.layout import feature_major
from keras_nf.networks.autoregressive import AutoregressiveNetwork, parameters_at
from keras_nf.networks.made import MADE
from keras_nf.networks.mlp import NETWORK_OPTIONS

__all__ = [
    "Autoregressive",
    "InverseAutoregressive",
    "MaskedAutoregressive",
    "SplineAutoregressive",
]


@keras.saving.register_keras_serializable("keras_nf")
class Autoregressive(Flow):
    """Autoregressive scheme for any elementwise map.

    x_i = map(z_i; network_i(x_<i, condition)). `inverse` costs one evaluation of the network;
    `forward` is sequential: it computes each hidden unit once, which is about the arithmetic of
    one evaluation, in as many steps as there are components. `MaskedAutoregressive` fixes the map.

    Args:
      elementwise: the map of each component; see `keras_nf.elementwise`.
      hidden_units: width of each hidden layer of the `MADE`.
      activation: activation of the `MADE`.
      residual, dropout: whether it has residual blocks, and its rate of dropout; see
        `keras_nf.MADE`.
      order: which component comes first: `"sequential"`, `"reversed"`, `"random"`, or a
        permutation of `range(event_size)`; component `order[0]` depends on no other.
      seed: seed of the random order; drawn, and kept in the config, when `None`.
      conditioner: an `AutoregressiveNetwork` in place of the `MADE`.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Call arguments:
      condition: tensor of shape `(..., condition_size)`, seen by every component.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if the order is no permutation of the components, a width is not positive, or
        the conditioner is no such network, or one with another number of parameters.

    Example:

    >>> import numpy as np, keras_nf
    >>> shift = keras_nf.elementwise.Shift()
    >>> flow = keras_nf.Autoregressive(shift, hidden_units=(32,))
    >>> flow.inverse(np.zeros((5, 3), "float32")).shape
    TensorShape([5, 3])

    References:
      George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
      Estimation. 2017. arXiv:1705.07057
    """

    _fixes_map = False  # whether a class gives the map, whose arguments are its own

    def __init__(
        self,
        elementwise: Any,
        *,
        hidden_units: Sequence[int] = (128, 128),
        activation: str | Callable[[Any], Any] = "relu",
        residual: bool = False,
        dropout: float = 0.0,
        order: str | Sequence[int] = "sequential",
        seed: int | None = None,
        conditioner: AutoregressiveNetwork | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.elementwise = elementwise
        self._has_own_network = conditioner is None
        if conditioner is None:
            conditioner = MADE(
                hidden_units,
                elementwise.parameters,
                activation=activation,
                residual=residual,
                dropout=dropout,
                order=order,
                seed=seed,
                dtype=self.dtype_policy,
                name="conditioner",
            )
        elif not isinstance(conditioner, AutoregressiveNetwork):
            raise ValueError(
                "`conditioner` must be a keras_nf.AutoregressiveNetwork, whose outputs for a "
                f"component see those before it alone. Received: {conditioner!r}."
            )
        elif order != "sequential":
            raise ValueError(
                f"A network has an order of its own. Received: order={order!r} beside a "
                "`conditioner`. Give the order to the network, or put a keras_nf.Permute before "
                "the flow."
            )
        elif conditioner.parameters != elementwise.parameters:
            raise ValueError(
                f"The conditioner of {title(self)} must give {elementwise.parameters} parameter(s) "
                f"for each component. Received: {conditioner!r}, whose `parameters` is "
                f"{conditioner.parameters}."
            )
        self.conditioner = conditioner

    @property
    def uses_condition(self):
        return True

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        if not self.conditioner.built:
            self.conditioner.build(inputs_shape, condition_shape)

    def _forward_and_log_det(self, x, condition=None):
        if x.shape[-1] > 1:
            return self.conditioner.solve(self.elementwise, x, condition)
        # One component has none before it: its parameters do not depend on what the network sees.
        return self._map(self.elementwise.forward, x, condition)

    def _inverse_and_log_det(self, y, condition=None):
        return self._map(self.elementwise.inverse, y, condition)

    def _map(self, function, values, condition):
        """Map values with the parameters that the network gives where it sees them."""
        values, restore = feature_major(values)
        parameters = parameters_at(self.conditioner, values, condition)
        values, log_derivatives = function(values, parameters)
        return restore(values), restore(ops.sum(log_derivatives, axis=0))

    def get_config(self):
        config = {
            **super().get_config(),
            **map_config(self.elementwise, self._fixes_map),
        }
        if not self._has_own_network:
            return {**config, "conditioner": serialize_layer(self.conditioner)}
        network = self.conditioner.get_config()
        shared = (*NETWORK_OPTIONS, "order", "seed")
        return {**config, **{name: network[name] for name in shared}}


@keras.saving.register_keras_serializable("keras_nf")
class MaskedAutoregressive(Autoregressive):
    """Masked autoregressive flow (MAF).

    x_i = (z_i + t_i) exp(s_i), where t and s are functions of x_1 ... x_{i-1} and the condition, so
    that log|det dx/dz| = sum_i s_i. One `MADE` gives t and a raw r, and s = r / (1 + |r| / bound)
    is softly bounded; see `keras_nf.elementwise.Affine`. Density (`inverse`) costs one evaluation
    of the network; sampling (`forward`) is sequential: it computes each hidden unit once, which is
    about the arithmetic of one evaluation, in as many steps as there are components. Compile it
    (`FlowModel.sample` is).

    Args:
      log_scale_bound: largest |s|, in nats; `None` for no bound (s = r). The bounds of a chain's
        layers add up; a single layer may need a wider one.
      shift_first: whether to shift before scaling; otherwise x_i = z_i exp(s_i) + t_i, as in the
        paper.
      **kwargs: `hidden_units`, `activation`, `residual`, `dropout`, `order`, `seed`,
        `conditioner`, as for `keras_nf.Autoregressive`; `event_size`, `validate_args`, `name`,
        `dtype`, `trainable`, as for `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: as for `keras_nf.Autoregressive`, whose call arguments it has.

    Example:

    >>> import numpy as np, keras_nf
    >>> maf = keras_nf.MaskedAutoregressive(hidden_units=(32, 32), order="reversed")
    >>> z, log_det = maf.inverse_and_log_det(np.zeros((5, 3), "float32"))
    >>> z.shape, log_det.shape
    (TensorShape([5, 3]), TensorShape([5]))

    References:
      George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
      Estimation. 2017. arXiv:1705.07057
    """

    _fixes_map = True

    def __init__(
        self,
        *,
        log_scale_bound: float | None = 2.0,
        shift_first: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(Affine(log_scale_bound, shift_first=shift_first), **kwargs)

    @classmethod
    def from_config(cls, config):
        return super().from_config({**FORMAT_1, **config})


@keras.saving.register_keras_serializable("keras_nf")
class InverseAutoregressive(MaskedAutoregressive):
    """Inverse autoregressive flow (IAF): `MaskedAutoregressive` with its directions swapped.

    x_i = z_i exp(-s_i) - t_i, where t and s are functions of z_1 ... z_{i-1} and the condition, so
    that log|det dx/dz| = -sum_i s_i. Sampling (`forward`) costs one evaluation of the network;
    the density of given data (`inverse`) is sequential: it computes each hidden unit once, which
    is about the arithmetic of one evaluation, in as many steps as there are components. The paper
    writes the same family as sigma z + mu.

    Args:
      log_scale_bound: largest |s|, in nats; `None` for no bound (s = r). The bounds of a chain's
        layers add up; a single layer may need a wider one.
      shift_first: whether `MaskedAutoregressive` would shift before scaling; otherwise
        x_i = (z_i - t_i) exp(-s_i).
      **kwargs: `hidden_units`, `activation`, `residual`, `dropout`, `order`, `seed`,
        `conditioner`, as for `keras_nf.Autoregressive`; `event_size`, `validate_args`, `name`,
        `dtype`, `trainable`, as for `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: as for `keras_nf.Autoregressive`, whose call arguments it has.

    Example:

    >>> import numpy as np, keras_nf
    >>> iaf = keras_nf.InverseAutoregressive(hidden_units=(32, 32))
    >>> x, log_det = iaf.forward_and_log_det(np.zeros((5, 3), "float32"))
    >>> x.shape, log_det.shape
    (TensorShape([5, 3]), TensorShape([5]))

    References:
      Diederik P. Kingma, Tim Salimans, Rafal Jozefowicz, Xi Chen, Ilya Sutskever, Max Welling.
      Improving Variational Inference with Inverse Autoregressive Flow. 2016. arXiv:1606.04934
    """

    def _forward_and_log_det(self, x, condition=None):
        return super()._inverse_and_log_det(x, condition)

    def _inverse_and_log_det(self, y, condition=None):
        return super()._forward_and_log_det(y, condition)


@keras.saving.register_keras_serializable("keras_nf")
class SplineAutoregressive(Autoregressive):
    """Autoregressive layer of neural spline flows.

    x_i is a monotonic rational-quadratic spline of z_i, of which one `MADE` gives the bins and
    slopes from x_1 ... x_{i-1} and the condition; see
    `keras_nf.elementwise.RationalQuadraticSpline`. Density (`inverse`) costs one evaluation of the
    network; sampling (`forward`) is sequential, as in `MaskedAutoregressive`.

    Args:
      bins: number of bins of each spline.
      bound: splines act on the interval (-bound, bound), and leave the rest as it is.
      circular: whether the interval is a circle, for angles.
      **kwargs: `hidden_units`, `activation`, `residual`, `dropout`, `order`, `seed`,
        `conditioner`, as for `keras_nf.Autoregressive`; `event_size`, `validate_args`, `name`,
        `dtype`, `trainable`, as for `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: as for `keras_nf.Autoregressive`, whose call arguments it has.

    Example:

    >>> import numpy as np, keras_nf
    >>> flow = keras_nf.SplineAutoregressive(bins=4, hidden_units=(32, 32))
    >>> flow.inverse(np.zeros((5, 3), "float32")).shape
    TensorShape([5, 3])

    References:
      Conor Durkan, Artur Bekasov, Iain Murray, George Papamakarios. Neural Spline Flows. 2019.
      arXiv:1906.04032
    """

    _fixes_map = True

    def __init__(
        self, *, bins: int = 8, bound: float = 5.0, circular: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(RationalQuadraticSpline(bins, bound, circular=circular), **kwargs)
