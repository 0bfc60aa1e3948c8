"""`report`: all diagnostics of a model and data that apply, one sentence each."""

import dataclasses
from typing import Any

from keras_nf.diagnostics.maps import log_det_of, round_trip_of, untouched_of
from keras_nf.diagnostics.moments import normality_of
from keras_nf.diagnostics.regions import LEVELS, coverage_of
from keras_nf.diagnostics.result import Result
from keras_nf.diagnostics.subject import LARGEST, Subject
from keras_nf.diagnostics.uniform import pit_of
from keras_nf.models.density import DensityModel

__all__ = ["report"]


@dataclasses.dataclass(frozen=True, eq=False)
class Lost(Result):
    """Rows without finite latents.

    Attributes:
      lost: their number.
      rows: that of all rows.
    """

    lost: int
    rows: int

    @property
    def passed(self) -> bool:
        return not self.lost

    def sentence(self) -> str:
        return (
            f"Latents: those of {self.lost:,} of {self.rows:,} rows are not finite, and the tests "
            "of latents were not run: the rows lie where the model has no density, or a direction "
            "overflows; remove them, or widen the interval of a Logit."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Report(Result):
    """Results of several diagnostics.

    Attributes:
      results: the results, by the names of the functions of this package.
    """

    results: dict[str, Result]

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """Names of the diagnostics that a model does not pass."""
        return [name for name, result in self.results.items() if not result.passed]

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def sentence(self) -> str:
        return f"{len(self.failed)} of {len(self.results)} diagnostics found a fault."

    def __str__(self) -> str:
        marks = {True: "ok", False: "FAULT"}
        lines = [f"- {marks[result.passed]}: {result}" for result in self.results.values()]
        return "\n".join([self.sentence(), *lines])


def report(model: DensityModel, x: Any, condition: Any = None, *, alpha: float = 0.01) -> Report:
    """All diagnostics of a model and data that apply, to print.

    `round_trip`, `log_det` and `untouched`, without the last two where events have more than 1,024
    components, then `pit`, `normality` and `coverage`. Each of the tests has an equal share of
    alpha: a report of a right model finds a fault with probability alpha, at most.

    Args:
      model: the model.
      x: data of shape `(rows, *event_shape)`, of at least 20 rows, that the training has not seen.
      condition: condition of the rows, or of all of them, where the model has one.
      alpha: probability that a right model does not pass.

    Returns:
      A result that holds those of the functions in `results`, by their names.

    Raises:
      ValueError: on data of another shape.

    Example:

    >>> import numpy as np, keras_nf
    >>> flow = keras_nf.real_nvp(event_size=2, layers=2, hidden_units=(8,))
    >>> model = keras_nf.FlowModel(flow)
    >>> x = np.random.default_rng(0).normal(size=(500, 2)).astype("float32")
    >>> report = keras_nf.diagnostics.report(model, x)
    >>> print(report)
    0 of 6 diagnostics found a fault.
    - ok: Round trip: ...
    >>> report["pit"].passed
    True
    """
    subject = Subject(model, x, condition)
    small = subject.size <= LARGEST
    results: dict[str, Result] = {"round_trip": round_trip_of(subject)}
    if small:
        results["log_det"] = log_det_of(subject)
    if subject.lost:
        results["latents"] = Lost(subject.lost, subject.rows)
        return Report(results)
    share = alpha / (3 + small)
    if small:
        results["untouched"] = untouched_of(subject, share)
    results["pit"] = pit_of(subject, share)
    results["normality"] = normality_of(subject, share)
    results["coverage"] = coverage_of(subject, LEVELS, share)
    return Report(results)
