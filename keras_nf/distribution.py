"""The distribution of x = f(z): one network evaluation for each density."""

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_nf.layout import in_chunks


def _split_kwargs(kwargs):
    """Send `condition` to the flow, and what TFP calls `*_kwargs` where it belongs."""
    bijector_kwargs = dict(kwargs.get("bijector_kwargs", {}))
    if kwargs.get("condition") is not None:
        bijector_kwargs["condition"] = kwargs["condition"]
    return kwargs.get("distribution_kwargs", {}), bijector_kwargs


class FlowDistribution(tfd.TransformedDistribution):
    """A `tfd.TransformedDistribution` whose density evaluates every network once.

    TFP asks a bijector for its value and its log-determinant in two calls, which runs each network
    twice. A flow gives both in one. `flow(base)` and `FlowModel.distribution` return this class.

    `log_prob(x, condition=c)`, `sample(n, seed=s, condition=c)` and the other methods take a
    `condition` of shape `(..., condition_size)`; the distribution then has the batch shape of the
    condition, so that `sample(n, condition=c)` has shape `(n, ..., event_size)`.

    Args:
      distribution: the base, with event shape `(event_size,)`.
      bijector: the flow.
      validate_args: as in TFP.
      name: name of the distribution.

    Raises:
      ValueError: if the base has no event axis, or another event size or dtype than the flow.
    """

    def __init__(self, distribution, bijector, validate_args=False, name=None):
        parameters = dict(locals())
        if distribution.event_shape.rank == 0:
            raise ValueError(
                "A flow transforms vectors and needs a base with event shape (event_size,). "
                f"Received: {distribution}, with a scalar event. Wrap it: "
                "tfd.Independent(base, reinterpreted_batch_ndims=1) or tfd.Sample(base, size)."
            )
        base_size, size = distribution.event_shape[-1], bijector.event_size
        if None not in (base_size, size) and base_size != size:
            raise ValueError(
                f"The base has events of size {base_size}, the flow of size {size}. Give both the "
                f"same size. Received: {distribution}."
            )
        if distribution.dtype != bijector.dtype:
            raise ValueError(
                f"The base has dtype {distribution.dtype.name}, the flow "
                f"{bijector.dtype.name}. Make both the same: give the flow "
                f"dtype='{distribution.dtype.name}', or the base parameters of dtype "
                f"{bijector.dtype.name}."
            )
        super().__init__(
            distribution,
            bijector,
            kwargs_split_fn=_split_kwargs,
            validate_args=validate_args,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes=num_classes)

    def _extra_axes(self):
        """Event axes of the base in front of the one that the flow acts on."""
        return list(range(1 - self.distribution.event_shape.rank, 0))

    def _sum_extra_axes(self, log_det):
        axes = self._extra_axes()
        return tf.reduce_sum(log_det, axis=axes) if axes else log_det

    def _log_prob(self, y, **kwargs):
        base_kwargs, flow_kwargs = _split_kwargs(kwargs)

        def density(y, condition=None):
            x, log_det = self.bijector.inverse_and_log_det(y, condition=condition)
            return self.distribution.log_prob(x, **base_kwargs) + self._sum_extra_axes(log_det)

        is_of_each_event = (
            not base_kwargs
            and self.distribution.event_shape.rank == 1
            and self.distribution.batch_shape == ()
        )
        if self.bijector._gains_from_chunks and is_of_each_event:
            # The flow alone would have to write all of x, which the base would read again.
            y, condition = self.bijector._prepare(y, flow_kwargs.get("condition"))
            return in_chunks(density, tf.TensorShape([]), y, condition)
        return density(y, **flow_kwargs)

    def _base_sample_shape(self, sample_shape, flow_kwargs):
        """Each condition gets noise of its own."""
        if "condition" not in flow_kwargs:
            return sample_shape
        condition_shape = tf.shape(flow_kwargs["condition"])[: len(self._extra_axes()) * -1 - 1]
        sample_shape = tf.reshape(tf.convert_to_tensor(sample_shape, tf.int32), [-1])
        return tf.concat([sample_shape, condition_shape], axis=0)

    def _sample_base(self, sample_shape, seed, **kwargs):
        """Draw what the flow then maps to a sample."""
        base_kwargs, flow_kwargs = _split_kwargs(kwargs)
        return self.distribution.sample(
            self._base_sample_shape(sample_shape, flow_kwargs), seed=seed, **base_kwargs
        )

    def _call_sample_n(self, sample_shape, seed, **kwargs):
        _, flow_kwargs = _split_kwargs(kwargs)
        return self.bijector.forward(self._sample_base(sample_shape, seed, **kwargs), **flow_kwargs)

    def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
        base_kwargs, flow_kwargs = _split_kwargs(kwargs)
        x, base_log_prob = self.distribution.experimental_sample_and_log_prob(
            self._base_sample_shape(sample_shape, flow_kwargs), seed=seed, **base_kwargs
        )
        y, log_det = self.bijector.forward_and_log_det(x, **flow_kwargs)
        return y, base_log_prob - self._sum_extra_axes(log_det)
