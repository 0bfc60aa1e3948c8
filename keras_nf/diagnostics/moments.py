"""`normality`: mean, variance and dependence of the latents, as normal scores."""

import dataclasses
from typing import Any

import numpy as np

from keras_nf.diagnostics.result import Result, in_words
from keras_nf.diagnostics.statistics import (
    chi_squared,
    correlation,
    normal_quantile,
    standard_normal,
)
from keras_nf.diagnostics.subject import Subject
from keras_nf.models.density import DensityModel
from keras_nf.plot.figures import axes_or_current

__all__ = ["dependence", "normality", "normality_of"]

# Pairs of more are looked at for some components alone, which are drawn.
_COMPONENTS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Normality(Result):
    """Mean, variance and dependence of normal scores.

    Attributes:
      means: of the components, 0 under a right model.
      variances: about 0, of the components, 1 under a right model.
      correlations: of the components with each other, of shape `(components, components)`, 0 off
        the diagonal under a right model; of 256 of them where there are more.
      p_values: least p-value of each kind of test, corrected for the number of all of them:
        `mean`, `variance`, `dependence` and, with a condition, `condition`.
      worst: which components these are.
      rows: number of rows.
      alpha: probability that a right model does not pass.
    """

    means: np.ndarray = dataclasses.field(repr=False)
    variances: np.ndarray = dataclasses.field(repr=False)
    correlations: np.ndarray = dataclasses.field(repr=False)
    p_values: dict[str, float]
    worst: dict[str, tuple[int, ...]]
    rows: int
    alpha: float

    @property
    def passed(self) -> bool:
        return min(self.p_values.values()) >= self.alpha

    def sentence(self) -> str:
        name = min(self.p_values, key=lambda name: self.p_values[name])
        p_value, worst = in_words(self.p_values[name]), self.worst[name]
        if self.passed:
            return (
                f"Normality: mean, variance and dependence of {self.rows:,} latents are those of "
                f"the base at the level {self.alpha:g} (least {p_value}, of the {name})."
            )
        if name == "mean":
            text = (
                f"component {worst[0]} has mean {self.means[worst]:.2g} ({p_value}), not 0: the "
                "model is shifted; check that data and conditions belong together, and train longer"
            )
        elif name == "variance" and self.variances[worst] > 1.0:
            text = (
                f"component {worst[0]} has variance {self.variances[worst]:.2g} ({p_value}), not "
                "1: the model is overconfident; stop earlier, regularize, or train on more rows"
            )
        elif name == "variance":
            text = (
                f"component {worst[0]} has variance {self.variances[worst]:.2g} ({p_value}), not "
                "1: the model is underconfident; train longer, or with a more flexible flow"
            )
        elif name == "dependence":
            text = (
                f"components {worst[0]} and {worst[1]} depend on each other ({p_value}): the flow "
                "leaves what it should remove; take more layers, and mix components between them"
            )
        else:
            text = (
                f"component {worst[0]} depends on entry {worst[1]} of the encoded condition "
                f"({p_value}): the model does not use it well; take larger networks, or train "
                "longer"
            )
        return f"Normality: {text}."

    def plot(self, axes: Any = None) -> Any:
        """Draw the correlations of the components with each other.

        Args:
          axes: matplotlib axes to draw in; the current ones when `None`.

        Returns:
          The matplotlib axes.
        """
        axes = axes_or_current(axes)
        image = axes.imshow(self.correlations, cmap="PuOr", vmin=-1.0, vmax=1.0)
        axes.figure.colorbar(image, ax=axes, label="correlation of latents")
        axes.set(xlabel="component", ylabel="component")
        return axes


def _correlations(first, second):
    """Return correlations of columns with columns; 0 where one of them is constant."""
    first, second = (np.asarray(part, "float64") for part in (first, second))
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    lengths = np.linalg.norm(first, axis=0)[:, None] * np.linalg.norm(second, axis=0)
    return np.divide(first.T @ second, lengths, out=np.zeros_like(lengths), where=lengths > 0.0)


def _with_sizes(scores):
    """Return scores and those of their absolute values, which are standard normal as well."""
    # The probability of a smaller absolute value, as a score.
    sizes = normal_quantile(1.0 - standard_normal(scores))
    return np.concatenate([scores, sizes], axis=1)


