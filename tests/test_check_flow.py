"""`check_flow`: each kind of fault is found and named, and no flow of the package has one."""

import os
import re
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import build, conditions, data_points, is_kind, perturb, rows
from keras import ops

import keras_nf
from keras_nf import check_flow

X = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
registered = keras.saving.register_keras_serializable("diagnostics_tests")


@registered
class Sinh(keras_nf.Flow):
    """x_i = sinh(z_i + s_i): a flow of a user's own, without a fault."""

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        self.shift = self.add_weight(shape=(self.event_size,), initializer="zeros")

    def _forward_and_log_det(self, x, condition=None):
        x = x + self.shift
        return ops.sinh(x), ops.sum(ops.log(ops.cosh(x)), axis=-1)

    def _inverse_and_log_det(self, y, condition=None):
        return ops.arcsinh(y) - self.shift, -0.5 * ops.sum(ops.log1p(y**2), axis=-1)


class Elementwise(keras_nf.Flow):
    """A flow without weights, of two functions of a component and the slopes of both."""

    def _forward_and_log_det(self, x, condition=None):
        y, slope = self.push(x)
        return y, ops.sum(ops.log(slope), axis=-1)

    def _inverse_and_log_det(self, y, condition=None):
        x, slope = self.pull(y)
        return x, ops.sum(ops.log(slope), axis=-1)


def failures(flow, x=X, condition=None):
    """Return the names of the checks that a faulty flow fails, and the report on one line."""
    with pytest.raises(ValueError, match=r"[1-9]\d* of \d+ checks failed") as caught:
        check_flow(flow, x, condition)
    report = str(caught.value)
    failed = re.findall(r"^(.*?) +\S+ +\S+  FAILED$", report, flags=re.MULTILINE)
    return failed, " ".join(report.split())


def passed(report):
    """Return errors and tolerances, by the names of the checks."""
    assert "FAILED" not in report
    lines = re.findall(r"^(.*?) +(\S+) +(\S+)  ok$", report, flags=re.MULTILINE)
    return {name: (float(error), float(tolerance)) for name, error, tolerance in lines}


def test_flow_without_a_fault_passes():
    checks = passed(check_flow(Sinh(), X))
    assert len(checks) == 24
    assert {tolerance for _, tolerance in checks.values()} == {0.0, 1.5e-8, 3.5e-4}
    for name in ("data", "latents", "far latents (16 of 16)"):
        assert checks[f"{name}: log-det of inverse"][0] < 1e-13
        assert checks[f"{name}: sum of log-dets"][0] < 1e-13
    assert checks["latents: forward, then inverse"][0] < 1e-13


@pytest.mark.slow
@rows(is_kind)
def test_row_passes(case):
    # Among others, units of a small network may be dead.
    keras.utils.set_random_seed(1)
    flow, condition = build(case, "float32"), conditions(case, 4, dtype="float32")
    report = check_flow(flow, data_points(case, 4, dtype="float32"), **condition)
    # A fresh `Standardize` is the identity, and has no weights that are trained.
    kept = range(3) if case.name == "standardize" else case.kept
    note = f"components that never change: {', '.join(map(str, kept))}."
    assert (note in report) is bool(kept)
    assert report.count("the density does not depend on") == len(case.idle)


# Wrong sign.


@registered
class WrongSign(Sinh):
    def _inverse_and_log_det(self, y, condition=None):
        x, log_det = super()._inverse_and_log_det(y)
        return x, -log_det


@registered
class WrongSigns(WrongSign):
    def _forward_and_log_det(self, x, condition=None):
        y, log_det = super()._forward_and_log_det(x)
        return y, -log_det


def test_wrong_sign():
    failed, text = failures(WrongSign())
    assert "data: log-det of inverse: it has the wrong sign." in text
    assert "data: sum of log-dets" in failed
    assert not {"data: log-det of forward", "data: inverse, then forward"} & set(failed)


