"""`check_flow`: a flow against its contract, with a report."""

import pathlib
import tempfile
import textwrap
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_nf.flow import Flow
from keras_nf.model import FlowModel
from keras_nf.round_trip import largest_error, round_trip, to_numpy, tolerance_of
from keras_nf.twin import assign_weights, copy_flow, move_weights

__all__ = ["check_flow"]


class _Subject:
    """A flow and its data; checks run on a copy and on its float64 twin, the flow is only read."""

    def __init__(self, flow, x, condition):
        self.flow, self.x, self.condition = flow, x, condition
        self.own, self.twin = flow, flow
        self.tolerance = tolerance_of(flow)
        self.notes = []

    def rows(self, flow, points=None):
        """Return points, by default the data, in a list with their conditions if there are any."""
        parts = [self.x if points is None else points]
        if self.condition is not None:
            parts.append(np.resize(self.condition, (len(parts[0]), self.condition.shape[-1])))
        return [tf.cast(part, flow.dtype) for part in parts]


def _both(flow, points, condition=None):
    z, log_det = flow.inverse_and_log_det(points, condition)
    return z, log_det, *flow.forward_and_log_det(z, condition)


# A check yields its lines of the report: name, largest error, tolerance, and what to do beyond it.


def _check_shapes(subject):
    flow, (value, *condition) = subject.flow, subject.rows(subject.flow)
    shape, size = value.shape, tf.size(value)
    with tf.GradientTape() as tape:
        for name in ("inverse", "forward"):
            value, log_det = getattr(flow, f"{name}_and_log_det")(value, *condition)
            right = tf.size(value) == size and log_det.shape == value.shape[:1] == shape[:1]
            right = right and value.dtype == log_det.dtype == flow.dtype
            if not right or not np.isfinite([to_numpy(value).sum(), to_numpy(log_det).sum()]).all():
                raise ValueError(
                    f"Expected of `{name}_and_log_det` for shape {shape} as many numbers, and a "
                    f"log-determinant of shape {shape[:1]}, finite and {flow.dtype.name}. Received:"
                    f" {value.shape} {value.dtype.name}, {log_det.shape} {log_det.dtype.name}. Sum "
                    "the log-determinant over the event; pass data where the density is positive."
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
    error = max(map(largest_error, _both(subject.own, *rows), _both(flow, *rows)))
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
    z = to_numpy(_both(twin, *subject.rows(twin))[0])
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
        if not np.any(gradient):
            # Right where nothing depends on the weight, such as a kernel masked altogether.
            move_weights([weight])
            idle = bool(log_prob() == before)
            assign_weights(subject.twin, subject.own)
            if idle:
                subject.notes.append(f"the density does not depend on {weight.path}.")
                continue
        if not np.any(gradient) or not np.isfinite(gradient).all():
            wrong.append(weight.path)
    advice = f"none, zero, or not finite: {', '.join(wrong)}. Use each weight in the density, with "
    advice += "differentiable operations alone."
    yield "weights without a gradient", len(wrong), 0.0, advice


def _check_calls(subject):
    flow, inputs = subject.own, subject.rows(subject.own)
    # Of unknown batch size, and without AutoGraph, as Keras traces a layer.
    signature = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in inputs]
    graph = tf.function(lambda *t: _both(flow, *t), signature, autograph=False)

    def in_batch(*shape):
        n = int(np.prod(shape))
        return _both(flow, *(tf.reshape(part[:n], (*shape, *part.shape[1:])) for part in inputs))

    calls = {"a single event": in_batch(), "two batch axes": in_batch(2, len(inputs[0]) // 2)}
    advice = "the numbers differ from those of one batch, eagerly. Write both directions for any "
    advice += "number of batch axes, also none, and keep no Python state between calls."
    for name, outputs in {**calls, "tf.function": graph(*inputs)}.items():
        n = int(np.prod(outputs[1].shape))
        pairs = [
            (tf.reshape(a, (n, *b.shape[1:])), b[:n]) for a, b in zip(outputs, _both(flow, *inputs))
        ]
        yield name, max(largest_error(*pair) for pair in pairs), subject.tolerance, advice


def _check_file(subject):
    flow, inputs = subject.own, subject.rows(subject.own)
    for weight in flow.non_trainable_weights:
        if "float" in weight.dtype:
            weight.assign(1.01 * weight + 0.01)
    model = FlowModel(flow)
    model(dict(zip(("x", "condition"), inputs)) if flow.uses_condition else inputs[0])
    with tempfile.TemporaryDirectory() as folder:
        model.save(pathlib.Path(folder) / "flow.keras")
        loaded = keras.models.load_model(pathlib.Path(folder) / "flow.keras").flow
    pairs = [*zip(loaded.weights, flow.weights), *zip(_both(loaded, *inputs), _both(flow, *inputs))]
    advice = "the loaded flow has other weights, or gives other numbers. Make weights in `build`, "
    advice += "and build there the layers that the flow holds."
    yield (
        "a .keras file loads the same flow",
        max(largest_error(*p) for p in pairs),
        subject.tolerance,
        advice,
    )


_CHECKS = {
    "shapes": _check_shapes,
    "config": _check_config,
    "round trips": _check_round_trips,
    "gradients": _check_gradients,
    "calls": _check_calls,
    "file": _check_file,
}


def _report(title, lines, notes):
    """Return the table of all lines, with what to do about those that failed, and the notes."""
    failed = [line for line in lines if not line[1] <= line[2]]
    report = [f"{title}: {len(failed)} of {len(lines)} checks failed.", ""]
    report.append(f"{'check':<48}{'error':>9}{'tolerance':>11}")
    for line in lines:
        name, error, tolerance, _ = line
        result = "FAILED" if line in failed else "ok"
        report.append(f"{name:<48}{error:>9.1e}{tolerance:>11.1e}  {result}")
    remarks = [f"{name}: {advice}" for name, _, _, advice in failed]
    remarks += [f"note: {note}" for note in notes]
    report += ["", *(textwrap.fill(f"- {r}", 96, subsequent_indent="  ") for r in remarks)]
    return "\n".join(report).rstrip(), bool(failed)


def check_flow(flow: Flow, x: Any, condition: Any = None) -> str:
    """Check a flow against its contract, on a batch of data.

    The checks run on copies of the flow, made of its config, one of them in float64. Their weights
    are moved a little, since much is hidden at a special point such as a last layer of zeros.

    - Both directions return finite values and log-determinants of the right shape and dtype.
    - f(f^{-1}(x)) = x and f^{-1}(f(z)) = z, in float64 also for z in [-10, 10], far from the data;
      the table says how many of these lie in the domain, and are not mapped together by rounding.
    - log|det dx/dz| and log|det dz/dx| are those of the Jacobian of autodiff, and cancel.
    - Each trained weight has a gradient from the density, finite and not zero.
    - Each variable that is read is a weight of the flow; its config and a `.keras` file make the
      same flow.
    - Single events, more batch axes and `tf.function` give the numbers of an eager batch.

    Errors are |a - b| / (1 + |b|), in a round trip less what rounding of the image explains. The
    tolerance is the root of the machine epsilon, 1.5e-8 in float64 and 3.5e-4 in float32: half of
    the digits are left to the hundreds of roundings of a pass and to steep maps. The flow keeps its
    weights (an unbuilt one is built), and no file remains. A check costs some ten passes over at
    most 64 rows, and autodiff for at most 16.

    Args:
      flow: the flow.
      x: data of shape `(..., event_size)`, at least two rows, of which the first 64 are used.
      condition: `None`, or conditions of shape `(..., condition_size)`, which broadcast against
        the batch.

    Returns:
      The report, to print: a table with the largest error of each check, and notes, as on
      components that never change, which another flow in a chain has to move.

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
    x = np.asarray(x)
    batch = x.shape[: x.ndim - flow.inverse_min_event_ndims]
    if np.prod(batch) < 2 or not batch:
        raise ValueError(f"`x` must hold at least two events. Received: shape {x.shape}.")
    if condition is not None:
        shape = (*batch, np.shape(condition)[-1])
        condition = np.broadcast_to(condition, shape).reshape(-1, shape[-1])[:64]
    subject = _Subject(flow, x.reshape(-1, *x.shape[len(batch) :])[:64], condition)
    lines, cause = [], None
    for name, check in _CHECKS.items():
        try:
            lines += check(subject)
        except Exception as error:
            cause = error
            advice = textwrap.shorten(f"{type(error).__name__}: {error}", 400)
            lines.append((f"{name} cannot be checked", np.inf, 0.0, advice))
            if name in ("shapes", "config"):
                subject.notes.append("the checks after that one need it, and were not run.")
                break
    report, failed = _report(f"{type(flow).__name__} '{flow.name}'", lines, subject.notes)
    if failed:
        raise ValueError(report) from cause
    return report
