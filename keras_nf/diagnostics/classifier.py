"""`c2st`: a classifier that tries to tell draws from data, by scikit-learn."""

import dataclasses
import importlib
import math
from typing import Any

import numpy as np

from keras_nf.arguments import check_count
from keras_nf.diagnostics.result import Result, in_words
from keras_nf.diagnostics.statistics import standard_normal
from keras_nf.plot.figures import to_rows

__all__ = ["c2st"]


@dataclasses.dataclass(frozen=True, eq=False)
class Distinction(Result):
    """How well a classifier tells two sets of rows apart.

    Attributes:
      accuracy: share of rows that it assigns to their set, under cross-validation: 0.5 where the
        sets are alike, 1 where everything tells them apart.
      standard_error: of the accuracy.
      p_value: that sets which are alike have such an accuracy, or a higher one.
      rows: number of rows of both sets.
      alpha: probability that sets which are alike do not pass.
    """

    accuracy: float
    standard_error: float
    p_value: float
    rows: int
    alpha: float

    @property
    def passed(self) -> bool:
        return self.p_value >= self.alpha

    def sentence(self) -> str:
        found = (
            f"C2ST: a classifier tells draws from data in {100 * self.accuracy:.1f} ± "
            f"{100 * self.standard_error:.1f} % of {self.rows:,} rows"
        )
        if self.passed:
            return f"{found}, no more than chance at the level {self.alpha:g}."
        return (
            f"{found}, where chance has 50 % ({in_words(self.p_value)}): draws and data differ; "
            "compare them by keras_nf.plot.corner, and train longer, or a more flexible flow."
        )


def _sklearn(module):
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "sklearn":
            raise
        raise ModuleNotFoundError(
            "A classifier two-sample test needs scikit-learn, which is not installed. Install it: "
            'pip install "keras_nf[sklearn]".',
            name="sklearn",
        ) from None


def c2st(
    draws: Any,
    data: Any,
    *,
    classifier: Any = None,
    folds: int = 5,
    seed: int = 1,
    alpha: float = 0.01,
) -> Distinction:
    """Classifier two-sample test: can a classifier tell draws of a model from data?

    By default the classifier is that of the benchmark of simulation-based inference: a network of
    two layers of 10 units for each component, on columns with the mean and deviation that they have
    in the data, under cross-validation of five folds. The standard error, and with it the p-value,
    is that of a binomial share with the correction of Nadeau and Bengio for folds that share rows.

    Args:
      draws: draws of the model, of shape `(number, *event_shape)`.
      data: data, or draws of a reference, about as many, that the training has not seen.
      classifier: classifier of scikit-learn in place of the default.
      folds: number of folds of the cross-validation.
      seed: seed of the folds and of the default classifier.
      alpha: probability that sets which are alike do not pass.

    Returns:
      A result with `accuracy`, `standard_error` and `p_value`.

    Raises:
      ValueError: if the sets have other columns, or one of them twice as many rows as the other.
      ModuleNotFoundError: if scikit-learn is not installed.

    Example:

    >>> import numpy as np, keras_nf
    >>> draws, data = np.random.default_rng(0).normal(size=(2, 100, 2))
    >>> keras_nf.diagnostics.c2st(draws + 4.0, data).accuracy > 0.9
    True

    References:
      David Lopez-Paz, Maxime Oquab. Revisiting Classifier Two-Sample Tests. 2016. arXiv:1610.06545

      Claude Nadeau, Yoshua Bengio. Inference for the Generalization Error. 2003.

      Jan-Matthis Lueckmann, Jan Boelts, David S. Greenberg, Pedro J. Gonçalves, Jakob H. Macke.
      Benchmarking Simulation-Based Inference. 2021. arXiv:2101.04653
    """
    selection = _sklearn("model_selection")
    if check_count(folds, "folds") < 2:
        raise ValueError("`folds` must be at least 2. Received: 1.")
    draws, data = (np.asarray(part) for part in (draws, data))
    draws, data = (part.reshape(len(part), -1) for part in (draws, data))
    to_rows(draws, "`draws`", data.shape[1])
    if not 0.5 <= len(draws) / max(len(data), 1) <= 2.0:
        raise ValueError(
            "The accuracy is compared with a half, for which both sets need about as many rows. "
            f"Received: {len(draws)} draws and {len(data)} rows of data."
        )
    mean, deviation = data.mean(axis=0), data.std(axis=0, ddof=1)
    rows = (np.concatenate([data, draws]) - mean) / np.where(deviation > 0.0, deviation, 1.0)
    labels = np.repeat([0, 1], [len(data), len(draws)])
    if classifier is None:
        units = (10 * data.shape[1],) * 2
        network = _sklearn("neural_network").MLPClassifier
        classifier = network(units, max_iter=10_000, solver="adam", random_state=seed)
    parts = selection.KFold(folds, shuffle=True, random_state=seed)
    scores = selection.cross_val_score(classifier, rows, labels, cv=parts, scoring="accuracy")
    accuracy, chance = float(np.mean(scores)), max(len(draws), len(data)) / len(rows)
    # Folds share most of the rows that they train on: the variance is more than a binomial one.
    effective = len(rows) / (1.0 + folds / (folds - 1.0))
    error = math.sqrt(max(accuracy * (1.0 - accuracy), 1.0 / len(rows)) / effective)
    excess = (accuracy - chance) / math.sqrt(chance * (1.0 - chance) / effective)
    one_sided = 0.5 * float(standard_normal(excess))
    p_value = one_sided if excess > 0.0 else 1.0 - one_sided
    return Distinction(accuracy, error, p_value, len(rows), alpha)