def test_wrong_sign_of_both_directions():
    failed, text = failures(WrongSigns())
    assert "data: log-det of inverse: it has the wrong sign." in text
    assert "data: log-det of forward: it has the wrong sign." in text
    assert "data: sum of log-dets" not in failed


# Missing factor.


@registered
class MissingFactor(keras_nf.Flow):
    """x = 2 z, with the log-determinant of one component, where there are two."""

    def _forward_and_log_det(self, x, condition=None):
        return 2.0 * x, ops.zeros_like(x[..., 0]) + np.log(2.0)

    def _inverse_and_log_det(self, y, condition=None):
        return y / 2.0, ops.zeros_like(y[..., 0]) - np.log(2.0)


@registered
class Half(Sinh):
    def _forward_and_log_det(self, x, condition=None):
        y, log_det = super()._forward_and_log_det(x)
        return y, 0.5 * log_det


def test_missing_constant_factor():
    failed, text = failures(MissingFactor())
    assert "data: log-det of forward: it lacks 0.6931 in every row: a constant factor" in text
    assert "data: log-det of inverse: it lacks -0.6931 in every row" in text
    assert all("log-det of" in name for name in failed)


def test_missing_factor_of_the_log_determinant():
    failed, text = failures(Half())
    assert "data: log-det of forward: expected that of the Jacobian" in text
    assert "data: log-det of inverse" not in failed
    assert "data: inverse, then forward" not in failed


# One-way map.


@registered
class OneWay(Sinh):
    """The inverse of x + x^3 / 6, which is sinh only near zero."""

    def _forward_and_log_det(self, x, condition=None):
        x = x + self.shift
        return x + x**3 / 6.0, ops.sum(ops.log1p(x**2 / 2.0), axis=-1)


def test_one_way_map():
    failed, text = failures(OneWay())
    assert "data: inverse, then forward: `forward` does not undo `inverse`. -" in text
    assert "latents: forward, then inverse: `inverse` does not undo `forward`. -" in text
    assert not any("log-det of" in name for name in failed)


# Lost weights.


@registered
class PlainVariable(Sinh):
    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        # TensorFlow's own variable is not one of Keras's weights.
        self.lost = tf.Variable(tf.zeros(self.event_size, self.dtype), name="lost")

    def _forward_and_log_det(self, x, condition=None):
        return super()._forward_and_log_det(x - self.lost)

    def _inverse_and_log_det(self, y, condition=None):
        x, log_det = super()._inverse_and_log_det(y)
        return x + self.lost, log_det


class Holder:
    """What Keras does not look into."""

    def __init__(self, layer):
        self.layer = layer


@registered
class HiddenLayer(Sinh):
    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        self.holder = Holder(keras.layers.Dense(self.event_size, dtype=self.dtype_policy))
        self.holder.layer.build((None, 1))

    def _forward_and_log_det(self, x, condition=None):
        return super()._forward_and_log_det(x - self.holder.layer(ops.ones_like(x[..., :1])))

    def _inverse_and_log_det(self, y, condition=None):
        x, log_det = super()._inverse_and_log_det(y)
        return x + self.holder.layer(ops.ones_like(x[..., :1])), log_det


@registered
class Drawn(Sinh):
    """Draws its order anew in each process."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factor = np.exp(np.random.normal())

    def _forward_and_log_det(self, x, condition=None):
        y, log_det = super()._forward_and_log_det(x)
        return self.factor * y, log_det + self.event_size * np.log(self.factor)

    def _inverse_and_log_det(self, y, condition=None):
        x, log_det = super()._inverse_and_log_det(y / self.factor)
        return x, log_det - self.event_size * np.log(self.factor)


@registered
class Forgotten(Drawn):
    """Takes the factor as an argument, and does not give it back."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def get_config(self):
        return {**super().get_config()}


@registered
class Required(Sinh):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)

    def get_config(self):
        return {**super().get_config()}


@registered
class NotRestored(Sinh):
    def load_own_variables(self, store):
        pass


@registered
class NotRestoredMean(Sinh):
    """Loses a weight that is not trained."""

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        self.mean = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def load_own_variables(self, store):
        self.shift.assign(store["0"])


