"""`check_flow`: a flow against its contract, with a report."""

import functools
import tempfile
import textwrap
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_nf.flow.arguments import check_floating
from keras_nf.flow.contract import Flow
from keras_nf.models.flow_model import FlowModel
from keras_nf.round_trip import both_ways, largest_error, round_trip, to_numpy, tolerance_of
from keras_nf.twin import assign_weights, copy_flow, move_weights

__all__ = ["check_flow"]


class _Subject:
    """A flow and its data; checks run on a copy and on its float64 twin, the flow is only read."""

    def __init__(self, flow, x, condition):
        self.flow, self.x, self.condition = flow, x, condition
        self.own, self.twin, self.notes = flow, flow, []
        self.tolerance = tolerance_of(flow)

    def rows(self, flow, points=None):
        """Return points, by default the data, in a list with their conditions if there are any."""
        parts = [self.x if points is None else points]
        if self.condition is not None:
            parts.append(np.resize(self.condition, (len(parts[0]), self.condition.shape[-1])))
        return [tf.cast(part, flow.dtype) for part in parts]


# A check yields its lines of the report: name, largest error, tolerance, and what to do beyond it.


def _check_shapes(subject):
    flow, (value, *condition) = subject.flow, subject.rows(subject.flow)
    with tf.GradientTape() as tape:
        for name in ("inverse", "forward"):
            # Shapes and dtypes are checked by the call.
            value, log_det = getattr(flow, f"{name}_and_log_det")(value, *condition)
            if not np.isfinite([to_numpy(value).sum(), to_numpy(log_det).sum()]).all():
                raise ValueError(
                    f"Expected finite numbers of `{name}_and_log_det`. Received: NaN or infinity "
                    "among them; pass data where the density is positive."
                )
    yield "shapes, dtypes, finite numbers", 0.0, 0.0, ""
    tracked = {id(weight.value) for weight in flow.weights}
    lost = [v.name for v in tape.watched_variables() if id(v) not in tracked]
    advice = f"these are read, but neither trained nor saved: {', '.join(lost)}. Make weights with "
    advice += "`self.add_weight` in `build`, and keep layers in attributes of the flow."
    yield "weights that are not tracked", len(lost), 0.0, advice


def _check_config(subject):
    flow, rows = subject.flow, subject.rows(subject.flow)
    subject.own, subject.twin = copy_flow(flow, rows), copy_flow(flow, rows, "float64")
    error = max(map(largest_error, both_ways(subject.own, *rows), both_ways(flow, *rows)))
    advice = "`from_config(get_config())` with the same weights makes another flow. Return from "
    advice += "`get_config` what `__init__` takes or draws; keep in weights what changes later."
    yield "config makes the same flow", error, subject.tolerance, advice
    move_weights(subject.own.trainable_weights)
    assign_weights(subject.twin, subject.own)


