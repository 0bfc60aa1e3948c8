"""Subject: a model and rows of data, with what several diagnostics need of them."""

import functools

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import batch_shape
from keras_nf.diagnostics.statistics import normal_quantile
from keras_nf.flow.distribution import ConditionalBase
from keras_nf.plot.figures import check_model
from keras_nf.round_trip import round_trip, with_jacobian
from keras_nf.seeds import two_seeds
from keras_nf.twin import copy_flow

__all__ = ["LARGEST", "Subject", "places", "seeds"]

# Components of an event, up to which its Jacobian is computed.
LARGEST = 1024
_LEAST_ROWS = 20
# Bounds the memory that draws take.
_NUMBERS = 4_000_000
_RANKED = 100
# Draws are none of those that a user makes with a seed of the same number.
_SALT = 982_451_653


class Subject:
    """A model with rows of data, of which conditions are encoded and latents computed once.

    Integers, where the flow takes them, get uniform noise, as in training.
    """

    def __init__(self, model, x, condition=None):
        check_model(model)
        x = np.asarray(x)
        if x.dtype.kind in "iub" and model.flow.takes_integers:
            x = x + np.random.default_rng(0).uniform(-0.5, 0.5, x.shape)
        if not model.built:
            model.log_prob(x, condition)
        self.flow, self.distribution = model.flow, model.distribution
        event_shape = tuple(self.distribution.event_shape)
        if x.shape[1:] != event_shape or len(x) < _LEAST_ROWS:
            raise ValueError(
                f"Expected data of shape {batch_shape(event_shape)}, of at least {_LEAST_ROWS} "
                f"rows. Received: shape {x.shape}."
            )
        self.x = tf.cast(x, self.flow.dtype)
        self.rows, self.size = len(x), int(np.prod(event_shape))
        self.condition = self._broadcast(model.encode(condition))

    def _broadcast(self, condition):
        if condition is None or condition.shape.rank > 2:
            return condition
        return tf.broadcast_to(condition, (self.rows, condition.shape[-1]))

    @functools.cached_property
    def base(self):
        """The distribution of the latents, given the conditions of the rows if it has some."""
        base = self.distribution.distribution
        return base.given(self.condition) if isinstance(base, ConditionalBase) else base

    @functools.cached_property
    def latents(self):
        return self.flow.inverse(self.x, condition=self.condition)

    @functools.cached_property
    def lost(self):
        """The number of rows whose latents are not finite."""
        finite = np.isfinite(np.reshape(self.latents, (self.rows, -1))).all(axis=1)
        return int(np.sum(~finite))

    def finite_latents(self):
        if self.lost:
            raise ValueError(
                f"The latents of {self.lost} of {self.rows} rows are not finite: the rows lie "
                "where the model has no density, or a direction overflows. Remove them, or widen "
                "the interval of a Logit."
            )
        return self.latents

    @functools.cached_property
    def components(self):
        """The distributions of the components of a base where they are independent, or `None`."""
        base = self.base
        if isinstance(base, tfd.Independent) and base.distribution.event_shape.rank == 0:
            return base.distribution
        return None

    @functools.cached_property
    def uniforms(self):
        """What the distribution functions of the base make of the latents, per component.

        Of a base whose components depend on each other, ranks among draws, at random places
        between them, are as uniform.
        """
        z = self.finite_latents()
        if self.components is not None:
            u = np.asarray(self.components.cdf(z), "float64")
            return u.reshape(self.rows, -1)
        parts = getattr(self.base, "components_distribution", None)
        if isinstance(self.base, tfd.MixtureSameFamily) and isinstance(parts, tfd.Independent):
            return np.asarray(_below_in_mixture(self.base, z), "float64").reshape(self.rows, -1)
        number = int(np.clip(_NUMBERS // (self.rows * self.size), 20, _RANKED))
        own = self.base.batch_shape.rank > 0
        shape = (number,) if own else (number, self.rows)
        draws = np.asarray(self.base.sample(shape, seed=seeds(0)))
        return places(draws, np.asarray(z), 0).reshape(self.rows, -1)

    @functools.cached_property
    def scores(self):
        """The normal scores of the latents: standard normal numbers under a right model."""
        if isinstance(self.components, tfd.Normal):
            z = (self.finite_latents() - self.components.loc) / self.components.scale
            return np.asarray(z, "float64").reshape(self.rows, -1)
        return normal_quantile(self.uniforms)

    def draws(self, number, seed):
        """Yield slices of the rows, and draws for each row."""
        step = max(1, _NUMBERS // (number * self.size))
        for index, start in enumerate(range(0, self.rows, step)):
            part = slice(start, start + step)
            options = {"seed": seeds(seed, index), "condition": self.condition[part]}
            yield part, self.distribution.sample(number, **options)

    def events(self, number, points=None):
        """Return some of the rows as events of the flow, with their conditions if there are any.

        Of a base with more axes than the flow acts on, each position is an event.
        """
        points = self.x if points is None else points
        shape = points.shape[points.shape.rank - self.flow.event_ndims :]
        positions = points.shape[1 : points.shape.rank - self.flow.event_ndims].num_elements()
        events = [tf.reshape(points, (-1, *shape))]
        if self.condition is not None:
            condition = self.condition
            if condition.shape.rank == 2:
                condition = tf.repeat(condition, positions, axis=0)
            events.append(tf.reshape(condition, (-1, condition.shape[-1])))
        chosen = np.unique(np.linspace(0, len(events[0]) - 1, number).astype(int))
        return [tf.gather(part, chosen) for part in events]

    @functools.cached_property
    def twin(self):
        """The flow in float64 and rows to compute Jacobians of, or the flow if it has no copy."""
        size = int(np.prod(self.flow.event_shape))
        if size > LARGEST:
            raise ValueError(
                f"Jacobians are computed of events of up to {LARGEST} components. Received: "
                f"{size}. Check a smaller flow of the same layers."
            )
        events = self.events(int(np.clip(1024 // size, 2, 16)))
        try:
            flow = copy_flow(self.flow, events, "float64")
        except Exception:
            flow = self.flow
        return flow, [tf.cast(part, flow.dtype) for part in events]

    @functools.cached_property
    def jacobians(self):
        """Those of the inverse, for a few rows."""
        flow, events = self.twin
        return with_jacobian(flow.inverse_and_log_det, *events)[2]

    @functools.cached_property
    def log_dets(self):
        """Lines on the log-determinants of both directions, against autodiff, for a few rows."""
        flow, events = self.twin
        lines = list(round_trip(flow, ("inverse", "forward"), events, "data"))
        return lines[1:3]


def seeds(seed, index=0):
    """Return a pair of seeds for draws of a diagnostic, of the block of rows of an index."""
    return two_seeds(((_SALT + seed) % 2**31, index))


def _below_in_mixture(mixture, z):
    """Return the distribution functions of the components of an event, each of a mixture."""
    parts = mixture.components_distribution.distribution
    axes = mixture.event_shape.rank
    weights = mixture.mixture_distribution.probs_parameter()
    weights = tf.reshape(weights, (*weights.shape, *[1] * axes))
    return tf.reduce_sum(weights * parts.cdf(tf.expand_dims(z, -1 - axes)), axis=-1 - axes)


def places(draws, values, seed):
    """Return where values lie among draws, between 0 and 1, at random between two draws.

    Args:
      draws: array with an axis of the draws before those of `values`.
      values: array of numbers, one for all draws at its place.
      seed: seed of the places.
    """
    below, equal = np.sum(draws < values, axis=0), np.sum(draws == values, axis=0)
    noise = np.random.default_rng(seed).random(below.shape)
    return (below + noise * (equal + 1.0)) / (len(draws) + 1.0)
