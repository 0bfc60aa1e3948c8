"""Faults of the map: `round_trip`, `log_det` and `untouched`."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from keras_nf.diagnostics.moments import dependence
from keras_nf.diagnostics.result import Result, in_words
from keras_nf.diagnostics.statistics import distances_from_uniform, kolmogorov
from keras_nf.diagnostics.subject import LARGEST, Subject, seeds
from keras_nf.models.density import DensityModel
from keras_nf.round_trip import round_trip as lines_of_trip
from keras_nf.round_trip import to_numpy, tolerance_of

__all__ = [
    "log_det",
    "log_det_of",
    "round_trip",
    "round_trip_of",
    "untouched",
    "untouched_of",
]

# Numbers that go there and back.
_NUMBERS = 1_000_000
# Rows of the largest errors, whose Jacobians tell what rounding explains.
_WORST = 8
_BOTH = (("inverse", "forward"), ("forward", "inverse"))


@dataclasses.dataclass(frozen=True, eq=False)
class RoundTrip(Result):
    """Errors of both round trips.

    Attributes:
      inverse_forward: largest error of f(f^{-1}(x)), of data.
      forward_inverse: largest error of f^{-1}(f(z)), of draws of the base.
      tolerance: largest error that passes.
      dtype: dtype of the flow.
      rows: number of rows of each.
    """

    inverse_forward: float
    forward_inverse: float
    tolerance: float
    dtype: str
    rows: int

    @property
    def passed(self) -> bool:
        return self.inverse_forward <= self.tolerance and self.forward_inverse <= self.tolerance

    def sentence(self) -> str:
        if self.passed:
            return (
                f"Round trip: `forward` undoes `inverse` to {self.inverse_forward:.0e}, and "
                f"`inverse` `forward` to {self.forward_inverse:.0e}, on {self.rows:,} rows each "
                f"(tolerance {self.tolerance:.1e}, of {self.dtype})."
            )
        first, second = _BOTH[not self.inverse_forward > self.tolerance]
        error = max(self.inverse_forward, self.forward_inverse)
        return (
            f"Round trip: `{second}` does not undo `{first}` (error {error:.1e}, tolerance "
            f"{self.tolerance:.1e}, of {self.dtype}): a direction saturates or is wrong; bound "
            "the parameters of the map, not its values, or compute in float64."
        )


def _error_of_trip(subject, names, points):
    flow = subject.flow
    there, back = (getattr(flow, f"{name}_and_log_det") for name in names)
    start, *condition = subject.events(_rows_of(subject), points)
    again, start_numbers = (
        to_numpy(back(there(start, *condition)[0], *condition)[0]),
        to_numpy(start),
    )
    errors = np.abs(again - start_numbers) / (1.0 + np.abs(start_numbers))
    errors = np.where(np.isnan(errors), np.inf, errors).reshape(len(errors), -1).max(axis=1)
    size, largest = int(np.prod(start.shape[1:])), float(errors.max())
    if largest <= tolerance_of(flow) or largest == np.inf or size > LARGEST:
        return largest
    worst = np.argsort(errors)[-min(_WORST, max(2, 1024 // size)) :]
    inputs = [tf.gather(part, worst) for part in (start, *condition)]
    _, error, _, _ = next(lines_of_trip(flow, names, inputs, "data"))
    return np.inf if np.isnan(error) else error


def _rows_of(subject):
    return min(subject.rows, max(1000, _NUMBERS // subject.size))


def round_trip_of(subject):
    base = subject.base
    shape = () if base.batch_shape.rank else (subject.rows,)
    points = subject.x, base.sample(shape, seed=seeds(0))
    errors = [_error_of_trip(subject, names, start) for names, start in zip(_BOTH, points)]
    flow = subject.flow
    return RoundTrip(*errors, tolerance_of(flow), flow.compute_dtype, _rows_of(subject))


def round_trip(model: DensityModel, x: Any, condition: Any = None) -> RoundTrip:
    """Round trips: f(f^{-1}(x)) of data against x, and f^{-1}(f(z)) of draws of the base against z.

    Errors are |a - b| / (1 + |b|), less what the rounding of the image explains where the map is
    steep. The tolerance is the root of the machine epsilon: 3.5e-4 in float32.

    Args:
      model: the model.
      x: data of shape `(rows, *event_shape)`, of which at most a million numbers are used.
      condition: condition of the rows, or of all of them, where the model has one.

    Returns:
      A result with `inverse_forward`, `forward_inverse` and `tolerance`.

    Raises:
      ValueError: on data of another shape.

    Example:

    >>> import numpy as np, keras_nf
    >>> flow = keras_nf.real_nvp(event_size=2, layers=2, hidden_units=(8,))
    >>> model = keras_nf.FlowModel(flow)
    >>> x = np.random.default_rng(0).normal(size=(100, 2)).astype("float32")
    >>> keras_nf.diagnostics.round_trip(model, x).passed
    True
    """
    return round_trip_of(Subject(model, x, condition))


@dataclasses.dataclass(frozen=True, eq=False)
class LogDet(Result):
    """Log-determinants against those of the Jacobian of autodiff.

    Attributes:
      errors: of `inverse` and of `forward`, the largest one.
      tolerance: largest error that passes.
      advice: of `inverse` and of `forward`, how the log-determinants differ.
    """

    errors: tuple[float, float]
    tolerance: float
    advice: tuple[str, str] = dataclasses.field(repr=False)

    @property
    def passed(self) -> bool:
        return all(error <= self.tolerance for error in self.errors)

    def sentence(self) -> str:
        if self.passed:
            return (
                f"Log-determinant: both directions agree with autodiff to {max(self.errors):.0e} "
                f"(tolerance {self.tolerance:.1e})."
            )
        wrong = int(self.errors[0] <= self.tolerance)
        return (
            f"Log-determinant: that of `{('inverse', 'forward')[wrong]}` is wrong: "
            f"{self.advice[wrong].rstrip('.').replace('. ', '; ')}; densities are wrong by as "
            "much, so mend the flow, with keras_nf.check_flow beside it."
        )


def log_det_of(subject):
    (_, first, tolerance, advice), (_, second, _, other) = subject.log_dets
    return LogDet((first, second), tolerance, (advice, other))


def log_det(model: DensityModel, x: Any, condition: Any = None) -> LogDet:
    """Log-determinants of both directions, against those of the Jacobian that autodiff computes.

    Up to 16 rows of the data are used, spread evenly, in a copy of the flow in float64 where its
    config makes one. Densities are wrong by as much as the log-determinant of the inverse.
    `keras_nf.check_flow` looks for more faults of a flow of one's own, with moved weights.

    Args:
      model: the model, whose events have at most 1,024 components.
      x: data of shape `(rows, *event_shape)`.
      condition: condition of the rows, or of all of them, where the model has one.

    Returns:
      A result with `errors`, |a - b| / (1 + |b|), and `tolerance`.

    Raises:
      ValueError: on data of another shape, or of larger events.

    Example:

    >>> import numpy as np, keras_nf
    >>> flow = keras_nf.real_nvp(event_size=2, layers=2, hidden_units=(8,))
    >>> model = keras_nf.FlowModel(flow)
    >>> x = np.random.default_rng(0).normal(size=(100, 2)).astype("float32")
    >>> print(keras_nf.diagnostics.log_det(model, x))
    Log-determinant: both directions agree with autodiff to ... (tolerance 1.5e-08).
    """
    return log_det_of(Subject(model, x, condition))


@dataclasses.dataclass(frozen=True, eq=False)
class Untouched(Result):
    """Components that the flow shifts and scales by constants, and no more.

    Attributes:
      components: those of the data.
      latents: the components of z that they become.
      p_value: that such latents follow the base and depend on no other, 1 if there are none.
      alpha: probability that a right model does not pass.
    """

    components: tuple[int, ...]
    latents: tuple[int, ...]
    p_value: float
    alpha: float

    @property
    def passed(self) -> bool:
        return self.p_value >= self.alpha

    def sentence(self) -> str:
        if not self.components:
            return "Untouched: the flow changes the shape of every component."
        names = ", ".join(map(str, self.components[:8])) + ", ..." * (len(self.components) > 8)
        what = f"component {names} is" if len(self.components) == 1 else f"components {names} are"
        found = f"Untouched: {what} only shifted and scaled by constants"
        if self.passed:
            return f"{found}, whose latents follow the base all the same."
        return (
            f"{found}, whose latents do not follow the base ({in_words(self.p_value)}): let some "
            "layer transform them, by other masks, or permutations between layers."
        )


def untouched_of(subject, alpha):
    jacobians = subject.jacobians
    used = np.any(jacobians != 0.0, axis=0)
    slopes, first = jacobians.sum(axis=2), jacobians.sum(axis=2)[:1]
    constant = np.all(np.abs(slopes - first) <= 1e-6 * np.abs(first), axis=0)
    latents = np.flatnonzero((used.sum(axis=1) == 1) & constant)
    if not latents.size:
        return Untouched((), (), 1.0, alpha)
    components = tuple(int(index) for index in np.argmax(used[latents], axis=1))
    size = jacobians.shape[1]
    own = subject.uniforms.reshape(-1, size)[:, latents]
    p_values = [np.min(kolmogorov(distances_from_uniform(own), len(own))) * latents.size]
    if subject.components is not None and size > 1:
        pairs, counts, _ = dependence(subject.scores.reshape(-1, size))
        kept = np.isin(np.arange(2 * size) % size, latents)
        counts &= kept[:, None] | kept
        p_values.append(np.min(pairs[counts]) * np.sum(counts))
    p_value = min(1.0, float(min(p_values)) * len(p_values))
    return Untouched(components, tuple(int(k) for k in latents), p_value, alpha)


def untouched(
    model: DensityModel, x: Any, condition: Any = None, *, alpha: float = 0.01
) -> Untouched:
    """Components that no layer transforms, and that are not like the base by themselves.

    A coupling passes on a part of the components as they are. Where all layers pass on the same
    one, the density has the shape of the base in it, whatever the data. A component counts as
    untouched if z_k is a x_j + b with constants a and b, by the Jacobians of a few rows. It is a
    fault where its latents do not follow the base, by a Kolmogorov-Smirnov test, or depend on
    others, as `normality` tests it.

    Args:
      model: the model, whose events have at most 1,024 components.
      x: data of shape `(rows, *event_shape)`, that the training has not seen.
      condition: condition of the rows, or of all of them, where the model has one.
      alpha: probability that a right model does not pass.

    Returns:
      A result with `components`, `latents` and `p_value`.

    Raises:
      ValueError: on data of another shape, or of larger events.

    Example:

    >>> import numpy as np, keras_nf
    >>> model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2))
    >>> x = np.random.default_rng(0).gamma(2.0, size=(500, 2)).astype("float32")
    >>> result = keras_nf.diagnostics.untouched(model, x)
    >>> result.components, result.passed
    ((0, 1), False)
    """
    return untouched_of(Subject(model, x, condition), alpha)