def test_lost_weight_in_a_plain_attribute():
    failed, text = failures(PlainVariable())
    assert failed == ["weights that are not tracked"]
    assert re.search(r"neither trained nor saved: plain_variable\w*/lost:0\.", text)


def test_lost_weights_of_a_hidden_layer():
    failed, text = failures(HiddenLayer())
    assert failed[:2] == ["weights that are not tracked", "config makes the same flow"]
    assert re.search(r"neither trained nor saved: \S+/kernel:0, \S+/bias:0", text)


def test_lost_weight_that_was_trained():
    flow = PlainVariable()
    flow(X)
    flow.lost.assign([0.5, -0.5])
    assert failures(flow)[0] == ["weights that are not tracked", "config makes the same flow"]


@pytest.mark.parametrize("make", [Drawn, lambda: Forgotten(2.0)], ids=["drawn", "forgotten"])
def test_lost_attribute(make):
    failed, text = failures(make())
    assert "config makes the same flow" in failed
    assert "with the same weights makes another flow" in text


def test_lost_argument():
    failed, text = failures(Required(2.0))
    assert failed == ["config cannot be checked"]
    assert "missing 1 required positional argument: 'factor'" in text
    assert "were not run" in text


@pytest.mark.parametrize("cls", [NotRestored, NotRestoredMean])
def test_weight_that_a_file_does_not_restore(cls):
    failed, text = failures(cls())
    assert failed == ["a .keras file loads the same flow"]
    assert "the loaded flow has other weights" in text


def test_class_that_a_file_does_not_find():
    class Local(Sinh):
        pass

    failed, text = failures(Local())
    assert failed == ["file cannot be checked"]
    assert "Could not locate class 'Local'" in text


# Saturation.


@registered
class ClippedInverse(Elementwise):
    def push(self, x):
        return x, ops.ones_like(x)

    def pull(self, y):
        return ops.clip(y, -4.0, 4.0), ops.ones_like(y)


@registered
class ClippedForward(Elementwise):
    def push(self, x):
        return ops.clip(x, -4.0, 4.0), ops.ones_like(x)

    def pull(self, y):
        return y, ops.ones_like(y)


@registered
class GuardedArctanh(Elementwise):
    """The usual guard of a logarithm, which acts from |z| = 7.25 on."""

    def push(self, x):
        return ops.tanh(x), 1.0 / ops.cosh(x) ** 2

    def pull(self, y):
        y = ops.clip(y, -1.0 + 1e-6, 1.0 - 1e-6)
        return ops.arctanh(y), 1.0 / (1.0 - y**2)


@pytest.mark.parametrize("cls", [ClippedInverse, ClippedForward, GuardedArctanh])
def test_saturated_direction(cls):
    x = 0.9 * np.tanh(X)
    failed, text = failures(cls(), x)
    assert not [name for name in failed if not name.startswith("far latents")]
    assert "One of them saturates: distinct inputs have the same output." in text
    assert any(name.endswith("forward, then inverse") for name in failed)
    assert any("log-det of" in name for name in failed)


def test_flat_is_not_saturated():
    """A steep map before a bounded one loses its inverse to rounding, and underflows far out."""
    chain = keras_nf.Chain([keras_nf.Scaling(), keras_nf.Logit()])
    chain.build((None, 2))
    chain.weights[0].assign([5.0, 5.0])
    report = check_flow(chain, 0.3 + 0.2 * np.tanh(X))
    assert "far latents (0 of 16)" in report


def test_rounding_is_not_a_one_way_map():
    """Behind an offset of 1e5, float32 keeps two digits behind the point."""
    standardize = keras_nf.Standardize()
    standardize.adapt(1e5 + np.array([[-1.0, -1.0], [1.0, 1.0]]))
    assert "0 of 24" in check_flow(keras_nf.Invert(standardize), X)


# Other faults.


@registered
class Scalar(Sinh):
    def _inverse_and_log_det(self, y, condition=None):
        x, log_det = super()._inverse_and_log_det(y)
        return x, ops.mean(log_det)


