"""`coverage`: how much of the data the model's regions of a level hold."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_nf.arguments import check_count
from keras_nf.diagnostics.result import Result, in_words
from keras_nf.diagnostics.statistics import binomial, holm
from keras_nf.diagnostics.subject import Subject, places, seeds
from keras_nf.models.density import DensityModel
from keras_nf.plot.figures import BLUE, axes_or_current

__all__ = ["LEVELS", "coverage", "coverage_of"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
# Draws that all rows share, where no condition tells them apart.
_SHARED = 10_000
_NUMBERS = 4_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Coverage(Result):
    """Shares of the data in regions of some levels.

    Attributes:
      levels: probability of the regions under the model.
      shares: share of the rows that each of them holds.
      p_values: of each level, corrected for their number by Holm's method.
      places: for each row the level of the smallest region that holds it, uniform under a right
        model.
      rows: number of rows; less by what the noise of draws takes, where rows share them.
      regions: what the regions are.
      alpha: probability that a right model does not pass.
    """

    levels: tuple[float, ...]
    shares: np.ndarray
    p_values: np.ndarray
    places: np.ndarray = dataclasses.field(repr=False)
    rows: float
    regions: str
    alpha: float

    @property
    def passed(self) -> bool:
        return bool(np.all(self.p_values >= self.alpha))

    def sentence(self) -> str:
        worst = int(np.argmin(self.p_values))
        found = (
            f"Coverage: {self.regions} of {100 * self.levels[worst]:g} % hold "
            f"{100 * self.shares[worst]:.1f} % of {len(self.places):,} rows"
        )
        if self.passed:
            return f"{found}, as they should at the level {self.alpha:g}."
        if self.shares[worst] < self.levels[worst]:
            advice = "overconfident or shifted; stop earlier, regularize, or train on more rows"
        else:
            advice = "underconfident; train longer, or with a more flexible flow"
        return f"{found} ({in_words(self.p_values[worst])}): the model is {advice}."

    def plot(self, axes: Any = None) -> Any:
        """Draw the share of rows in regions over their level, with the band of each level.

        A line below the diagonal is that of an overconfident model. The band holds 99 % of all
        shares of a right model, at each level by itself.

        Args:
          axes: matplotlib axes to draw in; the current ones when `None`.

        Returns:
          The matplotlib axes.
        """
        axes = axes_or_current(axes)
        level = np.linspace(0.0, 1.0, 201)
        shares = np.searchsorted(np.sort(self.places), level, side="right") / len(self.places)
        # 2.58 deviations of a binomial share.
        room = 2.58 * np.sqrt(level * (1.0 - level) / self.rows)
        axes.fill_between(level, level - room, level + room, color="#d9d9d9", linewidth=0.0)
        axes.plot(level, level, color="black", linestyle=":", linewidth=1.0)
        axes.plot(level, shares, color=BLUE)
        axes.plot(self.levels, self.shares, "o", color=BLUE)
        axes.set(xlabel="level", ylabel="share of rows within", aspect="equal")
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0))
        return axes


def _density_places(subject, draws, seed):
    """Return the shares of draws that are denser than each row, and the effective rows."""
    subject.finite_latents()
    density = subject.distribution.log_prob
    if subject.condition is not None:
        own = np.asarray(density(subject.x, condition=subject.condition))
        denser = []
        for part, samples in subject.draws(draws, seed):
            # As that of the rows, to the last bit: a density may be the same everywhere.
            drawn = np.asarray(density(samples, condition=subject.condition[part]))
            denser.append(places(-drawn, -own[part], (seed, part.start)))
        return np.concatenate(denser), float(subject.rows)
    own = np.asarray(density(subject.x))
    number = int(np.clip(_NUMBERS // subject.size, 1_000, _SHARED))
    drawn = np.sort(-np.asarray(density(subject.distribution.sample(number, seed=seeds(seed)))))
    below, upto = (np.searchsorted(drawn, -own, side=side) for side in ("left", "right"))
    noise = np.random.default_rng(seed).random(len(own))
    share = (below + noise * (upto - below + 1.0)) / (number + 1.0)
    return share, subject.rows * number / (subject.rows + number)


def coverage_of(subject, levels, alpha, draws=100, seed=0):
    if subject.size == 1:
        regions, rows = "central intervals", float(subject.rows)
        inside = np.abs(2.0 * subject.uniforms[:, 0] - 1.0)
    else:
        regions = "highest-density regions"
        inside, rows = _density_places(subject, draws, seed)
    shares = np.array([np.mean(inside <= level) for level in levels])
    p_values = holm([binomial(share * rows, rows, level) for share, level in zip(shares, levels)])
    return Coverage(tuple(levels), shares, p_values, inside, rows, regions, alpha)


def coverage(
    model: DensityModel,
    x: Any,
    condition: Any = None,
    *,
    levels: Sequence[float] = LEVELS,
    draws: int = 100,
    seed: int = 0,
    alpha: float = 0.01,
) -> Coverage:
    """Coverage: the share of data in the model's regions of a level, against the level.

    Events of one component have central intervals, between quantiles of the model. Others have
    highest-density regions: the region of level q that x borders is where the density is higher
    than at x, and q is the share of draws with a higher density. Each level has a binomial test,
    and Holm's correction makes one of all.

    With a condition each row has draws of its own. Without, rows share 10,000 of them, whose noise
    the tests take into account by a smaller number of rows.

    Args:
      model: the model.
      x: data of shape `(rows, *event_shape)`, of at least 20 rows, that the training has not seen.
      condition: condition of the rows, or of all of them, where the model has one.
      levels: probabilities of the regions.
      draws: number of draws for each row, of events of several components with a condition.
      seed: seed of the draws.
      alpha: probability that a right model does not pass.

    Returns:
      A result with `levels`, `shares`, `p_values`, and a picture.

    Raises:
      ValueError: on data of another shape, on levels that are not between 0 and 1, or where latents
        are not finite.

    Example:

    >>> import numpy as np, keras_nf
    >>> model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2))
    >>> x = np.random.default_rng(0).normal(size=(500, 2)).astype("float32")
    >>> print(keras_nf.diagnostics.coverage(model, 2.0 * x, levels=[0.9]))
    Coverage: highest-density regions of 90 % hold ... % of 500 rows ... overconfident ...

    References:
      Joeri Hermans, Arnaud Delaunoy, François Rozet, Antoine Wehenkel, Volodimir Begy, Gilles
      Louppe. A Trust Crisis In Simulation-Based Inference? 2021. arXiv:2110.06581
    """
    if not len(levels) or not all(0.0 < level < 1.0 for level in levels):
        raise ValueError(f"`levels` must lie between 0 and 1. Received: {levels!r}.")
    subject = Subject(model, x, condition)
    return coverage_of(subject, levels, alpha, check_count(draws, "draws"), seed)
