"""Head of a network: a conditional density of targets in place of a number for each."""

import numbers
from collections.abc import Sequence
from typing import Any

from keras_nf.flow.contract import Flow
from keras_nf.flows.autoregressive import MaskedAutoregressive, SplineAutoregressive
from keras_nf.flows.chain import Chain
from keras_nf.flows.dequantize import Dequantize
from keras_nf.flows.diagonal import Standardize
from keras_nf.flows.log import Log
from keras_nf.flows.logit import Logit

__all__ = ["LOG_SCALE_BOUND", "density_head", "targets"]

# Of a single layer, whose scale may be far from that of all targets.
LOG_SCALE_BOUND = 7.0


def density_head(
    event_size: int = 1,
    *,
    low: float | None = None,
    high: float | None = None,
    integers: bool = False,
    hidden_units: Sequence[int] = (),
    bins: int = 8,
    bound: float = 5.0,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Conditional density p(y | features), in place of `Dense(1)` and a squared error.

    y is standardized, then shifted and scaled, then bent by a rational-quadratic spline, until it
    is a standard normal latent; shift, log-scale and spline are linear in the features. Put it into
    a `FlowModel` with the network as its encoder. `adapt` takes mean and deviation from the
    targets. Of a single target `cdf`, `quantile`, `interval`, `mean` and `stddev` of the model are
    exact. Several get their joint density, each given those before it.

    Targets of little noise ask for a first training without the spline, of a model with the chain
    `keras_nf.Chain(head.flows[1:], event_size=1)`: it has location and scale alone, and shares them
    with the head, whose training then starts from there.

    Args:
      event_size: number of targets.
      low: lower bound of the targets, which they do not touch unless there is an upper one too:
        prices, for example, have 0.
      high: upper bound of the targets, together with `low`.
      integers: whether the targets are the integers from `low` to `high`, such as grades, or counts
        with a generous upper bound. Noise fills the gaps in training; P(y) is
        `cdf(y + 1/2) - cdf(y - 1/2)`.
      hidden_units: width of each hidden layer between the features and shift, scale and spline. An
        encoder is that already; of several targets, hidden layers let the dependence of one on
        those before it be more than linear.
      bins: number of bins of the spline.
      bound: the spline acts on (-bound, bound), in standard deviations.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if there is an upper bound without a lower one, or integers have not both.

    Example:

    >>> import keras, keras_nf, numpy as np
    >>> encoder = keras.Sequential([keras.layers.Dense(16, activation="relu")])
    >>> model = keras_nf.FlowModel(keras_nf.density_head(low=0.0), encoder=encoder)
    >>> x = np.random.default_rng(0).normal(size=(256, 3)).astype("float32")
    >>> y = np.exp(x[:, :1])
    >>> model.adapt({"x": y, "condition": x})
    >>> model.compile("adam")
    >>> history = model.fit({"x": y, "condition": x}, epochs=1, verbose=0)
    >>> low, high = model.interval(0.9, condition=x[:5])
    >>> low.shape, high.shape
    (TensorShape([5, 1]), TensorShape([5, 1]))

    References:
      Brian L. Trippe, Richard E. Turner. Conditional Density Estimation with Bayesian Normalising
      Flows. 2018. arXiv:1802.04908
      Conor Durkan, Artur Bekasov, Iain Murray, George Papamakarios. Neural Spline Flows. 2019.
      arXiv:1906.04032
    """
    options: dict[str, Any] = {"hidden_units": hidden_units, "dtype": dtype}
    flows = [
        SplineAutoregressive(bins=bins, bound=bound, **options),
        MaskedAutoregressive(log_scale_bound=LOG_SCALE_BOUND, shift_first=False, **options),
        Standardize(dtype=dtype),
        *targets(low, high, integers, dtype),
    ]
    return Chain(flows, event_size=event_size, dtype=dtype, **kwargs)


def targets(low, high, integers, dtype) -> list[Flow]:
    """Return the flows between the real line and targets of a kind; see `density_head`."""
    if integers and not all(isinstance(end, numbers.Integral) for end in (low, high)):
        raise ValueError(
            "Targets that are integers need the least and the largest of them, as integers. "
            f"Received: low={low!r}, high={high!r}. For counts give a generous `high`."
        )
    if high is not None and low is None:
        raise ValueError(
            f"`high` needs `low` beside it. Received: high={high!r} alone. Give both, or turn the "
            "sign of the targets, whose lower bound is then -high."
        )
    if integers:
        levels = [Dequantize(high - low + 1, low=low, dtype=dtype)]
        return [Logit(margin=0.0, dtype=dtype), *levels]
    if high is not None:
        return [Logit(low, high, dtype=dtype)]
    return [] if low is None else [Log(low, dtype=dtype)]
