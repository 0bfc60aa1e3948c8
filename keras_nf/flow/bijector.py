"""The face of a flow towards TFP, and what Keras and TFP quarrel about."""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from keras_nf.flow.arguments import check_floating, title
from keras_nf.flow.batch import KnownLogDet, mark_unreached
from keras_nf.flow.cache import NoCache

__all__ = ["LayerBijector"]


def _with_checked_dtype(method, direction):
    """Check what TFP would go on with: integers, and a condition in the place of a name."""

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        def checked(value):
            check_floating(self, value, direction)
            dtype = getattr(value, "dtype", self.dtype)
            return value if tf.as_dtype(dtype).is_floating else tf.cast(value, self.dtype)

        if any(np.ndim(value) > 0 for value in args[1:]):
            raise ValueError(
                f"{title(self)}.{method.__name__} takes a condition by name, as "
                f"{method.__name__}(x, condition=c): the second argument is TFP's. Received: one "
                f"of shape {tuple(np.shape(args[1]))}."
            )
        args = (*map(checked, args[:1]), *args[1:])
        kwargs |= {name: checked(kwargs[name]) for name in ("x", "y") if name in kwargs}
        return method(self, *args, **kwargs)

    return wrapper


class LayerBijector(tfb.Bijector, keras.layers.Layer):
    """A Keras layer that is a TFP bijector: Keras's name and weights, no cache, own equality.

    All that TFP asks is answered by `forward_and_log_det` and `inverse_and_log_det`.
    """

    # `tf.Module` collects `tf.Variable`s from attributes; Keras's own lists are the truth.
    variables = keras.layers.Layer.variables
    trainable_variables = keras.layers.Layer.trainable_variables
    non_trainable_variables = keras.layers.Layer.non_trainable_variables

    forward = _with_checked_dtype(tfb.Bijector.forward, "forward")
    inverse = _with_checked_dtype(tfb.Bijector.inverse, "inverse")
    forward_log_det_jacobian = _with_checked_dtype(tfb.Bijector.forward_log_det_jacobian, "forward")
    inverse_log_det_jacobian = _with_checked_dtype(tfb.Bijector.inverse_log_det_jacobian, "inverse")

    # TFP compares bijectors by hyper-parameters; two flows with equal ones have their own weights.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    __repr__ = keras.layers.Layer.__repr__
    __str__ = keras.layers.Layer.__str__

    def __init__(self, *, event_ndims, is_constant_jacobian, validate_args, **kwargs) -> None:
        keras.layers.Layer.__init__(self, **kwargs)
        tfb.Bijector.__init__(
            self,
            forward_min_event_ndims=event_ndims,
            is_constant_jacobian=is_constant_jacobian,
            validate_args=validate_args,
            name=self.name,
        )
        self.event_ndims = event_ndims
        self._has_hidden_variables = False
        self._visible_variables = self._tf_variables = ()

    @property
    def _cache(self):
        return NoCache(self._forward, self._inverse)

    @property
    def name(self) -> str:
        """Name of the layer and of the bijector."""
        return self._keras_name

    @name.setter
    def name(self, value):
        self._keras_name = value

    @property
    def trainable(self) -> bool:
        """Whether the weights are trained, by Keras and by TFP."""
        return keras.layers.Layer.trainable.fget(self)

    @trainable.setter
    def trainable(self, value):
        keras.layers.Layer.trainable.fset(self, value)
        self._freeze_values()

    @property
    def dtype(self) -> tf.DType:
        """Dtype of the weights, the inputs and the outputs, a `tf.DType` (equal to its name)."""
        return tf.as_dtype(self.variable_dtype)

    @property
    def input_dtype(self):
        return self.variable_dtype

    def _post_build(self):
        super()._post_build()
        self._expose_variables()

    def _expose_variables(self):
        """Show the weights to TFP and `tf.train.Checkpoint`, which do not see Keras's lists."""
        # Under a distribution strategy, weights that `fit` builds get their values later.
        variables = [v for v in self.variables if v._value is not None]
        self._has_hidden_variables = len(variables) < len(self.variables)
        self._visible_variables = self._no_dependency(variables)
        self._tf_variables = self._no_dependency([v._value for v in variables])
        for i, variable in enumerate(self._tf_variables):
            self._track_trackable(variable, f"variable_{i}", overwrite=True)

    def _freeze_values(self):
        """Let TFP, which trains whatever value is trainable, train what Keras does."""
        for variable, value in zip(self._visible_variables, self._tf_variables):
            if value.trainable != variable.trainable:
                for part in getattr(value, "values", (value,)):
                    part._trainable = variable.trainable

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        if self._has_hidden_variables:
            self._expose_variables()
        return super()._trackable_children(save_type, **kwargs)

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward_dtype(self, input_dtype, **kwargs):
        # The first thing that TFP asks, also of the members of its own compositions.
        if self._has_hidden_variables:
            self._expose_variables()
        self._freeze_values()
        return super()._forward_dtype(input_dtype, **kwargs)

    def _forward_event_shape_tensor(self, shape):
        return self._event_shape_tensor(shape, self.data_shape)

    def _inverse_event_shape_tensor(self, shape):
        return self._event_shape_tensor(shape, self.event_shape)

    def _event_shape_tensor(self, shape, own):
        """Return an event shape, perhaps with more axes in front, that ends like the flow's own."""
        return shape if own is None else tf.concat([shape[: -len(own)], own], axis=0)

    def _is_increasing(self, **kwargs):
        raise NotImplementedError(
            f"{title(self)} does not say whether it increases. `flow(base).cdf` and `.quantile` "
            "find out."
        )

    def _forward(self, x, condition=None):
        return self.forward_and_log_det(x, condition)[0]

    def _forward_log_det_jacobian(self, x, condition=None):
        return self.forward_and_log_det(x, condition)[1]

    def _inverse(self, y, condition=None):
        x, log_det = self.inverse_and_log_det(y, condition)
        if not self.reaches_everything:
            x = mark_unreached(x, log_det)
        # `tfd.TransformedDistribution.log_prob` asks for the latent, then at once for its density
        # correction. The tensor itself carries the answer from one to the other.
        x._keras_nf_inverse_log_det = log_det
        return x

    def _inverse_log_det_jacobian(self, y, condition=None):
        return self.inverse_and_log_det(y, condition)[1]

    def experimental_compute_density_correction(
        self, x, tangent_space, backward_compat=False, **kwargs
    ):
        log_det = vars(x).pop("_keras_nf_inverse_log_det", None) if tf.is_tensor(x) else None
        is_full_space = isinstance(tangent_space, tfp.experimental.tangent_spaces.FullSpace)
        if log_det is None or not is_full_space:
            return super().experimental_compute_density_correction(
                x, tangent_space, backward_compat=backward_compat, **kwargs
            )
        kwargs.pop("condition", None)
        return tangent_space.transform_dimension_preserving(
            x, KnownLogDet(-log_det, self.event_ndims), **kwargs
        )
