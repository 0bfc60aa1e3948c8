"""The law of events: flows of several axes, of fewer than an event has, and of another shape."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from keras import ops
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

HEIGHT, WIDTH, CHANNELS, CONDITION = 2, 3, 4, 2
BASE_SHAPE, DATA_SHAPE = (HEIGHT, WIDTH, CHANNELS), (2 * HEIGHT, 2 * WIDTH, CHANNELS // 4)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, *DATA_SHAPE))
C = RNG.normal(size=(5, CONDITION))


@keras.saving.register_keras_serializable("event_ndims_tests")
class DepthToSpace(keras_nf.Flow):
    """Four channels become a square of pixels."""

    def __init__(self, **kwargs):
        super().__init__(event_ndims=3, is_constant_jacobian=True, **kwargs)

    def _forward_event_shape(self, shape):
        return tf.TensorShape(
            [*shape[:-3], 2 * shape[-3], 2 * shape[-2], shape[-1] and shape[-1] // 4]
        )

    def _inverse_event_shape(self, shape):
        return tf.TensorShape([*shape[:-3], shape[-3] // 2, shape[-2] // 2, 4 * shape[-1]])

    def _move(self, x, operation):
        images = tf.reshape(x, (-1, *x.shape[-3:]))
        return operation(images, 2), self._constant_log_det(x, 0.0)

    def _restored(self, x, moved):
        shape = tf.concat([tf.shape(x)[:-3], moved.shape[-3:]], axis=0)
        y = tf.reshape(moved, shape)
        y.set_shape(x.shape[:-3].concatenate(moved.shape[-3:]))
        return y

    def _forward_and_log_det(self, x, condition=None):
        moved, log_det = self._move(x, tf.nn.depth_to_space)
        return self._restored(x, moved), log_det

    def _inverse_and_log_det(self, y, condition=None):
        moved, log_det = self._move(y, tf.nn.space_to_depth)
        return self._restored(y, moved), log_det


@keras.saving.register_keras_serializable("event_ndims_tests")
class Brightness(keras_nf.Flow):
    """x = z + (sum of z) / 10, of which the determinant is 1 + n / 10 for n numbers."""

    def __init__(self, **kwargs):
        super().__init__(event_ndims=3, is_constant_jacobian=True, **kwargs)

    def _log_det(self, x):
        return self._constant_log_det(x, np.log(1.0 + np.prod(self.event_shape) / 10.0))

    def _forward_and_log_det(self, x, condition=None):
        return x + ops.sum(x, axis=(-3, -2, -1), keepdims=True) / 10.0, self._log_det(x)

    def _inverse_and_log_det(self, y, condition=None):
        total = ops.sum(y, axis=(-3, -2, -1), keepdims=True) / (1.0 + np.prod(y.shape[-3:]) / 10.0)
        return y - total / 10.0, -self._log_det(y)


def chain(condition=None):
    """Maps of channels and of images, in turn: the last changes the shape."""
    flow = keras_nf.Chain(
        [
            keras_nf.MaskedAutoregressive(hidden_units=(8,), activation="tanh", dtype="float64"),
            Brightness(dtype="float64"),
            keras_nf.AffineCoupling(hidden_units=(8,), activation="tanh", dtype="float64"),
            keras_nf.Scaling(dtype="float64"),
            DepthToSpace(dtype="float64"),
        ],
        dtype="float64",
    )
    flow.inverse_and_log_det(X, condition)
    return perturb(flow)


CONDITIONS = pytest.mark.parametrize("condition", [None, C], ids=["plain", "conditional"])


def base():
    return tfd.Sample(tfd.Normal(tf.constant(0.0, "float64"), 1.0), BASE_SHAPE)


def test_shapes():
    flow = chain()
    assert (flow.event_ndims, flow.event_shape) == (3, BASE_SHAPE)
    assert flow.forward_event_shape(BASE_SHAPE) == DATA_SHAPE
    assert flow.inverse_event_shape((7, *DATA_SHAPE)) == (7, *BASE_SHAPE)
    np.testing.assert_array_equal(
        flow.forward_event_shape_tensor([7, *BASE_SHAPE]), [7, *DATA_SHAPE]
    )
    inverse = keras_nf.Invert(flow)
    assert inverse.event_ndims == 3
    assert inverse.forward_event_shape(DATA_SHAPE) == BASE_SHAPE
    z, log_det = inverse.forward_and_log_det(X)
    assert (z.shape, log_det.shape) == ((5, *BASE_SHAPE), (5,))


@CONDITIONS
def test_round_trip(condition):
    flow = chain(condition)
    z, log_det = flow.inverse_and_log_det(X, condition)
    assert (z.shape, log_det.shape) == ((5, *BASE_SHAPE), (5,))
    x, forward_log_det = flow.forward_and_log_det(z, condition)
    np.testing.assert_allclose(x, X, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(forward_log_det, -log_det, rtol=0.0, atol=1e-12)


@CONDITIONS
def test_log_det_is_that_of_the_jacobian(condition):
    flow, x = chain(condition), tf.constant(X)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z, log_det = flow.inverse_and_log_det(x, condition)
        z = tf.reshape(z, (5, -1))
    jacobian = tf.reshape(tape.batch_jacobian(z, x, experimental_use_pfor=False), (5, 24, 24))
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=0.0, atol=1e-12)


def test_a_condition_of_the_event_is_that_of_each_position():
    flow = keras_nf.Chain(
        [keras_nf.AffineCoupling(hidden_units=(8,), dtype="float64"), Brightness(dtype="float64")],
        dtype="float64",
    )
    x = RNG.normal(size=(5, *BASE_SHAPE))
    flow.forward(x, condition=C)
    perturb(flow)
    coupling, brightness = flow.flows
    at_positions = np.broadcast_to(C[:, None, None], (5, HEIGHT, WIDTH, CONDITION))
    y, log_det = coupling.forward_and_log_det(x, at_positions)
    expected, own = brightness.forward_and_log_det(y)
    value, total = flow.forward_and_log_det(x, C)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(total, own + np.sum(log_det, axis=(1, 2)), rtol=1e-12)


@CONDITIONS
@pytest.mark.parametrize("batch", [(), (0,), (5,), (2, 3)], ids=str)
def test_batches_of_any_rank(condition, batch):
    flow, x = chain(condition), RNG.normal(size=(*batch, *DATA_SHAPE))
    c = None if condition is None else RNG.normal(size=(*batch, CONDITION))
    z, log_det = flow.inverse_and_log_det(x, c)
    assert (z.shape, log_det.shape) == ((*batch, *BASE_SHAPE), batch)
    flat_c = None if c is None else c.reshape(-1, CONDITION)
    flat_z, flat_log_det = flow.inverse_and_log_det(x.reshape(-1, *DATA_SHAPE), flat_c)
    np.testing.assert_allclose(z, np.reshape(flat_z, z.shape), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_det, np.reshape(flat_log_det, batch), rtol=1e-12)


@CONDITIONS
@pytest.mark.parametrize("shape", [None, (None, None, None, 1), (None, 4, 6, 1)], ids=str)
def test_unknown_shapes(condition, shape):
    flow = chain(condition)
    specs = [tf.TensorSpec(shape, "float64")]
    specs += [] if condition is None else [tf.TensorSpec((None, CONDITION), "float64")]
    run = tf.function(flow.inverse_and_log_det, input_signature=specs)
    given = [] if condition is None else [condition]
    z, log_det = run(X, *given)
    expected = flow.inverse_and_log_det(X, condition)
    np.testing.assert_allclose(z, expected[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_det, expected[1], rtol=1e-12)


@CONDITIONS
def test_distributions(condition):
    flow = chain(condition)
    given = {} if condition is None else {"condition": condition}
    z, log_det = flow.inverse_and_log_det(X, condition)
    expected = base().log_prob(z) + log_det
    dist = flow(base())
    assert dist.event_shape == DATA_SHAPE
    np.testing.assert_allclose(dist.log_prob(X, **given), expected, rtol=1e-12)
    plain = tfd.TransformedDistribution(base(), flow)
    np.testing.assert_allclose(plain.log_prob(X, bijector_kwargs=given), expected, rtol=1e-12)
    plain = tfd.TransformedDistribution(base(), tfb.Chain([flow]))
    through_chain = plain.log_prob(X, bijector_kwargs={flow.name: given})
    np.testing.assert_allclose(through_chain, expected, rtol=1e-12)
    batch = (7,) if condition is None else (7, 5)
    draws, log_prob = dist.experimental_sample_and_log_prob(7, seed=1, **given)
    assert (draws.shape, log_prob.shape) == ((*batch, *DATA_SHAPE), batch)
    repeated = None if condition is None else np.broadcast_to(C, (7, *C.shape))
    again = {} if condition is None else {"condition": repeated}
    np.testing.assert_allclose(log_prob, dist.log_prob(draws, **again), rtol=1e-10)


def test_a_base_of_more_axes_than_the_flow():
    frames = tfd.Sample(tfd.Normal(tf.constant(0.0, "float64"), 1.0), (6, *BASE_SHAPE))
    flow, x = chain(), RNG.normal(size=(5, 6, *DATA_SHAPE))
    z, log_det = flow.inverse_and_log_det(x)
    assert log_det.shape == (5, 6)
    expected = frames.log_prob(z) + np.sum(log_det, axis=1)
    np.testing.assert_allclose(flow(frames).log_prob(x), expected, rtol=1e-12)


def test_keras_model_of_images(tmp_path):
    flow = chain(C)
    inputs = keras.Input(BASE_SHAPE, dtype="float64"), keras.Input((CONDITION,), dtype="float64")
    y, log_det = flow(inputs[0], condition=inputs[1], return_log_det=True)
    assert (y.shape, log_det.shape) == ((None, *DATA_SHAPE), (None,))
    assert flow.compute_output_shape((None, *BASE_SHAPE), (None, CONDITION)) == (None, *DATA_SHAPE)
    model = keras.Model(inputs, [y, log_det])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    z = RNG.normal(size=(5, *BASE_SHAPE))
    for actual, expected in zip(loaded([z, C]), flow.forward_and_log_det(z, C), strict=True):
        np.testing.assert_array_equal(actual, expected)


@keras.saving.register_keras_serializable("event_ndims_tests")
def students(event_shape):
    marginal = tfd.StudentT(5.0, tf.zeros(event_shape, "float64"), 1.0)
    return tfd.Independent(marginal, len(event_shape))


@CONDITIONS
@pytest.mark.parametrize(
    "base", ["normal", pytest.param(students, marks=pytest.mark.long)], ids=["normal", "function"]
)
def test_flow_model_of_images(condition, base, tmp_path):
    flow = chain(condition)
    model = keras_nf.FlowModel(flow, base=base)
    z, log_det = flow.inverse_and_log_det(X, condition)
    expected = model.distribution.distribution.log_prob(z) + log_det
    np.testing.assert_allclose(model.log_prob(X, condition), expected, rtol=1e-10)
    data = X if condition is None else {"x": X, "condition": condition}
    np.testing.assert_allclose(model.predict(data, verbose=0), expected, rtol=1e-10)
    model.compile(keras.optimizers.SGD(1e-3))
    history = model.fit(data, epochs=5, verbose=0)
    assert history.history["loss"][-1] < -np.mean(expected)
    draws = model.sample(3, condition, seed=1)
    assert draws.shape == (3, *(() if condition is None else (5,)), *DATA_SHAPE)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(X, condition), model.log_prob(X, condition))
    loaded.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures
    given = {} if condition is None else {"condition": tf.constant(condition)}
    latents = served["inverse"](x=tf.constant(X), **given)["z"]
    assert latents.shape == (5, *BASE_SHAPE)
    np.testing.assert_allclose(served["forward"](z=latents, **given)["x"], X, atol=1e-10)
    again = served["sample"](n=tf.constant(3), seed=tf.constant([0, 1]), **given)["x"]
    np.testing.assert_allclose(again, model.sample(3, condition, seed=(0, 1)), rtol=1e-10)


def test_flow_model_builds_from_data():
    flow = keras_nf.Chain([keras_nf.Scaling(), DepthToSpace()])
    model = keras_nf.FlowModel(flow)
    model.compile("sgd")
    model.fit(X.astype("float32"), verbose=0)
    assert (flow.event_shape, flow.data_shape) == (BASE_SHAPE, DATA_SHAPE)
    for wrong in (X[0], X[:, :2]):
        with pytest.raises(ValueError, match=r"Expected data of|was built for data of"):
            model.fit(wrong.astype("float32"), verbose=0)


def test_variational_model_of_images():
    model = keras_nf.VariationalModel(chain(), lambda x: -tf.reduce_sum(x**2, axis=(1, 2, 3)))
    model.compile("sgd")
    history = model.fit(batch_size=8, steps_per_epoch=2, verbose=0)
    assert np.isfinite(history.history["bound"]).all()


@CONDITIONS
def test_check_flow(condition):
    keras_nf.check_flow(chain(condition), X, condition)


WRONG = {
    "too few axes": (lambda flow: flow.forward(np.zeros((2, 3))), r"\(\.\.\., 2, 3, 4\).*\(2, 3\)"),
    "other size": (
        lambda flow: flow.inverse(np.zeros((5, *BASE_SHAPE))),
        r"inputs of shape \(\.\.\., 4, 6, 1\)\. Received: shape \(5, 2, 3, 4\)",
    ),
    "condition of positions": (
        lambda flow: chain(C).inverse(X, condition=np.zeros((5, 4, 6, CONDITION))),
        "leading axes broadcast",
    ),
    "base": (lambda flow: flow(tfd.Sample(tfd.Normal(0.0, 1.0), 4)), "of 3 axes.*1 event axes"),
    "base of another size": (
        lambda flow: flow(tfd.Sample(tfd.Normal(0.0, 1.0), (2, 3, 5))),
        "size 2 x 3 x 5, the flow of size 2 x 3 x 4",
    ),
    "event size": (lambda flow: Brightness(event_size=4), "`event_size` is for events of one axis"),
    "axes": (lambda flow: keras_nf.Flow(event_ndims=0), "`event_ndims` must be a positive integer"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(chain())


def test_a_value_of_another_shape_than_the_flow_says():
    class Silent(DepthToSpace):
        def _forward_event_shape(self, shape):
            return shape

    with pytest.raises(
        ValueError, match=r"Silent .* float32 \(5, 2, 3, 4\)\. Received: .*\(5, 4, 6"
    ):
        Silent().forward(np.zeros((5, *BASE_SHAPE), "float32"))