@registered
class PerComponent(Sinh):
    def _inverse_and_log_det(self, y, condition=None):
        return ops.arcsinh(y) - self.shift, -0.5 * ops.log1p(y**2)


@registered
class Stopped(Sinh):
    def _inverse_and_log_det(self, y, condition=None):
        return ops.arcsinh(y) - ops.stop_gradient(self.shift), super()._inverse_and_log_det(y)[1]


@registered
class OneBatchAxis(Sinh):
    """Right for a batch; an event by itself gets an axis, and two batch axes become one."""

    def _inverse_and_log_det(self, y, condition=None):
        x, log_det = super()._inverse_and_log_det(y)
        return x, ops.reshape(log_det, (-1,))


@registered
class PythonState(Sinh):
    """Counts its calls, and does something else when it is traced."""

    def _inverse_and_log_det(self, y, condition=None):
        x, log_det = super()._inverse_and_log_det(y)
        return (x, log_det) if tf.executing_eagerly() else (x + 0.1, log_det)


@pytest.mark.parametrize("cls", [Scalar, PerComponent])
def test_log_determinant_of_a_wrong_shape(cls):
    failed, text = failures(cls())
    assert failed == ["shapes cannot be checked"]
    assert "of their batch, float32 (8,). Received: a log-determinant" in text


def test_weight_without_a_gradient():
    failed, text = failures(Stopped())
    assert failed == ["weights without a gradient"]
    assert re.search(r"none, zero, or not finite: stopped\w*/variable", text)


def test_batch_of_another_rank():
    failed, text = failures(OneBatchAxis())
    assert failed == ["calls cannot be checked"]
    assert "of their batch, float32 ()" in text


def test_graph_that_computes_something_else():
    assert failures(PythonState())[0] == ["tf.function"]


def test_data_without_density():
    failed, text = failures(keras_nf.Logit(), np.full((4, 2), 2.0))
    assert failed == ["shapes cannot be checked"]
    assert "pass data where the density is positive" in text


# What it leaves alone, and what it takes.


def test_weights_and_files_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    flow = keras_nf.maf(event_size=2, layers=2, hidden_units=(8,))
    flow(X)
    perturb(flow, seed=1)
    before = [weight.numpy() for weight in flow.weights]
    check_flow(flow, X)
    for weight, value in zip(flow.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16", "mixed_float16"])
def test_other_dtypes(policy):
    flow = keras_nf.real_nvp(2, layers=2, hidden_units=(8,), dtype=policy)
    checks = passed(check_flow(flow, X))
    tolerance = {"float64": 1.5e-8, "mixed_bfloat16": 8.8e-2, "mixed_float16": 3.1e-2}[policy]
    assert checks["tf.function"][1] == tolerance
    assert len(checks) == (20 if policy == "float64" else 24)


def test_batch_axes_and_a_single_condition():
    flow = keras_nf.AffineCoupling(hidden_units=(8,))
    assert "0 of 24" in check_flow(flow, X.reshape(2, 4, 2), np.ones(3, "float32"))
    assert flow.condition_size == 3


def test_large_batches_cost_what_small_ones_do():
    seen = []

    @registered
    class Counting(Sinh):
        def _inverse_and_log_det(self, y, condition=None):
            seen.append(y.shape[0] if y.shape.rank == 2 else 0)
            return super()._inverse_and_log_det(y)

    check_flow(Counting(), np.tile(X, (1000, 1)))
    assert max(filter(None, seen)) == 64


@pytest.mark.parametrize(
    ("flow", "x", "message"),
    [
        (keras.layers.Dense(2), X, "must be a keras_nf flow"),
        (keras_nf.Scaling(), X[0], r"at least two events.*\(2,\), float32"),
        (keras_nf.Scaling(), np.ones((4, 2), "int32"), "floating-point dtype.*int32"),
    ],
)
def test_wrong_arguments(flow, x, message):
    with pytest.raises(ValueError, match=message):
        check_flow(flow, x)
