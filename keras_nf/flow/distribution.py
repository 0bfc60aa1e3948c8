"""The distribution of x = f(z): one network evaluation for each density."""

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_nf.flow import univariate
from keras_nf.flow.arguments import to_condition
from keras_nf.flow.batch import sum_extra_axes


def _in_words(shape):
    return " x ".join(map(str, shape))


class LayerDistribution(tfd.Distribution):
    """A distribution whose event shape, dtype and weights are those of a layer.

    Args:
      base: a layer of `keras_nf.bases`, which is built.
      condition: the condition on which it depends, if any.
    """

    def __init__(self, base, condition=None):
        parameters = dict(locals())
        self._layer, self._condition = base, condition
        super().__init__(
            dtype=tf.as_dtype(base.variable_dtype),
            reparameterization_type=tfd.FULLY_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=base.name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}

    def _event_shape(self):
        return tf.TensorShape(self._layer.event_shape)

    def _batch_shape(self):
        return tf.TensorShape([]) if self._condition is None else self._condition.shape[:-1]

    def _batch_shape_tensor(self):
        return [] if self._condition is None else tf.shape(self._condition)[:-1]


class ConditionalBase(LayerDistribution):
    """Stands for the distributions of a base that depends on a condition: `given` returns one."""

    def given(self, condition):
        """Return the distribution for a condition, whose batch shape it has."""
        size = self._layer.condition_size
        if condition is None or condition.shape[-1] != size:
            raise ValueError(
                f"The base {self.name!r} is conditional and needs a condition of shape "
                f"(..., {size}). Received: "
                f"{'none' if condition is None else f'shape {tuple(condition.shape)}'}. Pass "
                "`condition=`."
            )
        return self._layer.distribution(condition)


