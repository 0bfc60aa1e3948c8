"""Coupling flows: one part of the event parameterizes a map of the other."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_nf.arguments import batch_shape
from keras_nf.config import map_config, serialize_layer
from keras_nf.elementwise.affine import FORMAT_1, Affine, Shift
from keras_nf.elementwise.spline import RationalQuadraticSpline
from keras_nf.flow.arguments import title
from keras_nf.flow.contract import Flow
from keras_nf.layout import saturate
from keras_nf.networks.conv import ConvNet
from keras_nf.networks.mlp import MLP, NETWORK_OPTIONS
from keras_nf.partition import check_partition, partition, parts_of
from keras_nf.seeds import draw_seed

__all__ = ["AdditiveCoupling", "AffineCoupling", "Coupling", "SplineCoupling"]


@keras.saving.register_keras_serializable("keras_nf")
class Coupling(Flow):
    """Coupling scheme for any elementwise map.

    x_kept = z_kept and x_rest = map(z_rest; network(z_kept, condition)). Both directions cost one
    evaluation of the network. `AdditiveCoupling` and `AffineCoupling` fix the map.

    Args:
      elementwise: the map of the transformed components; see `keras_nf.elementwise`.
      mask: which components are kept: `"half"` (the first half), `"alternating"` (every other
        one, a checkerboard), `"random"`, or one boolean per component, true for those kept.
      swap: whether to exchange the kept and the transformed components.
      seed: seed of the random mask; drawn, and kept in the config, when `None`.
      conditioner: any Keras network from `(batch, kept size)`, or with a condition
        `(batch, kept size + condition_size)`, to `(batch, parameters * transformed size)`, all
        components of the first parameter first. By default an `MLP`, whose last layer starts at
        zero, so that the flow starts as the identity.
      hidden_units: width of each hidden layer of the default network.
      activation: activation of the default network.
      residual, dropout: whether it has residual blocks, and its rate of dropout; see
        `keras_nf.MLP`.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Call arguments:
      condition: tensor of shape `(..., condition_size)`, concatenated to the network's input.

    Input shape: `(..., event_size)`, with `event_size >= 2`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if the mask keeps or transforms nothing or has another size than the event, or
        the network's output has the wrong size.

    Example:

    >>> import numpy as np, keras_nf
    >>> affine = keras_nf.elementwise.Affine(log_scale_bound=1.0)
    >>> coupling = keras_nf.Coupling(affine)
    >>> coupling(np.zeros((5, 3), "float32")).shape
    TensorShape([5, 3])

    References:
      Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
      arXiv:1605.08803
    """

    _fixes_map = False  # whether a class gives the map, whose arguments are its own

    def __init__(
        self,
        elementwise: Any,
        *,
        mask: str | Sequence[bool] = "half",
        swap: bool = False,
        seed: int | None = None,
        conditioner: keras.layers.Layer | None = None,
        hidden_units: Sequence[int] = (128, 128),
        activation: str | Callable[[Any], Any] = "relu",
        residual: bool = False,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.elementwise = elementwise
        self.mask = check_partition(mask, self.event_ndims)
        self.swap = bool(swap)
        self.seed = draw_seed() if seed is None and self.mask == "random" else seed
        self._has_own_network = conditioner is None
        if conditioner is None:
            network = MLP if self.event_ndims == 1 else ConvNet
            conditioner = network(
                hidden_units,
                activation=activation,
                residual=residual,
                dropout=dropout,
                dtype=self.dtype_policy,
                name="conditioner",
            )
        elif not isinstance(conditioner, keras.layers.Layer):
            raise ValueError(
                f"`conditioner` must be a Keras layer or model. Received: {conditioner!r}."
            )
        self.conditioner = conditioner

    @property
    def uses_condition(self):
        return True

    @property
    def recomputable(self):
        return True

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        kept = partition(self.mask, self.event_shape, self.swap, self.seed)
        self.component_order = np.concatenate([np.flatnonzero(kept), np.flatnonzero(~kept)])
        self._parts = parts_of(kept, self.event_shape)
        units = self.elementwise.parameters * self._parts.units
        if self._has_own_network:
            self.conditioner.units = units
            self.conditioner.condition_size = self.condition_size or 0
        *positions, size = self._parts.inputs_shape
        network_shape = (None, *positions, size + (self.condition_size or 0))
        if not self.conditioner.built:
            self.conditioner.build(network_shape)
        output_shape = tuple(self.conditioner.compute_output_shape(network_shape))
        expected = (None, *positions, units)
        if output_shape != expected:
            shape, wanted = (batch_shape(sizes[1:]) for sizes in (network_shape, expected))
            raise ValueError(
                f"The conditioner of {title(self)} must map {shape} to {wanted}: "
                f"{self.elementwise.parameters} parameter(s) for each of the {self._parts.units} "
                f"transformed components. Its output has shape {output_shape}. End it with "
                f"keras.layers.Dense({units})."
            )

    def _parameters_of(self, inputs):
        """Return what the network makes of its inputs, in the dtype of the flow."""
        inputs = saturate(inputs, self.conditioner.compute_dtype)
        return saturate(self.conditioner(inputs), self.variable_dtype)

    def _apply(self, map_rest, x, condition):
        count = self.elementwise.parameters
        return self._parts.apply(x, condition, self._parameters_of, map_rest, count)

    def _forward_and_log_det(self, x, condition=None):
        return self._apply(self.elementwise.forward, x, condition)

    def _inverse_and_log_det(self, y, condition=None):
        return self._apply(self.elementwise.inverse, y, condition)

    def get_config(self):
        config = {
            **super().get_config(),
            **map_config(self.elementwise, self._fixes_map),
            "event_ndims": self.event_ndims,
            "mask": self.mask,
            "swap": self.swap,
            "seed": self.seed,
        }
        if not self._has_own_network:
            return {**config, "conditioner": serialize_layer(self.conditioner)}
        network = self.conditioner.get_config()
        return {**config, **{name: network[name] for name in NETWORK_OPTIONS}}


@keras.saving.register_keras_serializable("keras_nf")
class AdditiveCoupling(Coupling):
    """Additive coupling layer of NICE.

    x_kept = z_kept and x_rest = z_rest + m(z_kept), with log|det dx/dz| = 0. Both directions cost
    one evaluation of the network m. Volume is preserved; combine with `Scaling`.

    Args:
      **kwargs: `mask`, `swap`, `seed`, `conditioner`, `hidden_units`, `activation`, `residual`,
        `dropout`, as for `keras_nf.Coupling`; `event_size`, `validate_args`, `name`, `dtype`,
        `trainable`, as for `keras_nf.Flow`.

    Input shape: `(..., event_size)`, with `event_size >= 2`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: as for `keras_nf.Coupling`, whose call arguments it has.

    Example:

    >>> import numpy as np, keras_nf
    >>> coupling = keras_nf.AdditiveCoupling(mask=[True, False, True])
    >>> coupling(np.zeros((5, 3), "float32")).shape
    TensorShape([5, 3])

    References:
      Laurent Dinh, David Krueger, Yoshua Bengio. NICE: Non-linear Independent Components
      Estimation. 2014. arXiv:1410.8516
    """

    _fixes_map = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Shift(), **kwargs)


@keras.saving.register_keras_serializable("keras_nf")
class AffineCoupling(Coupling):
    """Affine coupling layer of Real NVP.

    x_kept = z_kept and x_rest = (z_rest + t(z_kept)) exp(s(z_kept)), with log|det dx/dz| = sum s.
    One network gives t and a raw r, and s = r / (1 + |r| / bound) is softly bounded; see
    `keras_nf.elementwise.Affine`. Both directions cost one evaluation of the network.

    Args:
      log_scale_bound: largest |s|, in nats; `None` for no bound. Bounds of layers add up.
      shift_first: whether to shift before scaling; otherwise x_rest = z_rest exp(s) + t.
      **kwargs: `mask`, `swap`, `seed`, `conditioner`, `hidden_units`, `activation`, `residual`,
        `dropout`, as for `keras_nf.Coupling`; `event_size`, `validate_args`, `name`, `dtype`,
        `trainable`, as for `keras_nf.Flow`.

    Input shape: `(..., event_size)`, with `event_size >= 2`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: as for `keras_nf.Coupling`, whose call arguments it has.

    Example:

    >>> import keras, numpy as np, keras_nf
    >>> layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(4)]
    >>> network = keras.Sequential(layers)
    >>> coupling = keras_nf.AffineCoupling(mask="alternating", conditioner=network)
    >>> coupling(np.zeros((5, 4), "float32")).shape
    TensorShape([5, 4])

    References:
      Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
      arXiv:1605.08803
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
class SplineCoupling(Coupling):
    """Coupling layer of neural spline flows.

    x_kept = z_kept, and each component of x_rest is a monotonic rational-quadratic spline of that
    of z_rest, of which one network gives the bins and slopes; see
    `keras_nf.elementwise.RationalQuadraticSpline`. Both directions cost one evaluation of it.

    Args:
      bins: number of bins of each spline.
      bound: splines act on the interval (-bound, bound), and leave the rest as it is.
      circular: whether the interval is a circle, for angles.
      **kwargs: `mask`, `swap`, `seed`, `conditioner`, `hidden_units`, `activation`, `residual`,
        `dropout`, as for `keras_nf.Coupling`; `event_size`, `validate_args`, `name`, `dtype`,
        `trainable`, as for `keras_nf.Flow`.

    Input shape: `(..., event_size)`, with `event_size >= 2`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: as for `keras_nf.Coupling`, whose call arguments it has.

    Example:

    >>> import numpy as np, keras_nf
    >>> coupling = keras_nf.SplineCoupling(bins=4, bound=3.0)
    >>> coupling(np.zeros((5, 3), "float32")).shape
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
