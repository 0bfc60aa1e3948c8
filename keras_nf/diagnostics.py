"""`check_flow`: a flow against its contract, with a report."""

import pathlib
import tempfile
import textwrap
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_nf.flow import Flow
from keras_nf.model import FlowModel
from keras_nf.twin import assign_weights, copy_flow

__all__ = ["check_flow"]

_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


class Line(NamedTuple):
    """A line of the report: the largest error, the one allowed, and what to do beyond it."""

    name: str
    error: float
    tolerance: float
    advice: str


class _Subject:
    """A flow and its data; the checks run on two copies, so that the flow is only read."""

    def __init__(self, flow, x, condition):
        self.flow, self.x, self.condition = flow, x, condition
        self.own = self.twin = flow
        self.rng = np.random.default_rng(0)
        self.notes = []

    def rows(self, flow, points=None):
        """Return points, by default the data, and a condition for each, in the flow's dtype."""
        points = tf.cast(self.x if points is None else points, flow.dtype)
        if self.condition is None:
            return points, None
        condition = np.resize(self.condition, (len(points), self.condition.shape[-1]))
        return points, tf.cast(condition, flow.dtype)


def _tolerance(flow):
    return _EPSILON[flow.compute_dtype] ** 0.5


def _numpy(value):
    return np.asarray(tf.cast(value, tf.float64))


def _error(actual, expected, slack=0.0):
    """Return the largest difference: absolute for small numbers, relative for large ones."""
    actual, expected = _numpy(actual), _numpy(expected)
    with np.errstate(invalid="ignore"):
        difference = np.where(actual == expected, 0.0, np.abs(actual - expected))
        return float(np.max(difference / (1.0 + np.abs(expected) + slack), initial=0.0))


def _both(flow, points, condition):
    z, log_det = flow.inverse_and_log_det(points, condition)
    return z, log_det, *flow.forward_and_log_det(z, condition)


def _check_shapes(subject):
    flow, (value, condition) = subject.flow, subject.rows(subject.flow)
    shape, batch, size = tuple(value.shape), value.shape[:1], tf.size(value)
    with tf.GradientTape() as tape:
        for name in ("inverse", "forward"):
            value, log_det = getattr(flow, f"{name}_and_log_det")(value, condition)
            right = tf.size(value) == size and value.shape[:1] == log_det.shape == batch
            right = right and value.dtype == log_det.dtype == flow.dtype
            if not (
                right and np.isfinite(_numpy(value)).all() & np.isfinite(_numpy(log_det)).all()
            ):
                raise ValueError(
                    f"`{name}_and_log_det` of inputs of shape {shape} must return a value of as "
                    f"many numbers and a log-determinant of shape {tuple(batch)}, all finite and "
                    f"{flow.dtype.name}. Received: shape {tuple(value.shape)} {value.dtype.name} "
                    f"and {tuple(log_det.shape)} {log_det.dtype.name}. Sum the log-determinant "
                    "over the event; pass data of positive density."
                )
    yield Line("shapes and dtypes", 0.0, 0.0, "")
    tracked = {id(weight.value) for weight in flow.weights}
    lost = [v.name for v in tape.watched_variables() if id(v) not in tracked]
    advice = f"read, but neither trained nor saved: {', '.join(lost)}. Make weights with "
    advice += "`self.add_weight` in `build`, and keep layers in attributes of the flow."
    yield Line("weights: untracked", len(lost), 0.0, advice)


def _check_config(subject):
    rows = subject.rows(subject.flow)
    subject.own = own = copy_flow(subject.flow, *rows)
    subject.twin = copy_flow(subject.flow, *rows, dtype="float64")
    error = max(map(_error, _both(own, *rows), _both(subject.flow, *rows)))
    advice = "`from_config(get_config())` with the same weights makes another flow. Return from "
    advice += "`get_config` what `__init__` takes or draws; keep in weights what changes later."
    yield Line("config: makes the same flow", error, _tolerance(own), advice)
    # Away from special points, such as a last layer of zeros, behind which no gradient is left.
    for weight in own.trainable_weights:
        noise = subject.rng.standard_normal(weight.shape) / np.prod(weight.shape[:-1]) ** 0.5
        weight.assign_add(0.1 * noise)
        if weight.constraint is not None:
            weight.assign(weight.constraint(weight))
    assign_weights(subject.twin, own)