class FlowDistribution(tfd.TransformedDistribution):
    """A `tfd.TransformedDistribution` whose density evaluates every network once.

    TFP asks a bijector for its value and its log-determinant in two calls, which runs each network
    twice. A flow gives both in one. `flow(base)` and `FlowModel.distribution` return this class.

    `log_prob(x, condition=c)`, `sample(n, seed=s, condition=c)` and the other methods take a
    `condition` of shape `(..., condition_size)`. The batch shape is then that of the condition,
    broadcast against that of the base, so that `sample(n, condition=c)` has shape
    `(n, ..., event_size)`. `flow(base, condition=c)` binds the condition: the methods need none,
    and the distribution can be a member of a `tfd.JointDistribution`.

    Args:
      distribution: the base, with event shape `(event_size,)`.
      bijector: the flow.
      condition: the condition of all calls that name none.
      validate_args: as in TFP.
      name: name of the distribution.

    Raises:
      ValueError: if the base has too few event axes, or another event size or dtype than the
        flow; or if a condition is bound that the flow does not use.
    """

    def __init__(self, distribution, bijector, condition=None, validate_args=False, name=None):
        parameters = dict(locals())
        ndims = bijector.event_ndims
        if distribution.event_shape.rank < ndims:
            shape = "(event_size,)" if ndims == 1 else f"of {ndims} axes"
            raise ValueError(
                f"The flow needs a base with event shape {shape}. Received: {distribution}, with "
                f"{distribution.event_shape.rank or 'no'} event axes. Wrap it: "
                "tfd.Independent(base, reinterpreted_batch_ndims=1) or tfd.Sample(base, size)."
            )
        own = distribution.event_shape[-ndims:]
        if bijector.event_shape is not None and not own.is_compatible_with(bijector.event_shape):
            raise ValueError(
                f"The base has events of size {_in_words(own)}, the flow of size "
                f"{_in_words(bijector.event_shape)}. Give both the same size. "
                f"Received: {distribution}."
            )
        if distribution.dtype != bijector.dtype:
            raise ValueError(
                f"The base has dtype {distribution.dtype.name}, the flow "
                f"{bijector.dtype.name}. Make both the same: give the flow "
                f"dtype='{distribution.dtype.name}', or the base parameters of dtype "
                f"{bijector.dtype.name}."
            )
        used = bijector.uses_condition or isinstance(distribution, ConditionalBase)
        if condition is not None and not used:
            raise ValueError(
                f"The flow {bijector.name!r} uses no condition, but one was bound to its "
                f"distribution. Leave it out. Received: {condition!r}."
            )
        self._condition = condition
        super().__init__(
            distribution,
            bijector,
            kwargs_split_fn=self._split_kwargs,
            validate_args=validate_args,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes=num_classes)

    def _extra_axes(self):
        """Return how many event axes of the base lie in front of those that the flow acts on."""
        return self.distribution.event_shape.rank - self.bijector.event_ndims

    def _without_event(self, shape):
        """Return the batch part of the shape of a condition, which has one event axis more."""
        return shape[: -1 - self._extra_axes()]

    def _split_kwargs(self, kwargs):
        """Send `condition` to the flow, and what TFP calls `*_kwargs` where it belongs."""
        bijector_kwargs = dict(kwargs.get("bijector_kwargs", {}))
        condition = kwargs.get("condition")
        condition = self._condition if condition is None else condition
        if condition is not None:
            bijector_kwargs["condition"] = condition
        return kwargs.get("distribution_kwargs", {}), bijector_kwargs

    def _base(self, flow_kwargs):
        """Return the distribution of z, which may depend on the condition as well."""
        if not isinstance(self.distribution, ConditionalBase):
            return self.distribution
        condition = flow_kwargs.get("condition")
        if condition is not None:
            condition = to_condition(self.bijector, condition)
        return self.distribution.given(condition)

    def _batch_shape(self):
        batch_shape = super()._batch_shape()
        if self._condition is None:
            return batch_shape
        condition = tf.convert_to_tensor(self._condition)
        own = self._without_event(condition.shape)
        return tf.broadcast_static_shape(batch_shape, own)

    def _batch_shape_tensor(self, **kwargs):
        batch_shape = super()._batch_shape_tensor(**kwargs)
        if self._condition is None:
            return batch_shape
        own = self._without_event(tf.shape(self._condition))
        return tf.broadcast_dynamic_shape(batch_shape, own)

    def _log_prob(self, y, **kwargs):
        base_kwargs, flow_kwargs = self._split_kwargs(kwargs)
        x, log_det = self.bijector.inverse_and_log_det(y, **flow_kwargs)
        base = self._base(flow_kwargs)
        return base.log_prob(x, **base_kwargs) + sum_extra_axes(log_det, self._extra_axes())

    def _cdf(self, y, **kwargs):
        _, flow_kwargs = self._split_kwargs(kwargs)
        return univariate.cdf(self._base(flow_kwargs), self.bijector, y, **flow_kwargs)

    def _quantile(self, p, **kwargs):
        _, flow_kwargs = self._split_kwargs(kwargs)
        return univariate.quantile(self._base(flow_kwargs), self.bijector, p, **flow_kwargs)

    def _draw(self, method, sample_shape, seed, kwargs):
        """Call a method of the base that draws; each condition gets noise of its own."""
        base_kwargs, flow_kwargs = self._split_kwargs(kwargs)
        base = self._base(flow_kwargs)
        if "condition" in flow_kwargs and base is self.distribution:
            condition = tf.convert_to_tensor(flow_kwargs["condition"])
            batch_shape = self._without_event(tf.shape(condition))
            if base.batch_shape == ():
                sample_shape = tf.reshape(tf.convert_to_tensor(sample_shape, tf.int32), [-1])
                sample_shape = tf.concat([sample_shape, batch_shape], axis=0)
            else:
                base = tfd.BatchBroadcast(base, with_shape=batch_shape)
        return getattr(base, method)(sample_shape, seed=seed, **base_kwargs), flow_kwargs

    def sample_base(self, sample_shape, seed, **kwargs):
        """Draw what the flow then maps to a sample."""
        return self._draw("sample", sample_shape, seed, kwargs)[0]

    def _call_sample_n(self, sample_shape, seed, **kwargs):
        x, flow_kwargs = self._draw("sample", sample_shape, seed, kwargs)
        return self.bijector.forward(x, **flow_kwargs)

    def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
        (x, base_log_prob), flow_kwargs = self._draw(
            "experimental_sample_and_log_prob", sample_shape, seed, kwargs
        )
        y, log_det = self.bijector.forward_and_log_det(x, **flow_kwargs)
        return y, base_log_prob - sum_extra_axes(log_det, self._extra_axes())
