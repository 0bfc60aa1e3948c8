"""VariationalModel: a flow fitted to an unnormalized density."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import batch_shape
from keras_nf.base import Base, is_conditional
from keras_nf.flow.arguments import title
from keras_nf.flow.contract import Flow
from keras_nf.models.density import DensityModel
from keras_nf.models.replicas import as_one_batch
from keras_nf.seeds import two_seeds
from keras_nf.training import PhaseCall

__all__ = ["VariationalModel"]


@keras.saving.register_keras_serializable("keras_nf")
class VariationalModel(DensityModel):
    """Density q of a flow and a base, fitted to an unnormalized density p by its own draws.

    `fit` maximizes the bound E_q[ln p(x) - ln q(x)] <= ln Z, with Z the integral of p, which is
    the same as to minimize the divergence KL(q || p / Z), the gap of the bound. There are no data.
    Each step draws x = f(z), z ~ base, and follows the gradient through the draws, so that
    `target_log_prob` must be differentiable. The sampling direction alone is used: `Planar`,
    `InverseAutoregressive` and couplings are cheap, `MaskedAutoregressive` is sequential.

    Each epoch reports `bound`, in nats, and `loss`, E_q[ln q(x) - beta ln p(x)], where beta is the
    inverse temperature; both are means over its draws. Where beta is 1, the loss is minus the
    bound. `log_prob`, `sample`, `distribution`, `predict`, `save` and `export` are those of q, as
    in a `FlowModel`.

    Args:
      flow: the flow, or a `Chain` of flows, with a known `event_size`. `Scaling(use_shift=True)` as
        the first of a chain trains the mean and the scale of a normal base.
      target_log_prob: function that takes x, of shape `(batch, event_size)`, and returns ln p(x),
        of shape `(batch,)`, in nats; any constant may be missing. Register it with
        `keras.saving.register_keras_serializable` so that the model can be saved.
      base: distribution of z; see `FlowModel`.
      **kwargs: `name`, `dtype` (the flow's unless given) and `trainable`, as for any Keras model.

    Raises:
      ValueError: if the flow is no flow, its event size is not known, the base is unknown, or the
        target is no function; in training, if the target returns another shape or the flow
        needs a condition.

    Example:

    >>> import keras_nf
    >>> flow = keras_nf.planar_flow(event_size=2, layers=8)
    >>> model = keras_nf.VariationalModel(flow, lambda x: -keras_nf.datasets.u1(x))
    >>> model.compile("adam")
    >>> history = model.fit(batch_size=64, steps_per_epoch=10, epochs=2, verbose=0)
    >>> sorted(history.history)
    ['bound', 'loss']

    References:
      Danilo Jimenez Rezende, Shakir Mohamed. Variational Inference with Normalizing Flows. 2015.
      arXiv:1505.05770
    """

    _FUNCTIONS = ("base", "target_log_prob")

    def __init__(
        self,
        flow: Flow,
        target_log_prob: Callable[[Any], Any],
        base: str | Base | Callable[[Any], tfd.Distribution] = "normal",
        **kwargs: Any,
    ) -> None:
        if not callable(target_log_prob):
            raise ValueError(
                "`target_log_prob` must be a function of x that returns ln p(x). Received: "
                f"{target_log_prob!r}."
            )
        if kwargs.pop("encoder", None) is not None:
            raise ValueError(
                "VariationalModel fits one density without a condition and takes no `encoder`. "
                "Leave it out; amortize over data with flows in a keras.Model of your own."
            )
        super().__init__(flow, base, **kwargs)
        if is_conditional(base):
            raise ValueError(
                "VariationalModel fits one density without a condition. Received: the conditional "
                f"base {base!r}. Leave `conditional` out."
            )
        if flow.event_shape is None:
            raise ValueError(
                f"The event size of {title(flow)} is not known, and no data will tell it. Give it "
                "to the flow, as in keras_nf.Chain([...], event_size=2), or build the flow."
            )
        self.target_log_prob = target_log_prob
        self._bound_tracker = keras.metrics.Mean(name="bound")
        self.build((None, *flow.data_shape))

    def compile(self, optimizer="adam", *, inverse_temperature=1.0, **kwargs):
        """Configure training: `keras.Model.compile` without a loss and metrics.

        Args:
          optimizer: optimizer or its name.
          inverse_temperature: beta, a number, or a `keras.optimizers.schedules` schedule of the
            optimizer's steps, which anneals it: `PolynomialDecay(0.01, 10_000, 1.0)` rises from
            0.01 to 1 in 10,000 steps, as Rezende and Mohamed do.
          **kwargs: the other arguments of `keras.Model.compile`.

        Raises:
          ValueError: on a loss or metrics.
        """
        for name in ("loss", "metrics", "weighted_metrics"):
            if kwargs.pop(name, None):
                raise ValueError(
                    f"VariationalModel maximizes a bound on its own draws and takes no {name}. "
                    "Leave it out."
                )
        super().compile(optimizer, **kwargs)
        self.inverse_temperature = inverse_temperature

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        for name in ("metrics", "weighted_metrics"):
            del config[name]
        schedule = keras.saving.serialize_keras_object(self.inverse_temperature)
        return {**config, "inverse_temperature": schedule}

    def fit(self, *, batch_size=256, steps_per_epoch=100, epochs=1, seed=None, **kwargs):
        """Maximize the bound: `keras.Model.fit` on the model's own draws.

        The draws of a step follow from the seed and the number of steps that the optimizer has
        made, and with `mixed_float16` from the scale of the loss, so that a run which was
        interrupted goes on as it would have. XLA, which Keras uses unless `compile` says otherwise,
        has generators of its own, with other draws.

        Args:
          batch_size: draws in each step.
          steps_per_epoch: steps from one report to the next.
          epochs: number of epochs.
          seed: integer, or two of them, which fix the draws; `None` draws a seed, which
            `keras.utils.set_random_seed` makes reproducible.
          **kwargs: the other arguments of `keras.Model.fit` that need no data.

        Returns:
          A `keras.callbacks.History` of `loss` and `bound`.

        Raises:
          ValueError: on data.
        """
        for name in ("x", "y", "sample_weight", "class_weight", "validation_data"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(
                    f"VariationalModel fits the density `target_log_prob` and takes no {name}. Use "
                    "FlowModel to fit data."
                )
        self._build_optimizer()
        draws = _draws(seed, batch_size, steps_per_epoch)
        return super().fit(draws, epochs=epochs, shuffle=False, **kwargs)

    def evaluate(self, *, batch_size=256, steps=100, seed=None, **kwargs):
        """Estimate the bound with beta = 1: `keras.Model.evaluate` on the model's own draws.

        Args:
          batch_size: draws in each step.
          steps: number of steps.
          seed: integer, or two of them, which fix the draws; `None` draws a seed.
          **kwargs: the other arguments of `keras.Model.evaluate` that need no data.

        Returns:
          The loss and the bound, in nats, or with `return_dict=True` a dictionary of them.
        """
        return super().evaluate(_draws(seed, batch_size, steps), **kwargs)

    def _log_probs(self, draws, step):
        """Return ln q and ln p of a draw for each row of numbers; see `_draws`."""
        fold_in = tf.random.experimental.stateless_fold_in
        seed = fold_in(fold_in(draws[0, :2], draws[0, 2]), step)
        x, log_q = self.distribution.experimental_sample_and_log_prob(tf.shape(draws)[0], seed=seed)
        log_p = tf.convert_to_tensor(self.target_log_prob(x))
        if log_p.shape.rank != 1:
            raise ValueError(
                "`target_log_prob` must return a number for each draw, of shape (batch,). "
                f"Received: shape {tuple(log_p.shape)} for draws of shape "
                f"{batch_shape(self.flow.data_shape)}."
            )
        return log_q, tf.cast(log_p, log_q.dtype)

    def train_step(self, draws):
        step = tf.cast(self.optimizer.iterations, tf.int32)
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # A skipped step does not count, but halves the scale; the same draws would fail again.
            step += tf.bitcast(tf.convert_to_tensor(self.optimizer.dynamic_scale), tf.int32)
        beta = self.inverse_temperature
        beta = beta(self.optimizer.iterations) if callable(beta) else beta
        log_probs = PhaseCall(lambda draws: self._log_probs(draws, step))
        with tf.GradientTape() as tape:
            log_q, log_p = log_probs(draws, training=True)
            loss = ops.mean(log_q - ops.cast(beta, log_q.dtype) * log_p)
            # The gradients of the replicas are added.
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
            share = as_one_batch(share, tf.shape(draws)[0])
            objective = self.optimizer.scale_loss(share)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(objective, weights), weights))
        return self._report(loss, log_p - log_q)

    def test_step(self, draws):
        log_q, log_p = self._log_probs(draws, draws[0, 3])
        return self._report(ops.mean(log_q - log_p), log_p - log_q)

    def _report(self, loss, bounds):
        trackers = {tracker.name: tracker for tracker in self.metrics}
        trackers["loss"].update_state(loss, sample_weight=tf.shape(bounds)[0])
        self._bound_tracker.update_state(bounds)
        return self.get_metrics_result()


def _draws(seed, batch_size, steps):
    """Dataset of batches of draws to be made: for each the seed, its place, and its step.

    Replicas get different places. Training counts the optimizer's steps instead; those here are
    negative, so that evaluation never sees draws of the training.
    """

    def described(numbers):
        numbers = numbers[:, None]
        columns = numbers % batch_size, -1 - numbers // batch_size
        columns = [tf.cast(column, tf.int32) for column in columns]
        return tf.concat([tf.zeros_like(columns[0]) + pair, *columns], axis=1)

    pair = two_seeds(seed)
    numbers = tf.data.Dataset.range(steps * batch_size)
    return numbers.batch(batch_size, drop_remainder=True).map(described)