def _check_round_trips(subject):
    own, twin, size = subject.own, subject.twin, int(np.prod(subject.x.shape[1:]))
    # Autodiff runs rows times components at once.
    rows = int(np.clip(1024 // size, 2, 16))
    to_base, to_data = ("inverse", "forward"), ("forward", "inverse")
    z = to_numpy(both_ways(twin, *subject.rows(twin))[0])
    # Each component takes every value of the range once.
    far = np.tile(np.linspace(-10.0, 10.0, rows)[:, None], size)
    far = np.random.default_rng(0).permuted(far, axis=0).reshape(rows, *z.shape[1:])
    trips = [
        (own, to_base, subject.x, f"data, {own.compute_dtype}"),
        (twin, to_base, subject.x, "data"),
        (twin, to_data, z, "latents"),
        (twin, to_data, far, "far latents"),
    ]
    # A flow in float64 is its own twin.
    for flow, names, points, where in trips[own.compute_dtype == "float64" :]:
        inputs = subject.rows(flow, points[:rows])
        yield from round_trip(flow, names, inputs, where, far=points is far)
    if z.shape == subject.x.shape:
        kept = np.flatnonzero((z == subject.x).reshape(len(z), -1).all(axis=0))
        note = f"components that never change: {', '.join(map(str, kept))}."
        subject.notes += [note] if kept.size else []


def _check_gradients(subject):
    def log_prob():
        z, log_det = subject.twin.inverse_and_log_det(*subject.rows(subject.twin))
        return tf.reduce_sum(log_det) - 0.5 * tf.reduce_sum(z**2)

    with tf.GradientTape() as tape:
        before = log_prob()
    weights, wrong = subject.twin.trainable_weights, []
    gradients = tape.gradient(before, [weight.value for weight in weights])
    for weight, gradient in zip(weights, gradients):
        gradient = np.nan if gradient is None else to_numpy(gradient)
        if np.any(gradient) and np.isfinite(gradient).all():
            continue
        # Zero is right where nothing depends on the weight, such as a kernel masked altogether.
        move_weights([weight])
        idle = not np.any(gradient) and log_prob() == before
        assign_weights(subject.twin, subject.own)
        note = f"the density does not depend on {weight.path}."
        subject.notes += [note] if idle else []
        wrong += [] if idle else [weight.path]
    advice = f"none, zero, or not finite: {', '.join(wrong)}. Use each weight in both directions."
    yield "weights without a gradient", len(wrong), 0.0, advice


def _in_batch(parts, batch):
    count = np.prod(batch, dtype=int)
    return [tf.reshape(part[:count], (*batch, *part.shape[1:])) for part in parts]


def _check_calls(subject):
    flow, inputs = subject.own, subject.rows(subject.own)
    eager = functools.partial(both_ways, flow)
    rows, expected = len(inputs[0]), eager(*inputs)
    # Of unknown batch size, and without AutoGraph, as Keras traces a layer.
    signature = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in inputs]
    graph = tf.function(eager, signature, autograph=False)
    advice = "shapes or numbers are not those of a batch, eagerly. Write both directions for any "
    advice += "number of batch axes, also none, and keep no Python state between calls."
    for name, batch, call in [
        ("a single event", (), eager),
        ("two batch axes", (2, rows // 2), eager),
        ("tf.function", (rows,), graph.get_concrete_function()),
    ]:
        outputs, right = call(*_in_batch(inputs, batch)), _in_batch(expected, batch)
        same = all(a.shape == b.shape for a, b in zip(outputs, right))
        error = max(map(largest_error, outputs, right)) if same else np.inf
        yield name, error, subject.tolerance, advice


def _check_file(subject):
    flow, inputs = subject.own, subject.rows(subject.own)
    for weight in flow.non_trainable_weights:
        weight.assign(1.01 * weight + 0.01 if "float" in weight.dtype else weight)
    model = FlowModel(flow)
    model(dict(zip(("x", "condition"), inputs)) if flow.uses_condition else inputs[0])
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/flow.keras")
        loaded = keras.models.load_model(f"{folder}/flow.keras").flow
    sides = ([*f.weights, *both_ways(f, *inputs)] for f in (loaded, flow))
    advice = "the loaded flow has other weights, or gives other numbers. Make weights in `build`, "
    advice += "and build there the layers that the flow holds."
    error = max(map(largest_error, *sides))
    yield "a .keras file loads the same flow", error, subject.tolerance, advice


_GROUND = (_check_shapes, _check_config)
_CHECKS = (*_GROUND, _check_round_trips, _check_gradients, _check_calls, _check_file)


def _report(title, lines, notes):
    """Return the table of all lines, with what to do about those that failed, and the notes."""
    failed = [line for line in lines if not line[1] <= line[2]]
    report = [f"{title}: {len(failed)} of {len(lines)} checks failed.", ""]
    report.append(f"{'check':<48}{'error':>9}{'tolerance':>11}")
    for name, error, tolerance, _ in lines:
        result = "ok" if error <= tolerance else "FAILED"
        report.append(f"{name:<48}{error:>9.1e}{tolerance:>11.1e}  {result}")
    remarks = [*(f"{line[0]}: {line[3]}" for line in failed), *(f"note: {note}" for note in notes)]
    report += ["", *(textwrap.fill(f"- {r}", 96, subsequent_indent="  ") for r in remarks)]
    return "\n".join(report).rstrip(), bool(failed)


def check_flow(flow: Flow, x: Any, condition: Any = None) -> str:
    """Check a flow against its contract, on a batch of data.

    The checks run on copies of the flow, made of its config, one of them in float64. Their weights
    are moved a little, since much is hidden at a special point such as a last layer of zeros.

    - Values and log-determinants are finite, and of the right shape and dtype.
    - f(f^{-1}(x)) = x and f^{-1}(f(z)) = z, in float64 also for z in [-10, 10], far from the data;
      the table says how many of these lie in the domain, and are not mapped together by rounding.
    - log|det dx/dz| and log|det dz/dx| are those of the Jacobian of autodiff, and cancel.
    - Each trained weight has a gradient from the density, finite and not zero.
    - Each variable read is a weight of the flow; its config and a `.keras` file make the same flow.
    - Single events, more batch axes and `tf.function` give the numbers of an eager batch.

    Errors are |a - b| / (1 + |b|), in a round trip less what rounding of the image explains. The
    tolerance, the root of the machine epsilon (1.5e-8 in float64, 3.5e-4 in float32), leaves half
    of the digits to rounding and steep maps. The flow keeps its weights; no file remains.

    Args:
      flow: the flow.
      x: data of shape `(..., event_size)`, at least two rows, of which the first 64 are used.
      condition: `None`, or conditions of shape `(..., condition_size)`, broadcast to the batch.

    Returns:
      The report, to print: a table of the largest errors, and notes, as on components that never
      change, which another flow in a chain has to move.

    Raises:
      ValueError: with the report, and what to do, if a check fails; on data of a wrong shape.

    Example:

    >>> import numpy as np, keras_nf
    >>> x = np.random.default_rng(0).normal(size=(16, 2)).astype("float32")
    >>> print(keras_nf.check_flow(keras_nf.AffineCoupling(name="coupling"), x))
    AffineCoupling 'coupling': 0 of 24 checks failed.
    ...
    - note: components that never change: 0.
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"`flow` must be a keras_nf flow. Received: {flow!r}.")
    x = np.asarray(x)
    batch = x.shape[: x.ndim - flow.inverse_min_event_ndims]
    check_floating(flow, x)
    if np.prod(batch) < 2:
        raise ValueError(
            f"`x` must hold at least two events. Received: shape {x.shape}, {x.dtype}."
        )
    if condition is not None:
        shape = (*batch, np.shape(condition)[-1])
        condition = np.broadcast_to(condition, shape).reshape(-1, shape[-1])[:64]
    subject = _Subject(flow, x.reshape(-1, *x.shape[len(batch) :])[:64], condition)
    lines, cause = [], None
    for check in _CHECKS:
        try:
            lines += check(subject)
        except Exception as error:
            cause = error
            # Keras puts the reason last, behind the whole config.
            reason = str(error).split("Exception encountered: ")[-1]
            advice = textwrap.shorten(f"{type(error).__name__}: {reason}", 400)
            name = check.__name__.split("_", 2)[-1].replace("_", " ")
            lines.append((f"{name} cannot be checked", np.inf, 0.0, advice))
            if check in _GROUND:
                subject.notes.append("the checks after that one need it, and were not run.")
                break
    report, failed = _report(f"{type(flow).__name__} '{flow.name}'", lines, subject.notes)
    if failed:
        raise ValueError(report) from cause
    return report
