"""Flows of the user's own: what they return is checked, and their arguments are kept."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_nf

X = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")


@keras.saving.register_keras_serializable("custom_flow_tests")
class Stretch(keras_nf.Flow):
    """x = factor z, with an argument and without a `get_config`."""

    def __init__(self, factor, sign=1, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor * sign

    def _forward_and_log_det(self, x, condition=None):
        return self.factor * x, self._log_det(x)

    def _inverse_and_log_det(self, y, condition=None):
        return y / self.factor, -self._log_det(y)

    def _log_det(self, x):
        return ops.sum(ops.zeros_like(x) + np.log(abs(self.factor)), axis=-1)


class Returning(keras_nf.Flow):
    """A flow of which `result(x)` decides what it returns."""

    def __init__(self, result, **kwargs):
        super().__init__(**kwargs)
        self.result = result

    def _forward_and_log_det(self, x, condition=None):
        return self.result(x)

    def _inverse_and_log_det(self, y, condition=None):
        return self.result(y)


WRONG = {
    "value alone": (lambda x: x, "Received: <tf.Tensor"),
    "elementwise": (lambda x: (x, ops.zeros_like(x)), r"log-determinant of float32 \(5, 3\)\. Sum"),
    "scalar": (lambda x: (x, ops.zeros(())), r"log-determinant of float32 \(\)\. Sum"),
    "number": (lambda x: (x, 0.0), r"log-determinant of float32 \(\)\. Sum"),
    "column": (lambda x: (x, ops.zeros_like(x[:, :1])), r"log-determinant of float32 \(5, 1\)"),
    "half": (lambda x: (x, ops.cast(x[:, 0], "float16")), r"log-determinant of float16 \(5,\)"),
    "columns": (lambda x: (x[:, :2], x[:, 0]), r"a value of float32 \(5, 2\)"),
    "double": (lambda x: (ops.cast(x, "float64"), x[:, 0]), r"a value of float64 \(5, 3\)"),
}


@pytest.mark.parametrize(("result", "message"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("within", [lambda flow: flow, lambda flow: keras_nf.Chain([flow])])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_what_a_flow_returns_is_checked(result, message, within, direction):
    flow = Returning(result, name="mine")
    with pytest.raises(ValueError, match=f"Returning 'mine' must return .*{direction}.*{message}"):
        getattr(within(flow), direction)(X)


def test_wrong_log_det_stops_a_training_before_its_first_step():
    model = keras_nf.FlowModel(Returning(lambda x: (x, ops.zeros_like(x)), event_size=3))
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"log-determinant of float32 \(None, 3\)"):
        model.fit(X, verbose=0)


@pytest.mark.parametrize("batch_shape", [(), (4,), (2, 3)])
def test_right_results_of_any_batch_pass(batch_shape):
    y, log_det = Stretch(2.0).forward_and_log_det(np.ones((*batch_shape, 3), "float32"))
    np.testing.assert_array_equal(y, np.full((*batch_shape, 3), 2.0))
    np.testing.assert_allclose(log_det, np.full(batch_shape, 3 * np.log(2.0)), rtol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: Stretch(3.0, sign=-1), lambda: keras_nf.Chain([Stretch(3.0, sign=-1)])]
)
def test_arguments_are_kept_without_a_get_config(make, tmp_path):
    model = keras_nf.FlowModel(make())
    model.build((None, 3))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(X), model.log_prob(X))
    np.testing.assert_array_equal(loaded.flow(X), -3.0 * X)


def test_common_arguments_are_kept_without_a_get_config():
    flow = Stretch(3.0, name="mine", dtype="float64", event_size=3, validate_args=True)
    copy = Stretch.from_config(flow.get_config())
    assert (copy.factor, copy.name, copy.dtype.name) == (3.0, "mine", "float64")
    assert (copy.event_size, copy.validate_args) == (3, True)


def test_arguments_that_keras_cannot_write_are_named_when_saving(tmp_path):
    model = keras_nf.FlowModel(Returning(lambda x: (x, x[..., 0])))
    model.build((None, 3))
    with pytest.raises(
        NotImplementedError, match=r"Returning must implement `get_config`.*\(result\)"
    ):
        model.save(tmp_path / "model.keras")


def test_flow_without_common_arguments_is_refused_when_saving(tmp_path):
    class Closed(Stretch):
        def __init__(self, factor):
            super().__init__(factor)

    model = keras_nf.FlowModel(Closed(2.0))
    model.build((None, 3))
    with pytest.raises(ValueError, match=r"Closed.__init__ must take `\*\*kwargs`"):
        model.save(tmp_path / "model.keras")
