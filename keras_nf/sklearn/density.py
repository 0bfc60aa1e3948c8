"""FlowDensity: a density of rows."""

from typing import Any

import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from keras_nf.sklearn.estimator import FlowEstimator, draw_seed

__all__ = ["FlowDensity"]


class FlowDensity(DensityMixin, FlowEstimator):
    """Density p(X) of rows by a normalizing flow, an estimator of scikit-learn.

    It stands where `KernelDensity` or `GaussianMixture` would: in a `Pipeline`, in `GridSearchCV`,
    with pandas frames. The density is that of the raw columns, in nats; `model_` is an ordinary
    `FlowModel` of them. Log-densities have the dtype of the flow, float32 unless `flow_options`
    says otherwise.

    Args:
      flow: `"nsf"`, `"maf"`, `"real_nvp"`, `"nice"`, `"iaf"` or `"planar_flow"`, a recipe of
        keras_nf; or a function of the event size that returns a flow. Where the estimator is to be
        pickled, the flow's classes are registered with Keras.
      flow_options: arguments of the recipe or the function, such as `{"layers": 3}`.
      epochs: most epochs to train.
      batch_size: rows in a batch; `"auto"` is a fiftieth of the rows, at least 32 and at most 512.
      learning_rate: Adam's rate at the start. It falls where the loss of the rows held out does
        not, or without such rows by a cosine to zero.
      validation_fraction: share of the rows, drawn at random, that the training stops by; with 0
        all rows train, for all epochs.
      patience: epochs without a better loss of the rows held out after which the training ends,
        and takes the best weights back. After half of them the rate falls, to 0.3 of itself.
      noise: standard deviation of normal noise, fresh in every batch of the training, in those of
        the columns. `"auto"` is 0.25 sqrt(columns / rows), at most 0.1, which vanishes as the rows
        become many.
      standardize: whether the flow sees columns of mean 0 and variance 1.
      random_state: seed of weights, batches and the rows held out, as in scikit-learn.
      verbose: that of Keras's `fit`.

    Attributes:
      model_: the trained `keras_nf.FlowModel`, which has exports, draws and latents.
      history_: losses of the epochs, lists by name; `loss` is that of noisy rows.
      n_features_in_: number of columns.
      feature_names_in_: their names, where X was a frame.

    Example:

    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from keras_nf.sklearn import FlowDensity
    >>> x = np.random.default_rng(0).gamma(2.0, size=(200, 2))
    >>> small = {"layers": 2}
    >>> density = FlowDensity("maf", flow_options=small, epochs=2, random_state=0)
    >>> cross_val_score(density, x, cv=2).shape
    (2,)
    >>> density.fit(x).sample(3, random_state=0).shape
    (3, 2)
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None):  # noqa: N803
        """Train on rows.

        Args:
          X: rows of shape `(rows, columns)`, an array or a frame. They become float32 unless the
            flow has another dtype.
          y: ignored.
          sample_weight: weight of each row's -log p(X); rows of weight 0 are left out.

        Returns:
          The estimator.

        Raises:
          ValueError: on a column that is constant, or whose values float32 does not tell apart; on
            missing values, fewer than two rows, or an unknown flow.
        """
        X = validate_data(self, X, dtype="float64", ensure_min_samples=2)  # noqa: N806
        X, weight = weighted(sample_weight, X)  # noqa: N806
        return self._train(X, None, weight, getattr(self, "feature_names_in_", None))

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return log p(X) in nats, of shape `(rows,)`, in the dtype of the flow."""
        check_is_fitted(self)
        return self._log_density(validate_data(self, X, dtype="float64", reset=False))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: N803
        """Return the mean of log p(X), as `GaussianMixture` does; `KernelDensity` has the sum."""
        values = self.score_samples(X).astype("float64")
        return float(np.average(values, weights=sample_weight))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw rows, of shape `(n_samples, columns)`.

        Args:
          n_samples: how many.
          random_state: seed of the draws, as in scikit-learn.
        """
        check_is_fitted(self)
        return self.model_.sample(n_samples, seed=draw_seed(random_state)).numpy()


def weighted(sample_weight, *arrays):
    """Return the rows of arrays whose weight is not 0, and their weights."""
    if sample_weight is None:
        return *arrays, None
    weight = check_array(
        sample_weight, ensure_2d=False, dtype="float64", input_name="sample_weight"
    )
    if weight.shape != arrays[0].shape[:1] or np.any(weight < 0.0):
        raise ValueError(
            f"`sample_weight` must have a weight of at least 0 for each of {len(arrays[0])} rows. "
            f"Received: shape {weight.shape}, least {weight.min():g}."
        )
    kept = weight > 0.0
    if np.sum(kept) < 2:
        raise ValueError(
            "Fewer than two rows have a weight above zero. Sample weights must not all be zero."
        )
    return *(array[kept] for array in arrays), weight[kept]
