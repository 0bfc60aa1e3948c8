"""Recomputation: gradients for which flows keep their last output, and find their inputs again."""

import contextlib
import contextvars
import itertools

import keras
import tensorflow as tf
from tensorflow.python.eager import record

from keras_nf.flow.arguments import title
from keras_nf.layout import differentiable_once, is_portable, refuse_forward_mode
from keras_nf.training import PhaseCall, TrainingPhase

__all__ = ["recomputing", "walk"]

_CHAIN = "A chain that recomputes"
_INSTEAD = "a chain without `recompute`, which has all"

_wanted = contextvars.ContextVar("wanted", default=False)


@contextlib.contextmanager
def recomputing(wanted):
    """Within this context `walk` recomputes, if that is wanted here or around."""
    token = _wanted.set(wanted or _wanted.get())
    try:
        yield
    finally:
        _wanted.reset(token)


def walk(step, back, flows, x, condition):
    """Run flows one after the other.

    Args:
      step: function of a flow, what it maps, and the condition, that runs a direction of the flow.
      back: the same for the opposite direction.
      flows: the flows, in the order in which they are run.
      x: what the first one maps.
      condition: `None`, or a tensor.

    Returns:
      What the last flow gives, and the sum of the log-determinants.
    """
    # What runs elsewhere has no gradient.
    recomputes, total = _wanted.get() and not is_portable(), 0.0
    for is_recomputed, group in itertools.groupby(flows, lambda f: recomputes and f.recomputable):
        if is_recomputed:
            x, log_det = _walk_and_recompute(step, back, list(group), x, condition)
            total = total + log_det
            continue
        for flow in group:
            x, log_det = step(flow, x, condition)
            total = total + log_det
    return x, total


def _unique(variables):
    return list({id(variable): variable for variable in variables}.values())


def _walk_and_recompute(step, back, flows, x, condition):
    """Do what `walk` does, with a gradient that recomputes the input of each flow.

    Every weight is read once. All that follows sees these values, in scopes: what the networks of
    the flows are, only they know.
    """
    trained = _unique(v for flow in flows for v in flow.trainable_variables)
    variables = _unique([*trained, *(v for flow in flows for v in flow.variables)])
    values = PhaseCall(lambda _: [tf.convert_to_tensor(v) for v in variables])(x)
    weights, others = values[: len(trained)], values[len(trained) :]
    places = {id(variable): i for i, variable in enumerate(variables)}
    own = [[(v, places[id(v)]) for v in _unique(flow.variables)] for flow in flows]
    conditions = [] if condition is None else [condition]
    in_training = TrainingPhase()(x)

    def scope(own, weights):
        known = [*weights, *others]
        known = [(variable, known[place]) for variable, place in own]
        return keras.StatelessScope(known, collect_losses=True, initialize_variables=False)

    def run(x, conditions, weights):
        total = 0.0
        for flow, variables in zip(flows, own):
            with scope(variables, weights) as state:
                known = dict(state.state_mapping)
                x, log_det = step(flow, x, *conditions or [None])
            _check_is_pure(flow, state, known)
            total = total + log_det
        return x, total

    def pull_back(y, conditions, weights, bars):
        """Return the gradients with respect to x, the conditions and the weights."""
        bar, of_log_det = bars
        totals = [tf.zeros_like(tensor) for tensor in (*conditions, *weights)]
        done = []
        for flow, variables in zip(reversed(flows), reversed(own)):
            places = [place for _, place in variables if place < len(weights)]
            y, *conditions = _after([bar, of_log_det], done, [y, *conditions])
            with scope(variables, weights):
                x, _ = back(flow, y, *conditions or [None])
                sources = [*conditions, *(weights[i] for i in places)]
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([x, *sources])
                    results = step(flow, x, *conditions or [None])
            bar, *gradients = tape.gradient(
                results, [x, *sources], [bar, of_log_det], unconnected_gradients="zero"
            )
            places = [*range(len(conditions)), *(len(conditions) + i for i in places)]
            for i, gradient in zip(places, gradients):
                totals[i] += gradient
            y, done = x, [totals[i] for i in places]
        return bar, *totals

    @tf.custom_gradient
    def walk_on(x, conditions, weights):
        with record.stop_recording():
            y, log_det = PhaseCall(lambda x: run(x, conditions, weights))(x)

        def gradient(*bars):
            # The tapes see tensors of this graph alone, which may be that of a loop's gradient.
            known = tf.nest.map_structure(tf.identity, (y, conditions, weights, bars))
            gradients = PhaseCall(lambda y: pull_back(y, *known[1:]))(
                known[0], training=in_training
            )
            return differentiable_once(_CHAIN, gradients, _INSTEAD)

        return (y, log_det), gradient

    refuse_forward_mode(_CHAIN, [x, *conditions, *weights])
    return walk_on(x, conditions, weights)


def _check_is_pure(flow, state, known):
    """Refuse a flow that has changed something, or would compute something else the next time."""
    is_changed = any(known.get(key) is not value for key, value in state.state_mapping.items())
    if is_changed or state.losses:
        raise ValueError(
            f"{title(flow)} draws random numbers, changes a state or adds a loss, as dropout, "
            "batch normalization and activity regularizers do in training, so that a chain cannot "
            "recompute it. Leave these layers out of its network, or `recompute=True` out of the "
            "chain."
        )


def _after(bars, others, tensors):
    """Return tensors, in a graph not before others are computed: what is early takes memory.

    XLA drops the control dependencies; that it has to wait for the bars it cannot know to be vain.
    """
    if tf.executing_eagerly():
        return tensors
    firsts = tf.concat([tf.reshape(bar, [-1])[:1] for bar in bars], axis=0)
    never = tf.reduce_any(tf.math.is_nan(firsts) & (firsts > 0.0))
    with tf.control_dependencies(others):
        return [tf.where(never, tf.zeros([], tensor.dtype), tensor) for tensor in tensors]