def _with_jacobian(direction, points, condition):
    """Return value, log-determinant and Jacobian of each row, from one batch and one gradient."""
    size = int(np.prod(points.shape[1:]))
    x, condition = (None if t is None else tf.repeat(t, size, axis=0) for t in (points, condition))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, log_det = direction(x, condition)
    units = tf.reshape(tf.tile(tf.eye(size, dtype=y.dtype), (len(points), 1)), y.shape)
    jacobian = tape.gradient(y, x, units, unconnected_gradients="zero")
    return y[::size], _numpy(log_det[::size]), _numpy(jacobian).reshape(-1, size, size)


def _explain(found, true):
    """Say how log-determinants differ from those of the Jacobians."""
    if np.allclose(found, -true):
        return "it has the wrong sign."
    with np.errstate(invalid="ignore"):
        lacking = true - found
    if np.isfinite(lacking).all() and np.allclose(lacking, lacking[:1]):
        return f"it lacks {lacking[0]:.4g} in every row: a constant factor is missing."
    worst = np.argmax(np.abs(lacking))
    return f"expected that of the Jacobian, {true[worst]:.6g}. Received: {found[worst]:.6g}."


def _round_trip(subject, flow, names, points, where, far=False):
    """Go there and back; compare the points, and the log-determinants with autodiff's."""
    points, condition = subject.rows(flow, points)
    there, back = (getattr(flow, f"{name}_and_log_det") for name in names)
    image, log_det, jacobian = _with_jacobian(there, points, condition)
    again, back_log_det, back_jacobian = _with_jacobian(back, image, condition)
    points, image, again = (_numpy(t).reshape(len(points), -1) for t in (points, image, again))
    exact, back_exact = (np.linalg.slogdet(j)[1] for j in (jacobian, back_jacobian))
    tolerance, size = _tolerance(flow), 1.0 + np.abs(image).max(axis=1)
    keep = np.full(len(points), True)
    if far:
        # Beyond the flow's domain, or where it is so flat that rounding must end its inverse.
        honest = np.abs(log_det - exact) <= tolerance * (1.0 + np.abs(exact))
        least = np.linalg.svd(np.nan_to_num(jacobian), compute_uv=False)[:, -1]
        keep = (
            np.isfinite(log_det) & np.isfinite(size) & ~(honest & (least < 10 * tolerance * size))
        )
        if not keep.all():
            subject.notes.append(
                f"{np.sum(~keep)} of {len(keep)} latents far out left out: they are beyond the "
                "flow's domain, or rounding maps them together."
            )
    # Rounding of the image moves the way back by this much.
    slack = 1000.0 * tolerance * np.abs(back_jacobian).max(axis=(1, 2)) * size
    advice = f"`{names[1]}` does not undo `{names[0]}`."
    if np.isneginf([exact[keep], back_exact[keep]]).any():
        advice += " One of them saturates: distinct inputs have the same output. Bound the "
        advice += "parameters of a map, not its values."
    error = _error(again[keep], points[keep], slack[keep, None])
    yield Line(f"round trip, {where}", error, tolerance, advice)
    found = {names[0]: (log_det, exact), names[1]: (back_log_det, back_exact)}
    for name, (value, true) in found.items() if keep.any() else ():
        error, advice = _error(value[keep], true[keep]), _explain(value[keep], true[keep])
        yield Line(f"log-det of {name}, {where}", error, tolerance, advice)
    advice = "the log-determinant of a direction must be minus that of the other."
    error = _error(log_det[keep], -back_log_det[keep])
    yield Line(f"sum of log-dets, {where}", error, tolerance, advice)


