"""Numbers that are uniform under a right model: `pit` of latents, `sbc` of parameters."""

import dataclasses
from typing import Any

import numpy as np

from keras_nf.arguments import check_count
from keras_nf.diagnostics.result import Result, in_words
from keras_nf.diagnostics.statistics import (
    critical_distance,
    distances_from_uniform,
    holm,
    kolmogorov,
)
from keras_nf.diagnostics.subject import Subject, places
from keras_nf.models.density import DensityModel
from keras_nf.plot.figures import BLUE, COLOURS, axes_or_current

__all__ = ["pit", "pit_of", "sbc"]

_OVERCONFIDENT = "the model is overconfident; stop earlier, regularize, or train on more rows"
_UNDERCONFIDENT = "the model is underconfident; train longer, or with a more flexible flow"
_SHIFTED = "the model is shifted; check that data and conditions belong together, and train longer"
_SHAPE = "the model has another shape; take more layers, splines, or a base of another kind"


@dataclasses.dataclass(frozen=True, eq=False)
class Uniformity(Result):
    """Numbers between 0 and 1, and whether they are uniform.

    Attributes:
      values: the numbers, of shape `(rows, components)`.
      distances: Kolmogorov-Smirnov distance of each component from the uniform distribution.
      p_values: of each component, corrected for their number by Holm's method.
      alpha: probability that a right model does not pass.
      title: name of the diagnostic.
    """

    values: np.ndarray = dataclasses.field(repr=False)
    distances: np.ndarray
    p_values: np.ndarray
    alpha: float
    title: str

    @property
    def passed(self) -> bool:
        return bool(np.all(self.p_values >= self.alpha))

    def sentence(self) -> str:
        rows, size = self.values.shape
        if self.passed:
            return (
                f"{self.title}: uniform in {_all_of(size)} at the level {self.alpha:g} (largest "
                f"Kolmogorov-Smirnov distance {self.distances.max():.3f}, {rows:,} rows)."
            )
        worst = int(np.argmax(self.distances))
        number = int(np.sum(self.p_values < self.alpha))
        found = f"{number} of {size} components {'is' if number == 1 else 'are'} not uniform"
        return (
            f"{self.title}: {found} (distance {self.distances[worst]:.3f} of component {worst}, "
            f"{in_words(self.p_values[worst])}), whose values {self._shape_of(worst)}."
        )

    def _shape_of(self, component):
        u = self.values[:, component]
        # Standard normal numbers, were they uniform.
        shift = (u.mean() - 0.5) * np.sqrt(12.0 * len(u))
        spread = (np.mean((u - 0.5) ** 2) - 1.0 / 12.0) * np.sqrt(180.0 * len(u))
        if max(abs(shift), abs(spread)) < 3.0:
            return f"are neither shifted nor too wide or narrow: {_SHAPE}"
        if abs(shift) > abs(spread):
            return f"are too {'high' if shift > 0.0 else 'low'}: {_SHIFTED}"
        if spread > 0.0:
            return f"lie too often near 0 and 1: {_OVERCONFIDENT}"
        return f"lie too seldom near 0 and 1: {_UNDERCONFIDENT}"

    def plot(self, axes: Any = None) -> Any:
        """Draw how far the shares of values below u exceed u, with the band of the test.

        Each component has a line. At the level alpha all lines stay in the grey band. A line that
        rises and then falls below 0 is that of an overconfident model, one that lies on one side
        that of a shifted model.

        Args:
          axes: matplotlib axes to draw in; the current ones when `None`.

        Returns:
          The matplotlib axes.
        """
        axes = axes_or_current(axes)
        rows, size = self.values.shape
        band = critical_distance(self.alpha / size, rows)
        axes.axhspan(-band, band, color="#d9d9d9", linewidth=0.0)
        axes.axhline(0.0, color="black", linestyle=":", linewidth=1.0)
        u = np.linspace(0.0, 1.0, 401)
        few = size <= len(COLOURS)
        for component in range(size):
            below = np.searchsorted(np.sort(self.values[:, component]), u, side="right") / rows
            axes.plot(
                u,
                below - u,
                color=COLOURS[component] if few else BLUE,
                alpha=1.0 if few else max(0.05, size**-0.5),
                label=f"component {component}" if few else None,
            )
        if 1 < size <= len(COLOURS):
            axes.legend()
        axes.set(xlabel="u", ylabel="share of values below u, less u", xlim=(0.0, 1.0))
        return axes


