"""What the estimators share: parameters, preparation of rows, training, files."""

import contextlib
import pathlib
import random
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from keras_nf.flow.contract import Flow
from keras_nf.flows.chain import Chain
from keras_nf.flows.diagonal import Standardize
from keras_nf.inputs import join_inputs, split_inputs
from keras_nf.models.flow_model import FlowModel
from keras_nf.models.pipeline import make_batches
from keras_nf.recipes import iaf, maf, nice, nsf, planar_flow, real_nvp

__all__ = ["FlowEstimator", "draw_seed", "dtype_of", "moments", "standardizer"]

_RECIPES = {f.__name__: f for f in (iaf, maf, nice, nsf, planar_flow, real_nvp)}
# Rows of a prediction at a time.
_ROWS = 1000


class FlowEstimator(BaseEstimator):
    """A `FlowModel` with scikit-learn's conventions; `FlowDensity` documents the parameters."""

    def __init__(
        self,
        flow: str | Callable[..., Flow] = "nsf",
        *,
        flow_options: dict[str, Any] | None = None,
        epochs: int = 200,
        batch_size: int | str = "auto",
        learning_rate: float = 1e-3,
        validation_fraction: float = 0.1,
        patience: int = 20,
        noise: float | str = "auto",
        standardize: bool = True,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.flow = flow
        self.flow_options = flow_options
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.noise = noise
        self.standardize = standardize
        self.random_state = random_state
        self.verbose = verbose

    def _train(self, x, condition, weight, names):
        """Make the model and train it on rows of float64, of which none has weight 0."""
        rng = check_random_state(self.random_state)
        train, held_out = self._split(x, condition, weight, rng)
        with _seed_of_keras(draw_seed(rng)):
            mean, std = moments(*train)
            flow = self._make_flow(x.shape[1])
            _check_columns(split_inputs(train[0])[0], std, dtype_of(flow), names)
            self.model_ = self._make_model(flow, mean, std, train)
            train, held_out = (part and _cast(part, self._dtype) for part in (train, held_out))
            self.history_ = self._run(train, held_out, std, rng)
        return self

    @property
    def _dtype(self):
        return dtype_of(self.model_.flow)

    def _split(self, x, condition, weight, rng):
        """Return the rows to train with and those to stop by, each with weights of mean 1."""
        weight = np.ones(len(x)) if weight is None else weight
        fraction = self.validation_fraction
        if not 0.0 <= fraction < 1.0:
            raise ValueError(f"`validation_fraction` must be in [0, 1). Received: {fraction!r}.")
        held_out = min(max(round(fraction * len(x)), 1), len(x) - 2) if fraction else 0
        order = rng.permutation(len(x)) if held_out > 0 else np.arange(len(x))

        def part(rows):
            inputs = join_inputs(x[rows], None if condition is None else condition[rows])
            return inputs, weight[rows] / np.mean(weight[rows])

        return part(order[held_out:]), part(order[:held_out]) if held_out > 0 else None

    def _make_flow(self, event_size):
        options = self.flow_options or {}
        recipe = self.flow if callable(self.flow) else _RECIPES.get(self.flow)
        if recipe is None:
            raise ValueError(
                f"`flow` must be one of {', '.join(map(repr, _RECIPES))}, or a function of the "
                f"event size that returns a flow. Received: {self.flow!r}."
            )
        return recipe(event_size, **options)

    def _make_model(self, flow, mean, std, train):
        """Return the model, whose flows have adapted to the data."""
        x, condition = split_inputs(train[0])
        policy = flow.dtype_policy
        encoder = self._make_encoder(condition, train[1], policy)
        inner = flow
        if self.standardize:
            flow = Chain([flow, standardizer(mean, std, policy)], dtype=policy)
        model = FlowModel(flow, encoder=encoder)
        if not inner.adapted:
            x = (x - mean) / std if self.standardize else x
            condition = None if condition is None else model.encode(condition)
            inner.adapt(x if condition is None else {"x": x, "condition": condition})
        return model

    def _make_encoder(self, condition, weight, policy):
        return None

    def _run(self, train, held_out, std, rng):
        """Train, stop where rows held out ask for it, and return the losses of the epochs."""
        rows = len(train[1])
        size = self.batch_size
        if size == "auto":
            size = int(np.clip(rows // 50, 32, 512))
        inputs, weight = train
        batches = make_batches((inputs, weight, weight), size, draw_seed(rng))
        noise = self._noise(rows, std.size)
        if noise > 0.0:
            batches = _with_noise(batches, noise * std, draw_seed(rng))
        rate, callbacks = self.learning_rate, []
        if held_out is None:
            rate = keras.optimizers.schedules.CosineDecay(rate, self.epochs * len(batches))
        else:
            waits = {"patience": self.patience, "restore_best_weights": True}
            callbacks = [
                keras.callbacks.ReduceLROnPlateau(factor=0.3, patience=max(self.patience // 2, 1)),
                keras.callbacks.EarlyStopping(**waits),
            ]
        self.model_.compile(keras.optimizers.Adam(rate))
        history = self.model_.fit(
            batches,
            validation_data=held_out and (held_out[0], None, held_out[1]),
            validation_batch_size=_ROWS,
            epochs=self.epochs,
            callbacks=callbacks,
            verbose=self.verbose,
        )
        return {name: [float(v) for v in values] for name, values in history.history.items()}

    def _noise(self, rows, columns):
        if self.noise == "auto":
            return min(0.1, 0.25 * np.sqrt(columns / rows))
        return float(self.noise)

    def _log_density(self, inputs):
        """Return log-densities as an array of the dtype of the flow."""
        (inputs, _), parts = _cast((inputs, None), self._dtype), []
        x, condition = split_inputs(inputs)
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            part = None if condition is None else condition[rows]
            parts.append(self.model_.log_prob(x[rows], part).numpy())
        return np.concatenate(parts)

    def __getstate__(self):
        state = {**super().__getstate__()}
        if "model_" in state:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "model.keras")
                self.model_.save(path)
                state["model_"] = path.read_bytes()
        return state

    def __setstate__(self, state):
        if isinstance(state.get("model_"), bytes):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "model.keras")
                path.write_bytes(state["model_"])
                state = {**state, "model_": keras.saving.load_model(path)}
        super().__setstate__(state)


def dtype_of(flow):
    """Return the dtype in which a flow computes, as NumPy's."""
    return tf.as_dtype(flow.dtype).as_numpy_dtype


def draw_seed(random_state):
    """Return a seed from what scikit-learn takes as a random state."""
    return int(check_random_state(random_state).randint(2**31 - 1))


def moments(inputs, weight):
    """Return the weighted mean and standard deviation of the columns that are modelled."""
    x = split_inputs(inputs)[0]
    mean = np.average(x, axis=0, weights=weight)
    return mean, np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))


def standardizer(mean, std, policy):
    standardize = Standardize(dtype=policy)
    # Two rows that have this mean and this deviation, which may be those of weighted rows.
    standardize.adapt(np.stack([mean - std, mean + std]))
    return standardize


@contextlib.contextmanager
def _seed_of_keras(seed):
    """Seed Python's generator, from which Keras and keras_nf draw, and put it back as it was."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _cast(part, dtype):
    """Return inputs in the dtype of the flow, and their weights: float64 ends here."""
    x, condition = split_inputs(part[0])
    condition = None if condition is None else condition.astype(dtype)
    return join_inputs(x.astype(dtype), condition), None if part[1] is None else part[1].astype(
        dtype
    )


def _with_noise(batches, deviations, seed):
    """Add fresh normal noise to the events of each batch of (inputs, weight, weight)."""
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)

    def add(batch, seed):
        x, condition = split_inputs(batch[0])
        scale = tf.constant(deviations, x.dtype)
        noise = scale * tf.random.stateless_normal(tf.shape(x), seed, dtype=x.dtype)
        return (join_inputs(x + noise, condition), *batch[1:])

    return tf.data.Dataset.zip((batches, seeds)).map(add)


def _check_columns(x, std, dtype, names):
    """Refuse columns that are constant, or would be in the dtype of the flow."""
    steps = np.spacing(np.abs(x).max(axis=0).astype(dtype))
    for column in np.flatnonzero(~(std > 64.0 * steps)):
        name = names[column] if names is not None else column
        if np.ptp(x[:, column]) == 0.0:
            raise ValueError(
                f"Column {name} is constant, {x[0, column]:g} in all rows, and has no density. "
                "Drop it."
            )
        raise ValueError(
            f"Column {name} has a standard deviation of {std[column]:g} about {x[0, column]:g}, "
            f"which {np.dtype(dtype).name} tells apart badly. Subtract its mean, or pass "
            'flow_options={"dtype": "float64"}.'
        )
