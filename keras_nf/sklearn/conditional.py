"""ConditionalFlowDensity: a density of targets, given features."""

from typing import Any

import numpy as np
from scipy.stats import norm, qmc
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from keras_nf.flows.invert import Invert
from keras_nf.sklearn.density import weighted
from keras_nf.sklearn.estimator import FlowEstimator, draw_seed, moments, standardizer

__all__ = ["ConditionalFlowDensity"]

# A predictive mean is that of so many latents, two to this power.
_POWER = 9
# Events of a mean, and rows of quantiles, at a time.
_EVENTS, _ROWS = 2**17, 1000


class ConditionalFlowDensity(RegressorMixin, FlowEstimator):
    """Density p(y | X) of targets by a normalizing flow, a regressor of scikit-learn.

    It stands where a regressor would, and says more than a mean: densities, draws, and for one
    target exact quantiles and intervals. The density is that of the raw targets, in nats; `model_`
    is an ordinary `FlowModel`, whose condition are the raw features. `predict` returns the mean of
    the density, which is no exact one: of one target it is the mean of 512 evenly spaced
    quantiles, and of several the flow of as many points of a Sobol sequence.

    Args:
      flow: as for `FlowDensity`; `"nice"` and `"real_nvp"` need two targets.
      flow_options: as for `FlowDensity`.
      epochs: as for `FlowDensity`.
      batch_size: as for `FlowDensity`.
      learning_rate: as for `FlowDensity`.
      validation_fraction: as for `FlowDensity`.
      patience: as for `FlowDensity`.
      noise: as for `FlowDensity`, on the targets; the columns that `"auto"` counts are those of
        targets and features.
      standardize: whether the flow sees targets and features of mean 0 and variance 1. A feature
        that is constant is only shifted.
      random_state: as for `FlowDensity`.
      verbose: as for `FlowDensity`.

    Attributes:
      model_: the trained `keras_nf.FlowModel`.
      history_: losses of the epochs, lists by name.
      n_features_in_: number of features.
      feature_names_in_: their names, where X was a frame.
      n_outputs_: number of targets.

    Example:

    >>> import numpy as np
    >>> from keras_nf.sklearn import ConditionalFlowDensity
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(size=(200, 1))
    >>> y = x[:, 0] + 0.1 * rng.normal(size=200)
    >>> density = ConditionalFlowDensity("maf", epochs=2, random_state=0)
    >>> density.fit(x, y).predict_interval(x[:3], 0.9).shape
    (3, 2)
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        # What `score` returns is no R².
        tags.regressor_tags.poor_score = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None):  # noqa: N803
        """Train on features and targets.

        Args:
          X: features of shape `(rows, features)`, an array or a frame.
          y: targets of shape `(rows,)` or `(rows, targets)`.
          sample_weight: weight of each row's -log p(y | X); rows of weight 0 are left out.

        Returns:
          The estimator.

        Raises:
          ValueError: on a target that is constant, or whose values float32 does not tell apart; on
            missing values, fewer than two rows, or an unknown flow.
        """
        X, y = validate_data(  # noqa: N806
            self,
            X,
            y,
            dtype="float64",
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        self._is_vector = y.ndim == 1
        y = y.reshape(len(X), -1).astype("float64")
        self.n_outputs_ = y.shape[1]
        X, y, weight = weighted(sample_weight, X, y)  # noqa: N806
        names = ["y"] if self._is_vector else [f"{i} of y" for i in range(self.n_outputs_)]
        return self._train(y, X, weight, names)

    def _make_encoder(self, condition, weight, policy):
        if not self.standardize:
            return None
        mean, std = moments(condition, weight)
        return Invert(standardizer(mean, np.where(std > 0.0, std, 1.0), policy))

    def _noise(self, rows, columns):
        return super()._noise(rows, columns + self.n_features_in_)

    def log_density(self, X: Any, y: Any) -> np.ndarray:  # noqa: N803
        """Return log p(y | X) in nats, of shape `(rows,)`, in the dtype of the flow.

        It is not called `score_samples`, for what scikit-learn calls by that name takes X alone.
        """
        check_is_fitted(self)
        X, y = validate_data(  # noqa: N806
            self, X, y, dtype="float64", multi_output=True, y_numeric=True, reset=False
        )
        y = y.reshape(len(X), -1).astype("float64")
        if y.shape[1] != self.n_outputs_:
            raise ValueError(f"Expected {self.n_outputs_} targets. Received: {y.shape[1]}.")
        return self._log_density({"x": y, "condition": X})

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """Return the mean of log p(y | X), in nats; for R² there is `sklearn.metrics`."""
        values = self.log_density(X, y).astype("float64")
        return float(np.average(values, weights=sample_weight))

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the mean of p(y | X), in the shape of the targets in `fit`, float64."""
        X = self._features(X)  # noqa: N806
        size = 2**_POWER
        # Each component takes the middle of each of so many equal parts of the unit interval once.
        latents = qmc.Sobol(self.n_outputs_, scramble=False).random_base2(_POWER) + 0.5 / size
        latents = norm.ppf(latents).astype(self._dtype)[:, None, :]
        rows = _EVENTS // size
        means = []
        for start in range(0, len(X), rows):
            condition = self.model_.encode(X[start : start + rows])
            z = np.repeat(latents, len(condition), axis=1)
            y = self.model_.flow.forward(z, condition=condition)
            means.append(np.mean(y, axis=0, dtype="float64"))
        return self._like_targets(np.concatenate(means))

    def predict_quantiles(self, X: Any, p: Any = (0.05, 0.5, 0.95)) -> np.ndarray:  # noqa: N803
        """Return exact quantiles of p(y | X) of one target, of shape `(rows, probabilities)`.

        Args:
          X: features.
          p: probabilities, between 0 and 1.

        Raises:
          ValueError: if there are more targets, whose quantiles are to be had from draws.
        """
        X = self._features(X)  # noqa: N806
        if self.n_outputs_ > 1:
            raise ValueError(
                f"Quantiles are exact for one target. Received: {self.n_outputs_}. Take those of "
                "draws: np.quantile(density.sample(X, 1000), p, axis=1)."
            )
        p = np.asarray(p, self._dtype)
        quantiles = [
            self.model_.quantile(p[:, None], X[start : start + _ROWS])[..., 0].numpy().T
            for start in range(0, len(X), _ROWS)
        ]
        return np.concatenate(quantiles).astype("float64")

    def predict_interval(self, X: Any, level: float = 0.9) -> np.ndarray:  # noqa: N803
        """Return the ends of the central interval of one target, of shape `(rows, 2)`.

        Args:
          X: features.
          level: probability of the interval, between 0 and 1.

        Raises:
          ValueError: if there are more targets.
        """
        return self.predict_quantiles(X, (0.5 - 0.5 * level, 0.5 + 0.5 * level))

    def sample(self, X: Any, n_samples: int = 1, random_state: Any = None):  # noqa: N803
        """Draw targets, of shape `(rows, n_samples)` or `(rows, n_samples, targets)`.

        Args:
          X: features.
          n_samples: draws for each row of features.
          random_state: seed of the draws, as in scikit-learn.
        """
        X = self._features(X)  # noqa: N806
        draws = self.model_.sample(n_samples, X, seed=draw_seed(random_state)).numpy()
        return self._like_targets(np.swapaxes(draws, 0, 1))

    def _features(self, X):  # noqa: N803
        check_is_fitted(self)
        return validate_data(self, X, dtype="float64", reset=False).astype(self._dtype)

    def _like_targets(self, y):
        return y[..., 0] if self._is_vector else y