def _check_round_trips(subject):
    own, twin, size = subject.own, subject.twin, int(np.prod(subject.x.shape[1:]))
    # Autodiff runs rows times components at once.
    rows = int(np.clip(1024 // size, 2, 16))
    x, z = subject.x[:rows], _numpy(twin.inverse_and_log_det(*subject.rows(twin))[0])
    if own.compute_dtype != "float64":
        names = ("inverse", "forward")
        yield from _round_trip(subject, own, names, x, f"data, {own.compute_dtype}")
    yield from _round_trip(subject, twin, ("inverse", "forward"), x, "data, float64")
    yield from _round_trip(subject, twin, ("forward", "inverse"), z[:rows], "latents, float64")
    # Each component takes every value of the range once.
    far = np.tile(np.linspace(-10.0, 10.0, rows)[:, None], size)
    far = subject.rng.permuted(far, axis=0).reshape(rows, *z.shape[1:])
    yield from _round_trip(subject, twin, ("forward", "inverse"), far, "far latents, float64", True)
    same = z == subject.x if z.shape == subject.x.shape else np.zeros_like(z)
    kept = np.flatnonzero(same.reshape(len(z), -1).all(axis=0))
    if kept.size:
        subject.notes.append(f"components that never change: {', '.join(map(str, kept))}.")


def _check_gradients(subject):
    def log_prob():
        z, log_det = subject.twin.inverse_and_log_det(*subject.rows(subject.twin))
        return tf.reduce_sum(log_det) - 0.5 * tf.reduce_sum(z**2)

    with tf.GradientTape() as tape:
        expected = log_prob()
    weights, wrong = subject.twin.trainable_weights, []
    for weight, gradient in zip(weights, tape.gradient(expected, [w.value for w in weights])):
        gradient = None if gradient is None else _numpy(gradient)
        if gradient is not None and np.isfinite(gradient).all() and gradient.any():
            continue
        value = weight.numpy()
        weight.assign_add(0.1 * subject.rng.standard_normal(value.shape))
        idle = gradient is not None and not gradient.any() and log_prob() == expected
        weight.assign(value)
        if idle:
            subject.notes.append(f"the density does not depend on {weight.path}.")
        else:
            wrong.append(weight.path)
    advice = f"none, zero, or not finite, for {', '.join(wrong)}. Use each weight in the density, "
    advice += "through differentiable operations alone."
    yield Line("gradients: weights without", len(wrong), 0.0, advice)


def _check_batches(subject):
    flow, inputs = subject.own, [t for t in subject.rows(subject.own) if t is not None]
    rows = len(inputs[0]) // 2 * 2
    advice = "write both directions for any number of batch axes before the event, also none."
    for name, batch in {"a single event": (), "two batch axes": (2, rows // 2)}.items():
        count = int(np.prod(batch))
        cut = [tf.reshape(t[:count], (*batch, *t.shape[1:])) for t in inputs]
        expected = [tf.reshape(t[:count], (*batch, *t.shape[1:])) for t in _both(flow, *inputs)]
        yield Line(
            f"batches: {name}",
            max(map(_error, _both(flow, *cut), expected)),
            _tolerance(flow),
            advice,
        )


def _check_function(subject):
    flow, inputs = subject.own, [t for t in subject.rows(subject.own) if t is not None]
    # Of unknown batch size, and without AutoGraph, as Keras traces a layer.
    signature = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in inputs]
    function = tf.function(lambda *t: _both(flow, *t), signature, autograph=False)
    error = max(map(_error, function(*inputs), _both(flow, *inputs)))
    advice = "a graph computes something else than eager code. Keep no Python state between calls."
    yield Line("tf.function: as eager", error, _tolerance(flow), advice)


def _check_file(subject):
    flow = subject.own
    for weight in flow.non_trainable_weights:
        if "float" in weight.dtype:
            weight.assign_add(0.01 * subject.rng.uniform(size=weight.shape))
    x, condition = subject.rows(flow)
    model = FlowModel(flow)
    model({"x": x, "condition": condition} if condition is not None and flow.uses_condition else x)
    with tempfile.TemporaryDirectory() as folder:
        model.save(pathlib.Path(folder) / "flow.keras")
        loaded = keras.models.load_model(pathlib.Path(folder) / "flow.keras").flow
    pairs = [
        *zip(loaded.weights, flow.weights),
        *zip(*(_both(f, x, condition) for f in (loaded, flow))),
    ]
    error = max(_error(actual, expected) for actual, expected in pairs)
    advice = "weights or outputs differ. Make weights in `build`, and build the layers that you hold there."
    yield Line("file: loads the same flow", error, _tolerance(flow), advice)


_CHECKS = {
    "shapes": _check_shapes,
    "config": _check_config,
    "round trips": _check_round_trips,
    "gradients": _check_gradients,
    "batches": _check_batches,
    "tf.function": _check_function,
    "file": _check_file,
}


def check_flow(flow: Flow, x: Any, condition: Any = None) -> str:
    """Check a flow against the contract, on a batch of data.

    For copies of the flow made of its config, one of them in float64, with weights moved a little:

    - each direction returns finite values and log-determinants of the right shape and dtype;
    - f^{-1}(f(z)) = z and f(f^{-1}(x)) = x, also for z in [-10, 10], far from the centre;
    - log|det dx/dz| and log|det dz/dx| are those of the Jacobian that autodiff gives, and cancel;
    - each trained weight has a gradient from the density, finite and not zero;
    - every variable that is read is one of the weights, and the config and a `.keras` file make
      the same flow; single events, more batch axes and `tf.function` give the same numbers.

    An error is |a - b| / (1 + |b|), in a round trip less what rounding of the image explains. A
    tolerance is the root of the machine epsilon, 1.5e-8 in float64 and 3.5e-4 in float32: half of
    the digits are for the some hundred roundings of a pass and for steep maps; a wrong formula is
    off by more. The flow keeps its weights (one not yet built is built), and no file stays. The
    cost is some ten passes over 64 rows, and autodiff over at most 16.

    Args:
      flow: the flow.
      x: data of shape `(..., event_size)`, two rows at least; the first 64 rows are used.
      condition: `None`, or conditions of shape `(..., condition_size)` that broadcast to the data.

    Returns:
      The report to print: a table with the largest error of each check, and notes, as on
      components that never change, which another flow of a chain has to move.

    Raises:
      ValueError: with the report and what to do, if a check fails; on data of a wrong shape.

    Example:

    >>> import numpy as np, keras_nf
    >>> x = np.random.default_rng(0).normal(size=(16, 2)).astype("float32")
    >>> report = keras_nf.check_flow(keras_nf.AffineCoupling(), x)
    >>> print(report)
    AffineCoupling 'affine_coupling...': 0 of 20 checks failed.
    ...
    - note: components that never change: 0.
    """
    x = np.asarray(x)
    batch = x.shape[: x.ndim - flow.inverse_min_event_ndims]
    if np.prod(batch) < 2 or not batch:
        raise ValueError(f"`x` must hold at least two events. Received: shape {x.shape}.")
    if condition is not None:
        condition = np.asarray(condition)
        shape = (*batch, condition.shape[-1])
        condition = np.broadcast_to(condition, shape).reshape(-1, shape[-1])[:64]
    subject = _Subject(flow, x.reshape(-1, *x.shape[len(batch) :])[:64], condition)
    lines, cause = [], None
    for name, check in _CHECKS.items():
        try:
            lines += check(subject)
        except Exception as error:
            advice = textwrap.shorten(f"{type(error).__name__}: {error}", 400)
            lines.append(Line(f"{name}: could not be checked", np.inf, 0.0, advice))
            cause = error
            if name in ("shapes", "config"):
                subject.notes.append("the other checks need this one, and were not run.")
                break
    failed = [line for line in lines if not line.error <= line.tolerance]
    report = [f"{type(flow).__name__} '{flow.name}': {len(failed)} of {len(lines)} checks failed."]
    report += ["", f"{'check':<48}{'error':>9}{'tolerance':>11}"]
    for line in lines:
        result = "FAILED" if line in failed else "ok"
        report.append(f"{line.name:<48}{line.error:>9.1e}{line.tolerance:>11.1e}  {result}")
    remarks = [f"{line.name}: {line.advice}" for line in failed]
    remarks += [f"note: {note}" for note in subject.notes]
    report += ["", *(textwrap.fill(f"- {r}", 98, subsequent_indent="  ") for r in remarks)]
    if failed:
        raise ValueError("\n".join(report)) from cause
    return "\n".join(report)
