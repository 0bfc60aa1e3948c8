"""`importance`: effective sample size and Pareto k of importance weights."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_nf.diagnostics.result import Result
from keras_nf.plot.figures import BLUE, VERMILLION, axes_or_current

__all__ = ["importance"]

_LEAST = 25


@dataclasses.dataclass(frozen=True, eq=False)
class Importance(Result):
    """Quality of importance weights.

    Attributes:
      weights: the weights, which sum to 1.
      effective: effective sample size, 1 / sum_i w_i^2.
      pareto_k: shape of the generalized Pareto distribution of the largest weights: moments of
        order 1 / k and above are infinite.
      threshold: largest k that passes, 0.7 or, of fewer than 2,200 weights, 1 - 1 / log10(number).
    """

    weights: np.ndarray = dataclasses.field(repr=False)
    effective: float
    pareto_k: float
    threshold: float

    @property
    def passed(self) -> bool:
        return self.pareto_k <= self.threshold

    def sentence(self) -> str:
        number = len(self.weights)
        found = (
            f"Importance: {number:,} weights are worth {self.effective:,.0f} equal ones "
            f"({100 * self.effective / number:.0f} %), with Pareto k = {self.pareto_k:.2f}"
        )
        if self.passed and self.pareto_k < 0.5:
            return f"{found}, below 0.5, so that estimates have finite variance."
        if self.passed:
            return f"{found}, between 0.5 and {self.threshold:.2g}, so that estimates are usable."
        return (
            f"{found}, above {self.threshold:.2g}: a few draws outweigh all others; widen the "
            "tails of the model, by a base such as keras_nf.bases.StudentT, train longer, or draw "
            "more."
        )

    def plot(self, axes: Any = None) -> Any:
        """Draw the share of weights above a weight, with the tail of the fitted shape.

        Args:
          axes: matplotlib axes to draw in; the current ones when `None`.

        Returns:
          The matplotlib axes.
        """
        axes = axes_or_current(axes)
        number = len(self.weights)
        relative = np.sort(self.weights)[::-1] * number
        positive = relative[relative > 0.0]
        share = np.arange(1, len(positive) + 1) / number
        axes.plot(positive, share, ".", color=BLUE, label="weights")
        tail, k = _tail_of(number), self.pareto_k
        if k > 0.05 and len(positive) > tail:
            # Far out, a share of weight ** (-1 / k).
            start, end = positive[tail], positive[0]
            reach = np.geomspace(start, max(end, 1.01 * start), 50)
            label = f"slope of k = {k:.2f}"
            line = share[tail] * (reach / start) ** (-1.0 / k)
            axes.plot(reach, line, color=VERMILLION, label=label)
        axes.set(xscale="log", yscale="log", ylim=(0.5 / number, 1.5))
        axes.set(xlabel="weight, in units of the mean", ylabel="share of weights above")
        axes.legend()
        return axes


def _tail_of(number):
    """Return how many of the largest weights are the tail."""
    return math.ceil(min(0.2 * number, 3.0 * math.sqrt(number)))


def _pareto_shape(excesses):
    """Return the shape of a generalized Pareto distribution, by Zhang and Stephens's estimate.

    A mean over values of b = -k / sigma, weighted by their profile likelihood, with the weak prior
    that the paper on smoothed weights adds: ten observations of k = 0.5.
    """
    x = np.sort(excesses)
    number = len(x)
    points = 30 + int(math.sqrt(number))
    quartile = x[int(number / 4 + 0.5) - 1]
    b = (1.0 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))) / (3.0 * quartile) + 1.0 / x[-1]
    k = np.mean(np.log1p(-b[:, None] * x), axis=1)
    likelihood = number * (np.log(-b / k) - k - 1.0)
    weights = np.exp(likelihood - likelihood.max())
    mean = np.sum(b * weights) / np.sum(weights)
    k = np.mean(np.log1p(-mean * x))
    return float((number * k + 10 * 0.5) / (number + 10))


def importance(log_weights: Any) -> Importance:
    """Importance weights: their effective sample size, and the Pareto k of their tail.

    Draws x_i ~ q estimate means under p by weights w_i proportional to p(x_i) / q(x_i). The
    effective sample size 1 / sum_i w_i^2 trusts the weights that were drawn; k, fitted to the
    largest of them, tells whether larger ones are to be expected: below 0.5 the weights have finite
    variance, and above 0.7 no practical number of draws is enough.

    Args:
      log_weights: log p(x_i) - log q(x_i), up to a constant, of at least 25 draws, as
        `log_density(x) - model.log_prob(x)` for `x = model.sample(n)`.

    Returns:
      A result with `weights`, `effective`, `pareto_k`, `threshold`, and a picture.

    Raises:
      ValueError: if there are fewer draws, a weight is NaN or infinite, or all are zero.

    Example:

    >>> import numpy as np, keras_nf
    >>> x = 2.0 * np.random.default_rng(0).normal(size=4000)
    >>> print(keras_nf.diagnostics.importance(-0.5 * x**2 + 0.5 * (x / 2.0) ** 2))
    Importance: 4,000 weights are worth 2,6... equal ones (6... %), with Pareto k = ...

    References:
      Aki Vehtari, Daniel Simpson, Andrew Gelman, Yuling Yao, Jonah Gabry. Pareto Smoothed
      Importance Sampling. 2015. arXiv:1507.02646

      Jin Zhang, Michael A. Stephens. A New and Efficient Estimation Method for the Generalized
      Pareto Distribution. 2009.
    """
    values = np.asarray(log_weights, "float64").ravel()
    if len(values) < _LEAST or not np.all(values < np.inf) or np.max(values) == -np.inf:
        raise ValueError(
            f"`log_weights` must be at least {_LEAST} numbers, none of them NaN or infinite, but "
            f"for -inf, which is a weight of zero. Received: shape {np.shape(log_weights)}, "
            f"largest {np.max(values, initial=-np.inf)}."
        )
    weights = np.exp(values - np.max(values))
    tail = _tail_of(len(weights))
    ordered = np.sort(weights)
    excesses = ordered[-tail:] - ordered[-tail - 1]
    excesses = excesses[excesses > 0.0]
    # Equal weights have no tail.
    k = _pareto_shape(excesses) if len(excesses) >= 5 else -math.inf
    weights = weights / np.sum(weights)
    threshold = min(0.7, 1.0 - 1.0 / math.log10(len(weights)))
    return Importance(weights, float(1.0 / np.sum(weights**2)), k, threshold)