def _all_of(size):
    return "its component" if size == 1 else f"all {size} components"


def _uniformity(values, alpha, title):
    distances = distances_from_uniform(values)
    p_values = holm(kolmogorov(distances, len(values)))
    return Uniformity(values, distances, p_values, alpha, title)


def pit_of(subject, alpha):
    return _uniformity(subject.uniforms, alpha, "PIT")


def pit(model: DensityModel, x: Any, condition: Any = None, *, alpha: float = 0.01) -> Uniformity:
    """Probability integral transform: latents of data through the base's distribution function.

    u_i = F_i(z_i) for z = f^{-1}(x) is uniform in every component under a right model. Of events of
    one component this is the probability of a value below x, or above it where the flow decreases.
    Where components of the base depend on each other, u_i is the place of z_i among draws. Each
    component has a Kolmogorov-Smirnov test, and Holm's correction makes one of all: a right model
    fails with probability alpha, at most.

    Rows must be others than those of the training, which fit too well.

    Args:
      model: the model.
      x: data of shape `(rows, *event_shape)`, of at least 20 rows.
      condition: condition of the rows, or of all of them, where the model has one.
      alpha: probability that a right model does not pass.

    Returns:
      A result with `values`, `distances`, `p_values`, and a picture.

    Raises:
      ValueError: on data of another shape, or where latents are not finite.

    Example:

    >>> import numpy as np, keras_nf
    >>> model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2))
    >>> x = np.random.default_rng(0).normal(size=(500, 2)).astype("float32")
    >>> keras_nf.diagnostics.pit(model, x).passed
    True
    >>> print(keras_nf.diagnostics.pit(model, 2.0 * x))
    PIT: 2 of 2 components are not uniform ... the model is overconfident; ...

    References:
      A. Philip Dawid. Statistical Theory: The Prequential Approach. 1984.
    """
    return pit_of(Subject(model, x, condition), alpha)


def sbc(
    model: DensityModel,
    theta: Any,
    x: Any,
    *,
    draws: int = 100,
    seed: int = 0,
    alpha: float = 0.01,
) -> Uniformity:
    """Simulation-based calibration: ranks of true parameters among draws of their posterior.

    Parameters are drawn from the prior, theta ~ p(theta), and observations from the simulator, x ~
    p(x | theta). Under the right posterior the rank of theta_i among draws from q(theta | x) is
    uniform, for every i. Ranks divided by their number, at a random place within it, have a
    Kolmogorov-Smirnov test each, and Holm's correction makes one of all.

    A posterior that ignores x, and is the prior, passes as well: `normality` finds that.

    Args:
      model: a conditional model, q(theta | x).
      theta: parameters of shape `(rows, *event_shape)`, of pairs that the training has not seen.
      x: the observations that belong to them, which the model takes as its condition.
      draws: number of draws for each row.
      seed: seed of the draws.
      alpha: probability that a right model does not pass.

    Returns:
      A result with `values`, `distances`, `p_values`, and a picture.

    Raises:
      ValueError: if the model takes no condition, or on parameters of another shape.

    Example:

    >>> import numpy as np, keras_nf
    >>> flow = keras_nf.real_nvp(event_size=2, layers=2, hidden_units=(8,))
    >>> model = keras_nf.FlowModel(flow)
    >>> theta, x = np.random.default_rng(0).normal(size=(2, 200, 2))
    >>> print(keras_nf.diagnostics.sbc(model, theta, x))
    SBC: uniform in all 2 components at the level 0.01 (...).

    References:
      Sean Talts, Michael Betancourt, Daniel Simpson, Aki Vehtari, Andrew Gelman. Validating
      Bayesian Inference Algorithms with Simulation-Based Calibration. 2018. arXiv:1804.06788
    """
    if x is None:
        raise ValueError("`x` must hold the observations. Received: None.")
    subject = Subject(model, theta, x)
    number, values = check_count(draws, "draws"), []
    for part, samples in subject.draws(number, seed):
        own = places(np.asarray(samples), np.asarray(subject.x[part]), (seed, part.start))
        values.append(own.reshape(len(own), -1))
    return _uniformity(np.concatenate(values), alpha, "SBC")