def dependence(scores):
    """Return p-values that pairs of components are independent, of shape `(2 d, 2 d)`.

    Scores and their sizes are correlated with those of other components; pairs of a component with
    itself, and one of each two that are the same, have p-value 1 and do not count.

    Returns:
      The p-values, which of them count, and the correlations.
    """
    rows, size = scores.shape
    both = _with_sizes(scores)
    r = _correlations(both, both)
    index = np.arange(2 * size) % size
    counts = np.triu(index[:, None] != index, k=1)
    return np.where(counts, correlation(r, rows), 1.0), counts, r


def _columns_of(condition, rows):
    if condition is None or condition.shape.rank != 2 or len(condition) != rows:
        return None
    columns = np.asarray(condition, "float64")
    columns = np.where(columns.std(axis=0) > 1e-6 * np.abs(columns).max(axis=0), columns, 0.0)
    return columns if np.any(columns) and np.isfinite(columns).all() else None


def _tests(subject, scores):
    """Yield kinds of tests: name, p-values, their shape and number, correlations if any."""
    rows = len(scores)
    yield "mean", standard_normal(scores.mean(axis=0) * np.sqrt(rows)), scores.shape[1]
    yield "variance", chi_squared(np.sum(scores**2, axis=0), float(rows)), scores.shape[1]
    columns = _columns_of(subject.condition, rows)
    if columns is not None:
        r = _correlations(_with_sizes(scores), columns)
        varies = columns.any(axis=0)
        yield "condition", np.where(varies, correlation(r, rows), 1.0), len(r) * np.sum(varies)


def normality_of(subject, alpha):
    scores = subject.scores
    rows, size = scores.shape
    tests = list(_tests(subject, scores))
    chosen = np.sort(np.random.default_rng(0).permutation(size)[:_COMPONENTS])
    p_values, counts, r = dependence(scores[:, chosen])
    independent = subject.components is not None and size > 1
    if independent:
        tests.append(("dependence", p_values, np.sum(counts)))
    least, worst = {}, {}
    for name, values, number in tests:
        # Of several kinds of tests, each has its share of the level.
        least[name] = float(min(1.0, np.min(values) * number * len(tests)))
        place = np.unravel_index(np.argmin(values), values.shape)
        worst[name] = tuple(int(index) for index in place)
    if independent:
        pair = (int(chosen[i % len(chosen)]) for i in worst["dependence"])
        worst["dependence"] = tuple(sorted(pair))
    if "condition" in worst:
        component, entry = worst["condition"]
        worst["condition"] = component % size, entry
    means, variances = scores.mean(axis=0), np.mean(scores**2, axis=0)
    correlations = r[: len(chosen), : len(chosen)]
    return Normality(means, variances, correlations, least, worst, rows, alpha)


def normality(
    model: DensityModel, x: Any, condition: Any = None, *, alpha: float = 0.01
) -> Normality:
    """Moments of the latents of data: mean, variance, and dependence that a flow has not removed.

    The scores s = Phi^{-1}(F(z)) of latents z = f^{-1}(x), which for a normal base are z itself,
    are standard normal under a right model, and independent where the base is. Tests, all exact:

    - their means against 0, by the normal distribution, and variances against 1, by chi-squared;
    - correlations of components, and of what is standard normal of their absolute values, which
      finds dependence without correlation, by Student's t;
    - correlations of both with the entries of an encoded condition, on which no latent depends.

    Bonferroni's correction makes one of all: a right model fails with probability alpha, at most.

    Args:
      model: the model.
      x: data of shape `(rows, *event_shape)`, of at least 20 rows, that the training has not seen.
      condition: condition of the rows, or of all of them, where the model has one.
      alpha: probability that a right model does not pass.

    Returns:
      A result with `means`, `variances`, `correlations`, `p_values`, and a picture.

    Raises:
      ValueError: on data of another shape, or where latents are not finite.

    Example:

    >>> import numpy as np, keras_nf
    >>> model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2))
    >>> x = np.random.default_rng(0).normal(size=(500, 2)).astype("float32")
    >>> x[:, 1] += x[:, 0] ** 2 - 1.0
    >>> result = keras_nf.diagnostics.normality(model, x)
    >>> result.worst["dependence"], bool(result.p_values["dependence"] < 1e-12)
    ((0, 1), True)
    """
    return normality_of(Subject(model, x, condition), alpha)
