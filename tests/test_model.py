"""FlowModel in Keras's training loop, and the same flows with TFP or Keras alone."""

import csv
import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import FlowModel

pytestmark = pytest.mark.usefixtures("without_xla")

EVENT, CONDITION, ROWS = 3, 2, 48
RNG = np.random.default_rng(0)
X = RNG.normal(1.0, 2.0, size=(ROWS, EVENT)).astype("float32")
C = RNG.normal(size=(ROWS, CONDITION)).astype("float32")
W = RNG.uniform(0.1, 2.0, size=ROWS).astype("float32")
X_VAL = RNG.normal(size=(20, EVENT)).astype("float32")
C_VAL = RNG.normal(size=(20, CONDITION)).astype("float32")
W_VAL = RNG.uniform(0.1, 2.0, size=20).astype("float32")

# Two ways to sum some ten rounded numbers in float32.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def maf(layers=2, **kwargs):
    kwargs = {"hidden_units": (8,), "activation": "tanh", **kwargs}
    return keras_nf.maf(EVENT, layers=layers, **kwargs)


def real_nvp(**kwargs):
    return keras_nf.real_nvp(EVENT, layers=2, hidden_units=(8,), activation="tanh", **kwargs)


def model_of(flow=None, *, conditional=False, base="normal", **compile_options):
    """Return a model of a flow with random weights, which SGD at rate zero keeps.

    Of one layer, and without XLA: to trace and to compile takes longer than these fits to run.
    """
    model = FlowModel(maf(layers=1) if flow is None else flow, base=base)
    model.build(
        {"x": (None, EVENT), "condition": (None, CONDITION)} if conditional else (None, EVENT)
    )
    perturb(model.flow)
    model.compile(keras.optimizers.SGD(0.0), **{"jit_compile": False, **compile_options})
    return model


def known_model(dtype="float32", base="normal"):
    """Return the model of x = (1, 2, 4) z + (0, 1, -1)."""
    standardize = keras_nf.Standardize(dtype=dtype)
    model = FlowModel(standardize, base=base)
    model.build((None, EVENT))
    standardize.std.assign([1.0, 2.0, 4.0])
    standardize.mean.assign([0.0, 1.0, -1.0])
    return model


def nll_of(model, x, condition=None):
    """Negative log-likelihoods from the flow's inverse and the normal density written out."""
    z, log_det = model.flow.inverse_and_log_det(x, condition)
    z, log_det = z.numpy().astype("float64"), log_det.numpy().astype("float64")
    return 0.5 * (z**2 + math.log(2.0 * math.pi)).sum(axis=-1) - log_det


def dataset(*parts, batch=16):
    return tf.data.Dataset.from_tensor_slices(parts[0] if len(parts) == 1 else parts).batch(batch)


def with_condition(x, condition):
    return {"x": x, "condition": condition}


def fit(model, x, **kwargs):
    """Return the history of one quiet epoch, or of as many as asked for."""
    return model.fit(x, **{"verbose": 0, "batch_size": 16, **kwargs}).history


def evaluate(model, x, **kwargs):
    return model.evaluate(x, verbose=0, batch_size=16, **kwargs)


def trained(flow=maf, *, seed=1, epochs=2, **compile_options):
    """Return a model after a short training, fixed by the seed."""
    keras.utils.set_random_seed(seed)
    model = FlowModel(flow())
    model.compile(keras.optimizers.Adam(1e-2), **compile_options)
    fit(model, X, epochs=epochs)
    return model


trained_by_default = functools.cache(trained)


class TestLoss:
    def test_fit_reports_the_mean_negative_log_likelihood(self):
        model = model_of()
        np.testing.assert_allclose(fit(model, X)["loss"], [nll_of(model, X).mean()], **CLOSE)

    def test_fit_on_a_dataset(self):
        model = model_of()
        loss = model.fit(dataset(X), verbose=0).history["loss"]
        np.testing.assert_allclose(loss, [nll_of(model, X).mean()], **CLOSE)

    def test_evaluate(self):
        model = model_of()
        np.testing.assert_allclose(evaluate(model, X), nll_of(model, X).mean(), **CLOSE)

    def test_evaluate_on_a_dataset(self):
        model = model_of()
        loss = model.evaluate(dataset(X), verbose=0)
        np.testing.assert_allclose(loss, nll_of(model, X).mean(), **CLOSE)

    def test_evaluate_with_an_uneven_last_batch(self):
        model = model_of()
        loss = model.evaluate(X, batch_size=20, verbose=0)
        np.testing.assert_allclose(loss, nll_of(model, X).mean(), **CLOSE)

    def test_evaluate_as_a_dictionary(self):
        loss = model_of().evaluate(X, verbose=0, return_dict=True)
        assert list(loss) == ["loss"]

    def test_training_lowers_it(self):
        loss = trained(epochs=5).history.history["loss"]
        assert loss[-1] < loss[0] - 0.1

    @pytest.mark.parametrize("flow", [maf, real_nvp], ids=lambda flow: flow.__name__)
    def test_one_step_of_gradient_descent_follows_the_gradient_of_the_mean(self, flow):
        model = model_of(flow())
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model.log_prob(X))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        expected = [v - 0.1 * g for v, g in zip(model.get_weights(), gradients)]
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(X, batch_size=ROWS, verbose=0)
        for weight, value in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(weight, value, **CLOSE)


class TestSampleWeights:
    """The loss is sum_i w_i nll_i / n."""

    def expected(self, model, x=X, w=W, condition=None):
        return (w * nll_of(model, x, condition)).sum() / len(x)

    def test_fit(self):
        model = model_of()
        loss = fit(model, X, sample_weight=W)["loss"]
        np.testing.assert_allclose(loss, [self.expected(model)], **CLOSE)

    def test_fit_with_a_column_of_weights(self):
        model = model_of()
        loss = fit(model, X, sample_weight=W[:, None])["loss"]
        np.testing.assert_allclose(loss, [self.expected(model)], **CLOSE)

    def test_evaluate(self):
        model = model_of()
        np.testing.assert_allclose(
            evaluate(model, X, sample_weight=W), self.expected(model), **CLOSE
        )

    def test_fit_on_a_dataset(self):
        model = model_of()
        loss = model.fit(dataset(X, W, W), verbose=0).history["loss"]
        np.testing.assert_allclose(loss, [self.expected(model)], **CLOSE)

    def test_evaluate_on_a_dataset(self):
        model = model_of()
        loss = model.evaluate(dataset(X, W, W), verbose=0)
        np.testing.assert_allclose(loss, self.expected(model), **CLOSE)

    @pytest.mark.parametrize("name", ["train_on_batch", "test_on_batch"])
    def test_single_batches(self, name):
        model = model_of()
        loss = getattr(model, name)(X, sample_weight=W)
        np.testing.assert_allclose(loss, self.expected(model), **CLOSE)

    def test_conditional(self):
        model = model_of(conditional=True)
        loss = fit(model, with_condition(X, C), sample_weight=W)["loss"]
        np.testing.assert_allclose(loss, [self.expected(model, condition=C)], **CLOSE)

    def test_rows_of_weight_zero_do_not_train(self):
        def weights_after(x, w):
            model = model_of()
            model.compile(keras.optimizers.SGD(0.1))
            model.fit(x, sample_weight=w, batch_size=len(x), verbose=0)
            return model.get_weights()

        half = np.repeat(np.float32([2.0, 0.0]), ROWS // 2)
        ones = np.ones(ROWS // 2, "float32")
        for a, b in zip(weights_after(X, half), weights_after(X[: ROWS // 2], ones), strict=True):
            np.testing.assert_allclose(a, b, **CLOSE)


class TestValidation:
    @pytest.mark.parametrize(
        "data",
        [X_VAL, (X_VAL,), (X_VAL, None), dataset(X_VAL)],
        ids=["array", "tuple", "tuple-with-none", "dataset"],
    )
    def test_validation_data(self, data):
        model = model_of()
        loss = fit(model, X, validation_data=data)["val_loss"]
        np.testing.assert_allclose(loss, [nll_of(model, X_VAL).mean()], **CLOSE)

    @pytest.mark.parametrize(
        "data", [(X_VAL, None, W_VAL), dataset(X_VAL, W_VAL, W_VAL)], ids=["tuple", "dataset"]
    )
    def test_weights(self, data):
        model = model_of()
        loss = fit(model, X, validation_data=data)["val_loss"]
        expected = (W_VAL * nll_of(model, X_VAL)).sum() / len(X_VAL)
        np.testing.assert_allclose(loss, [expected], **CLOSE)

    def test_weights_beside_weights_of_the_training_data(self):
        model = model_of()
        history = fit(model, X, sample_weight=W, validation_data=(X_VAL, None, W_VAL))
        expected = (W_VAL * nll_of(model, X_VAL)).sum() / len(X_VAL)
        np.testing.assert_allclose(history["val_loss"], [expected], **CLOSE)

    def test_second_epoch_evaluates_the_same_data(self):
        model = model_of()
        loss = fit(model, X, epochs=2, validation_data=(X_VAL, None, W_VAL))["val_loss"]
        assert loss[0] == loss[1]

    def test_conditional(self):
        model = model_of(conditional=True)
        data = (with_condition(X_VAL, C_VAL),)
        loss = fit(model, with_condition(X, C), validation_data=data)["val_loss"]
        np.testing.assert_allclose(loss, [nll_of(model, X_VAL, C_VAL).mean()], **CLOSE)

    def test_split_takes_the_last_rows(self):
        model = model_of()
        history = fit(model, X, validation_split=0.25)
        nll = nll_of(model, X)
        np.testing.assert_allclose(history["loss"], [nll[:36].mean()], **CLOSE)
        np.testing.assert_allclose(history["val_loss"], [nll[36:].mean()], **CLOSE)

    def test_split_with_weights(self):
        model = model_of()
        loss = fit(model, X, sample_weight=W, validation_split=0.25)["val_loss"]
        expected = (W * nll_of(model, X))[36:].mean()
        np.testing.assert_allclose(loss, [expected], **CLOSE)


# Every way to a log-density; each takes the model, the data and the condition or None.
DENSITIES = {
    "call": lambda model, x, c: model(x if c is None else with_condition(x, c)),
    "predict": lambda model, x, c: model.predict(
        x if c is None else with_condition(x, c), batch_size=16, verbose=0
    ),
    "predict-dataset": lambda model, x, c: model.predict(
        dataset(x if c is None else with_condition(x, c)), verbose=0
    ),
    "log-prob": lambda model, x, c: model.log_prob(x, condition=c),
    "distribution": lambda model, x, c: model.distribution.log_prob(x, condition=c),
    "graph": lambda model, x, c: tf.function(model.log_prob)(x, condition=c),
    "xla": lambda model, x, c: tf.function(model.log_prob, jit_compile=True)(x, condition=c),
}
densities = pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES.keys())


@densities
@pytest.mark.parametrize("flow", [maf, real_nvp], ids=lambda flow: flow.__name__)
def test_log_density(flow, density):
    model = model_of(flow())
    result = np.asarray(density(model, X, None))
    assert result.shape == (ROWS,)
    np.testing.assert_allclose(result, -nll_of(model, X), **CLOSE)


@densities
@pytest.mark.parametrize("flow", [maf, real_nvp], ids=lambda flow: flow.__name__)
def test_conditional_log_density(flow, density):
    model = model_of(flow(), conditional=True)
    np.testing.assert_allclose(density(model, X, C), -nll_of(model, X, C), **CLOSE)


@pytest.mark.parametrize("flow", [maf, real_nvp], ids=lambda flow: flow.__name__)
def test_log_density_follows_the_condition(flow):
    model = model_of(flow(), conditional=True)
    assert (np.abs(model.log_prob(X, C) - model.log_prob(X, C + 1.0)) > 1e-3).all()


@pytest.mark.parametrize("shape", [(), (5,), (2, 5)], ids=["rank0", "rank1", "rank2"])
def test_log_density_of_any_batch_shape(shape):
    model = model_of()
    x = RNG.normal(size=(*shape, EVENT)).astype("float32")
    np.testing.assert_allclose(model.log_prob(x), nll_of(model, x) * -1.0, **CLOSE)


def test_one_condition_serves_a_batch():
    model = model_of(conditional=True)
    expected = model.log_prob(X, np.broadcast_to(C[0], (ROWS, CONDITION)))
    np.testing.assert_allclose(model.log_prob(X, C[0]), expected, **CLOSE)


@pytest.mark.parametrize("names", [["x"], ["x", "condition"]], ids=["plain", "conditional"])
@pytest.mark.parametrize("data", ["arrays", "dataset"])
def test_fit_on_a_dictionary(names, data):
    model = model_of(conditional="condition" in names)
    inputs = {name: {"x": X, "condition": C}[name] for name in names}
    nll = nll_of(model, X, inputs.get("condition")).mean()
    if data == "arrays":
        loss = fit(model, inputs)["loss"]
    else:
        loss = model.fit(dataset(inputs), verbose=0).history["loss"]
    np.testing.assert_allclose(loss, [nll], **CLOSE)


def test_conditional_evaluate():
    model = model_of(conditional=True)
    loss = evaluate(model, with_condition(X, C))
    np.testing.assert_allclose(loss, nll_of(model, X, C).mean(), **CLOSE)


def test_conditional_fit_learns_the_dependence():
    """x ~ N(2 c, 0.5^2) has the entropy log(0.5) + log(2 pi e) / 2 given c."""
    keras.utils.set_random_seed(0)
    c = RNG.normal(size=(4096, 1)).astype("float32")
    x = (2.0 * c + 0.5 * RNG.normal(size=c.shape)).astype("float32")
    model = FlowModel(keras_nf.MaskedAutoregressive(hidden_units=(), event_size=1))
    model.compile(keras.optimizers.Adam(0.05))
    fit(model, with_condition(x, c), epochs=20, batch_size=256)
    entropy = math.log(0.5) + 0.5 * math.log(2.0 * math.pi * math.e)
    # The standard error of a mean over 4,096 rows of variance 1/2 is 0.011.
    assert abs(evaluate(model, with_condition(x, c)) - entropy) < 0.04


class TestBase:
    """Densities of x = (1, 2, 4) z + (0, 1, -1) against closed forms."""

    X = np.array([[0.2, 1.5, -0.5], [0.9, 2.8, 2.0], [0.5, 2.0, 1.0]], "float32")
    Z = (X.astype("float64") - [0.0, 1.0, -1.0]) / [1.0, 2.0, 4.0]
    LOG_DET = math.log(8.0)

    def test_normal(self):
        expected = -0.5 * (self.Z**2 + math.log(2.0 * math.pi)).sum(axis=-1) - self.LOG_DET
        np.testing.assert_allclose(known_model().log_prob(self.X), expected, **CLOSE)

    def test_uniform(self):
        expected = np.full(3, -self.LOG_DET)
        np.testing.assert_allclose(known_model(base="uniform").log_prob(self.X), expected, **CLOSE)

    def test_uniform_outside_of_its_support(self):
        assert known_model(base="uniform").log_prob(self.X[0] + 5.0) == -math.inf

    def test_logistic(self):
        expected = (-self.Z - 2.0 * np.log1p(np.exp(-self.Z))).sum(axis=-1) - self.LOG_DET
        np.testing.assert_allclose(known_model(base="logistic").log_prob(self.X), expected, **CLOSE)

    def test_function_of_the_event_size(self):
        model = known_model(base=laplace)
        expected = -(np.abs(self.Z) + math.log(2.0)).sum(axis=-1) - self.LOG_DET
        np.testing.assert_allclose(model.log_prob(self.X), expected, **CLOSE)

    def test_latents_of_samples_follow_the_base(self):
        model = model_of(base="uniform")
        z = model.flow.inverse(model.sample(4000, seed=0)).numpy()
        assert -1e-5 < z.min() < 0.01
        assert 0.99 < z.max() < 1.0 + 1e-5
        # Five standard errors of the mean and the variance of 4,000 uniform numbers.
        np.testing.assert_allclose(z.mean(axis=0), 1.0 / 2.0, atol=5 * math.sqrt(1 / 12 / 4000))
        np.testing.assert_allclose(z.var(axis=0), 1.0 / 12.0, atol=5 * math.sqrt(1 / 180 / 4000))

    def test_latents_of_samples_are_the_draws_of_the_base(self):
        model = model_of()
        z = tfd.Sample(tfd.Normal(0.0, 1.0), EVENT).sample(50, seed=(1, 2))
        x = model.flow.forward(z)
        # Two layers of three steps each amplify the rounding of float32.
        np.testing.assert_allclose(model.flow.inverse(x), z, rtol=1e-4, atol=1e-4)


@keras.saving.register_keras_serializable("keras_nf_tests")
def laplace(event_size):
    return tfd.Independent(tfd.Laplace(tf.zeros(event_size), 1.0), 1)


class TestSample:
    @pytest.mark.parametrize("n", [0, 1, 7, np.int64(7), np.int32(7), np.uint8(7)], ids=repr)
    def test_shape(self, n):
        sample = model_of().sample(n, seed=0)
        assert sample.shape == (int(n), EVENT)
        assert sample.dtype == "float32"

    @pytest.mark.parametrize("shape", [(), (5,), (2, 5)], ids=["rank0", "rank1", "rank2"])
    def test_shape_with_a_condition(self, shape):
        condition = RNG.normal(size=(*shape, CONDITION)).astype("float32")
        sample = model_of(conditional=True).sample(4, condition=condition, seed=0)
        assert sample.shape == (4, *shape, EVENT)

    @pytest.mark.usefixtures("with_xla")
    @pytest.mark.parametrize("seed", [0, -1, 2**40 + 3, (4, 5), np.array([4, 5])], ids=str)
    def test_seed_fixes_the_draws(self, seed):
        model = model_of()
        np.testing.assert_array_equal(model.sample(5, seed=seed), model.sample(5, seed=seed))

    @pytest.mark.parametrize("other", [1, 2**31, 2**40, -1, (4, 5)], ids=str)
    def test_other_seeds_give_other_draws(self, other):
        model = model_of()
        assert (model.sample(5, seed=0) != model.sample(5, seed=other)).numpy().all()

    def test_draws_without_a_seed_differ(self):
        model = model_of()
        assert (model.sample(5) != model.sample(5)).numpy().all()

    def test_global_seed_fixes_draws_without_a_seed(self):
        def draws():
            keras.utils.set_random_seed(3)
            return model.sample(5)

        model = model_of()
        np.testing.assert_array_equal(draws(), draws())

    def test_rows_of_the_condition_get_draws_of_their_own(self):
        model = model_of(conditional=True)
        sample = model.sample(1, condition=np.repeat(C[:1], 2, axis=0), seed=0)
        assert (sample[:, 0] != sample[:, 1]).numpy().all()

    def test_global_dtype_of_a_float64_model(self):
        model = known_model(dtype="float64")
        assert model.sample(2, seed=0).dtype == "float64"

    def test_mean_and_variance(self):
        sample = known_model().sample(20_000, seed=0).numpy()
        std = np.array([1.0, 2.0, 4.0])
        # Five standard errors of the mean and the variance of n normal numbers.
        error = 5.0 * std / math.sqrt(20_000)
        assert (np.abs(sample.mean(axis=0) - [0.0, 1.0, -1.0]) < error).all()
        assert (np.abs(sample.var(axis=0) - std**2) < math.sqrt(2.0) * std * error).all()

    def test_samples_follow_the_weights(self):
        model = known_model()
        before = model.sample(5, seed=0)
        model.flow.mean.assign_add([1.0, 1.0, 1.0])
        np.testing.assert_allclose(model.sample(5, seed=0), before + 1.0, **CLOSE)

    def test_samples_follow_the_condition(self):
        model = model_of(conditional=True)
        one, other = model.sample(5, C[0], seed=0), model.sample(5, C[1], seed=0)
        assert (np.abs(one - other) > 1e-3).any()


class Counting(keras.layers.Layer):
    """A linear network that counts how often it is evaluated."""

    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def build(self, inputs_shape):
        self.dense.build(inputs_shape)
        self.calls = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)

    def compute_output_shape(self, inputs_shape):
        return self.dense.compute_output_shape(inputs_shape)

    def call(self, inputs):
        self.calls.assign_add(1)
        return self.dense(inputs)


class TestOneEvaluation:
    """Each network runs once for a density, as counted while it runs."""

    def model(self, **compile_options):
        # One of three components is transformed: two parameters.
        networks = [Counting(2), Counting(2)]
        flow = keras_nf.Chain([keras_nf.AffineCoupling(conditioner=n) for n in networks])
        model = FlowModel(flow)
        model.build((None, EVENT))
        model.compile("sgd", **compile_options)
        self.networks = networks
        return model

    def counts(self):
        return [int(network.calls.numpy()) for network in self.networks]

    @pytest.mark.parametrize(
        "density",
        [
            lambda model: model(X),
            lambda model: model.log_prob(X),
            lambda model: model.distribution.log_prob(X),
            lambda model: tf.function(model.distribution.log_prob)(X),
            lambda model: model.distribution.experimental_sample_and_log_prob(5),
            lambda model: model.predict(X, batch_size=ROWS, verbose=0),
            lambda model: model.evaluate(X, batch_size=ROWS, verbose=0),
        ],
        ids=[
            "call",
            "log-prob",
            "distribution",
            "graph",
            "sample-and-log-prob",
            "predict",
            "evaluate",
        ],
    )
    def test_of_a_density(self, density):
        model = self.model()
        density(model)
        assert self.counts() == [1, 1]

    @pytest.mark.parametrize(
        "options",
        [{}, {"run_eagerly": True}, {"jit_compile": True}],
        ids=["default", "eager", "xla"],
    )
    def test_of_a_training_step(self, options):
        model = self.model(**options)
        model.fit(X, batch_size=16, verbose=0)
        assert self.counts() == [3, 3]

    def test_of_a_masked_network(self):
        calls = []

        def counting_tanh(x):
            calls.append(x)
            return keras.ops.tanh(x)

        model = FlowModel(
            keras_nf.MaskedAutoregressive(hidden_units=(8,), activation=counting_tanh)
        )
        model.build((None, EVENT))
        calls.clear()
        model.distribution.log_prob(X)
        assert len(calls) == 1


def test_distribution_is_one_of_tfp():
    distribution = model_of().distribution
    assert isinstance(distribution, tfd.TransformedDistribution)
    assert distribution.event_shape == (EVENT,)
    assert distribution.batch_shape == ()


def test_distribution_follows_the_weights():
    model = model_of()
    distribution, before = model.distribution, model.log_prob(X)
    perturb(model.flow, seed=1)
    np.testing.assert_allclose(distribution.log_prob(X), -nll_of(model, X), **CLOSE)
    assert (np.abs(before - model.log_prob(X)) > 1e-3).all()


class TestMetrics:
    def test_a_function_gets_the_data_and_the_log_densities(self):
        seen = []

        def metric(y_true, y_pred):
            seen.append((y_true.numpy(), y_pred.numpy()))
            return y_pred

        model = model_of(metrics=[metric], run_eagerly=True)
        model.fit(X, batch_size=ROWS, shuffle=False, verbose=0)
        np.testing.assert_array_equal(seen[-1][0], X)
        np.testing.assert_allclose(seen[-1][1], -nll_of(model, X), **CLOSE)

    def test_its_mean_is_reported(self):
        def bits_per_dimension(y_true, y_pred):
            return -y_pred / (math.log(2.0) * y_true.shape[-1])

        model = model_of(metrics=[bits_per_dimension])
        history = fit(model, X, validation_data=X_VAL)
        expected = nll_of(model, X).mean() / math.log(2.0) / EVENT
        np.testing.assert_allclose(history["bits_per_dimension"], [expected], **CLOSE)
        assert "val_bits_per_dimension" in history

    def test_conditional(self):
        def first_component(y_true, y_pred):
            return y_true[:, 0]

        model = model_of(conditional=True, metrics=[first_component])
        history = fit(model, with_condition(X, C))
        np.testing.assert_allclose(history["first_component"], [X[:, 0].mean()], **CLOSE)

    def test_evaluate_returns_a_list(self):
        def first_component(y_true, y_pred):
            return y_true[:, 0]

        model = model_of(metrics=[first_component])
        np.testing.assert_allclose(
            evaluate(model, X), [nll_of(model, X).mean(), X[:, 0].mean()], **CLOSE
        )


class TestCallbacks:
    def test_early_stopping_restores_the_best_weights(self):
        model = FlowModel(maf())
        model.compile(keras.optimizers.SGD(0.5))
        stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
        # Validation data far from the training data get worse with every step.
        history = fit(model, X, epochs=20, validation_data=10.0 - 2.0 * X_VAL, callbacks=[stop])
        assert len(history["val_loss"]) < 20
        np.testing.assert_allclose(
            evaluate(model, 10.0 - 2.0 * X_VAL), min(history["val_loss"]), rtol=1e-5
        )

    def test_model_checkpoint(self, tmp_path):
        path = tmp_path / "best.keras"
        model = FlowModel(maf())
        model.compile("adam", jit_compile=False)
        fit(model, X, epochs=2, callbacks=[keras.callbacks.ModelCheckpoint(path)])
        np.testing.assert_array_equal(keras.models.load_model(path).log_prob(X), model.log_prob(X))

    def test_csv_logger(self, tmp_path):
        path = tmp_path / "log.csv"
        history = fit(
            model_of(),
            X,
            epochs=2,
            validation_data=X_VAL,
            callbacks=[keras.callbacks.CSVLogger(path)],
        )
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert [float(row["loss"]) for row in rows] == history["loss"]
        assert [float(row["val_loss"]) for row in rows] == history["val_loss"]

    def test_tensorboard(self, tmp_path):
        callback = keras.callbacks.TensorBoard(tmp_path)
        history = fit(model_of(), X, epochs=2, callbacks=[callback])
        logged = []
        for file in (tmp_path / "train").glob("events.*"):
            for event in tf.compat.v1.train.summary_iterator(str(file)):
                logged += [
                    float(tf.make_ndarray(value.tensor))
                    for value in event.summary.value
                    if value.tag == "epoch_loss"
                ]
        np.testing.assert_allclose(logged, history["loss"], rtol=1e-6)

    def test_backup_and_restore(self, tmp_path):
        class Interrupt(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    raise InterruptedError

        def run(model, *callbacks):
            backup = keras.callbacks.BackupAndRestore(tmp_path)
            return fit(model, X, epochs=4, shuffle=False, callbacks=[*callbacks, backup])

        def fresh():
            keras.utils.set_random_seed(1)
            model = FlowModel(maf())
            model.build((None, EVENT))
            model.compile("adam", jit_compile=False)
            return model

        interrupted, resumed, whole = fresh(), fresh(), fresh()
        with pytest.raises(InterruptedError):
            run(interrupted, Interrupt())
        assert len(run(resumed)["loss"]) == 2
        fit(whole, X, epochs=4, shuffle=False)
        for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_learning_rate_schedule(self):
        model = FlowModel(maf())
        model.compile("adam")
        schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
        history = fit(model, X, epochs=2, callbacks=[schedule])
        np.testing.assert_allclose(history["learning_rate"], [0.1, 0.05], rtol=1e-6)


@pytest.mark.usefixtures("with_xla")
class TestXla:
    """Keras chooses XLA on accelerators; FlowModel does for planar flows and splines everywhere."""

    @pytest.mark.parametrize(
        ("flow", "options", "expected"),
        [
            (keras_nf.Planar(), {}, True),
            (keras_nf.Chain([keras_nf.Planar(folds=2), keras_nf.Scaling()]), {}, True),
            (keras_nf.Invert(keras_nf.Planar()), {"jit_compile": "auto"}, True),
            (keras_nf.Planar(), {"jit_compile": False}, False),
            (keras_nf.Planar(), {"run_eagerly": True}, False),
            (keras_nf.Planar(validate_args=True), {}, False),
            (keras_nf.Scaling(), {"jit_compile": True}, True),
            (keras_nf.SplineCoupling(), {}, True),
            (keras_nf.nsf(event_size=2, layers=2), {}, True),
            (keras_nf.SplineCoupling(), {"jit_compile": False}, False),
        ],
        ids=["planar", "chain", "invert", "off", "eager", "unsupported", "on"]
        + ["spline", "splines", "spline-off"],
    )
    @pytest.mark.filterwarnings("error")
    def test_choice(self, flow, options, expected):
        model = FlowModel(flow)
        model.compile("adam", **options)
        assert model.jit_compile is expected

        loaded = FlowModel(flow)
        loaded.compile_from_config(model.get_compile_config())
        assert loaded.jit_compile is expected

    @pytest.mark.skipif(len(tf.config.list_physical_devices()) > 1, reason="Keras chooses XLA")
    def test_other_flows_are_left_to_keras(self):
        model = FlowModel(maf())
        model.compile("adam")
        assert model.jit_compile is False

    def test_distributed_training_goes_without(self):
        with tf.distribute.OneDeviceStrategy("CPU:0").scope():
            model = FlowModel(keras_nf.Planar())
            model.compile("adam")
        assert model.jit_compile is False


class TestSummary:
    def text(self, flow):
        lines = []
        model = FlowModel(flow)
        model.build((None, EVENT))
        model.summary(print_fn=lines.append, line_length=120)
        return model, "\n".join(lines)

    def test_lists_every_flow_of_a_chain(self):
        flow = keras_nf.Chain([*maf(layers=3).flows, keras_nf.Permute(), keras_nf.Standardize()])
        _, text = self.text(flow)
        for part in flow.flows:
            assert part.name in text
            assert type(part).__name__ in text

    def test_counts_the_parameters(self):
        model, text = self.text(keras_nf.Chain([*maf().flows, keras_nf.Standardize()]))
        # A kernel and a bias from 3 to 8, and from 8 to 2 x 3, in each of two layers.
        trainable = 2 * ((3 + 1) * 8 + (8 + 1) * 6)
        # Mean and standard deviation, and whether they were taken from data.
        assert model.count_params() == trainable + 7
        assert f"Total params: {trainable + 7}" in text
        assert f"Trainable params: {trainable}" in text
        assert "Non-trainable params: 7" in text


class TestHowItTrains:
    def test_equal_seeds_give_equal_weights(self):
        first, second = trained_by_default(maf), trained(maf)
        for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_other_seeds_give_other_weights(self):
        first, second = trained_by_default(maf), trained(maf, seed=2)
        assert not np.allclose(first.get_weights()[0], second.get_weights()[0])

    @pytest.mark.usefixtures("with_xla")
    @pytest.mark.parametrize("flow", [maf, real_nvp], ids=lambda flow: flow.__name__)
    @pytest.mark.parametrize(
        "options",
        [
            {"run_eagerly": True},
            {"jit_compile": True},
            {"jit_compile": False},
            {"steps_per_execution": 2},
        ],
        ids=["eager", "xla", "graph", "two-steps"],
    )
    def test_every_mode_agrees_with_the_default(self, options, flow):
        default, other = trained_by_default(flow), trained(flow, **options)
        # Six steps of Adam, which divides by the root of a small squared gradient.
        np.testing.assert_allclose(
            other.history.history["loss"], default.history.history["loss"], rtol=1e-4
        )
        for a, b in zip(other.get_weights(), default.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    @pytest.mark.parametrize("flow", [maf, real_nvp], ids=lambda flow: flow.__name__)
    def test_mixed_precision(self, policy, flow):
        model = FlowModel(flow(dtype=policy))
        model.compile("adam")
        loss = fit(model, X, epochs=3)["loss"]
        assert np.isfinite(loss).all()
        assert loss[-1] < loss[0]
        assert {weight.dtype for weight in model.weights} == {"float32"}
        assert model.log_prob(X).dtype == "float32"

    def test_mixed_precision_by_a_global_policy(self):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = FlowModel(maf())
            model.compile("adam")
            assert np.isfinite(fit(model, X)["loss"]).all()
        finally:
            keras.config.set_dtype_policy(before)
        assert {weight.dtype for weight in model.weights} == {"float32"}
        assert model.flow.flows[0].conditioner.compute_dtype == "bfloat16"

    def test_float64_is_precise(self):
        x = X.astype("float64")
        model = known_model(dtype="float64")
        z = (x - [0.0, 1.0, -1.0]) / [1.0, 2.0, 4.0]
        expected = -0.5 * (z**2 + math.log(2.0 * math.pi)).sum(axis=-1) - math.log(8.0)
        # Some ten operations in float64; in float32 they would be off by 1e-6.
        np.testing.assert_allclose(model.log_prob(x), expected, rtol=1e-14)

    def test_float64_is_precise_through_networks(self):
        model = model_of(maf(dtype="float64"))
        exact = nll_of(model, X.astype("float64"))
        np.testing.assert_allclose(
            model.predict(X.astype("float64"), verbose=0), -exact, rtol=1e-12, atol=1e-12
        )

    def test_float64_fit(self):
        model = model_of(maf(dtype="float64"))
        loss = fit(model, X.astype("float64"))["loss"]
        # The metric of the loss is kept in float32.
        np.testing.assert_allclose(loss, [nll_of(model, X.astype("float64")).mean()], rtol=1e-6)

    def test_nan_stops_a_validating_flow(self):
        model = FlowModel(maf(validate_args=True))
        model.compile("adam")
        with pytest.raises(tf.errors.InvalidArgumentError, match="NaN or infinite"):
            fit(model, np.where(X > 2.0, np.nan, X))

    def test_frozen_flow_keeps_its_weights(self):
        model = FlowModel(maf())
        model.build((None, EVENT))
        model.flow.flows[0].trainable = False
        before = model.flow.flows[0].get_weights(), model.flow.flows[1].get_weights()
        model.compile("adam")
        fit(model, X)
        for a, b in zip(before[0], model.flow.flows[0].get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert any((a != b).any() for a, b in zip(before[1], model.flow.flows[1].get_weights()))


class TestTarget:
    """x2 ~ N(0, 2^2) and x1 ~ N(x2^2 / 4, 1), the example of the MAF paper.

    The best mean log-likelihood is minus the entropy, -(log 2 + log(2 pi e)) = -3.53102 nats. One
    affine layer in the order x1, x2 can only make x1 a normal, and x2 given x1 another.
    """

    BEST = -(math.log(2.0) + math.log(2.0 * math.pi * math.e))

    def draws(self, n, seed):
        rng = np.random.default_rng(seed)
        x2 = 2.0 * rng.normal(size=n)
        return np.stack([x2**2 / 4.0 + rng.normal(size=n), x2], axis=1).astype("float32")

    def best_in_the_wrong_order(self):
        """Best mean log-likelihood of x1 ~ normal, x2 | x1 ~ normal, by quadrature."""
        x2, x1 = np.linspace(-12.0, 12.0, 2001), np.linspace(-6.0, 40.0, 4001)
        joint = np.exp(-0.5 * (x1[:, None] - x2**2 / 4.0) ** 2 - x2**2 / 8.0) / (4.0 * math.pi)
        joint *= (x1[1] - x1[0]) * (x2[1] - x2[0])
        marginal = joint.sum(axis=1)
        conditional_variance = (joint * x2**2).sum(axis=1) / marginal
        mean = (marginal * x1).sum()
        variance = (marginal * (x1 - mean) ** 2).sum()
        log_variances = math.log(variance) + (marginal * np.log(conditional_variance)).sum()
        return -0.5 * (2.0 * math.log(2.0 * math.pi * math.e) + log_variances)

    def score(self, flow, epochs):
        """Mean log-likelihood of fresh samples after a fit."""
        keras.utils.set_random_seed(0)
        model = FlowModel(flow)
        model.compile(keras.optimizers.Adam(5e-3))
        decay = keras.callbacks.LearningRateScheduler(
            lambda epoch: 5e-3 * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
        )
        model.fit(
            self.draws(16_384, 1), batch_size=256, epochs=epochs, callbacks=[decay], verbose=0
        )
        return float(np.mean(model.predict(self.draws(20_000, 2), batch_size=4096, verbose=0)))

    def test_five_layers(self):
        flow = keras_nf.maf(2, layers=5, hidden_units=(32, 32), activation="tanh")
        assert abs(self.score(flow, epochs=10) - self.BEST) < 0.05

    def test_one_layer_in_the_right_order(self):
        flow = keras_nf.MaskedAutoregressive(hidden_units=(64,), order="reversed")
        assert abs(self.score(flow, epochs=10) - self.BEST) < 0.05

    def test_one_layer_in_the_wrong_order(self):
        flow = keras_nf.MaskedAutoregressive(hidden_units=(64,), order="sequential")
        # The standard error of a mean over 20,000 samples is below 0.01.
        assert self.score(flow, epochs=10) < self.best_in_the_wrong_order() + 0.03

    def test_the_best_in_the_wrong_order_is_worse(self):
        assert self.best_in_the_wrong_order() < self.BEST - 0.1


# TFP's two ways to make a distribution of a flow.
COMPOSITIONS = {
    "tfp": lambda base, flow: tfd.TransformedDistribution(base, flow),
    "flow": lambda base, flow: flow(base),
}
compositions = pytest.mark.parametrize("compose", COMPOSITIONS.values(), ids=COMPOSITIONS.keys())


def normal_base():
    return tfd.MultivariateNormalDiag(tf.zeros(EVENT))


def built_maf(**kwargs):
    flow = maf(**kwargs)
    flow.build((None, EVENT))
    return flow


@compositions
class TestWithTfpAlone:
    def test_trainable_variables_are_those_of_the_flow(self, compose):
        flow = built_maf()
        found = {id(v) for v in compose(normal_base(), flow).trainable_variables}
        assert found == {id(v.value) for v in flow.trainable_variables}

    @pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
    def test_a_gradient_tape_loop_lowers_the_loss(self, compose, wrap):
        distribution = compose(normal_base(), built_maf())
        optimizer = keras.optimizers.Adam(1e-2)
        optimizer.build(distribution.trainable_variables)

        @wrap
        def step(x):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(distribution.log_prob(x))
            variables = distribution.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        x = tf.constant(X)
        losses = [float(step(x)) for _ in range(30)]
        assert losses[-1] < losses[0] - 0.3

    def test_loss_of_an_eager_loop_over_one_tensor_is_the_true_one(self, compose):
        flow = built_maf(layers=1)
        distribution = compose(normal_base(), flow)
        x = tf.constant(X)
        optimizer = keras.optimizers.SGD(0.1)
        for _ in range(5):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(distribution.log_prob(x))
            np.testing.assert_allclose(loss, maf_nll(flow.flows[0], X).mean(), **CLOSE)
            variables = distribution.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

    def test_checkpoint(self, compose, tmp_path):
        saved, fresh = built_maf(), built_maf()
        perturb(saved)
        distribution = compose(normal_base(), saved)
        path = tf.train.Checkpoint(distribution=distribution).save(tmp_path / "checkpoint")
        restored = compose(normal_base(), fresh)
        assert (np.abs(restored.log_prob(X) - distribution.log_prob(X)) > 1e-3).any()
        tf.train.Checkpoint(distribution=restored).restore(path).assert_existing_objects_matched()
        np.testing.assert_array_equal(restored.log_prob(X), distribution.log_prob(X))


def test_checkpoint_of_a_model_restores_one_that_is_built_later(tmp_path):
    saved, fresh = model_of(), FlowModel(maf())
    path = tf.train.Checkpoint(model=saved).save(tmp_path / "checkpoint")
    tf.train.Checkpoint(model=fresh).restore(path)
    np.testing.assert_allclose(fresh.log_prob(X), saved.log_prob(X), rtol=1e-5)


def maf_nll(flow, x):
    """Negative log-likelihood of one layer with one hidden layer of tanh, in NumPy."""
    weights = {weight.name: weight.numpy().astype("float64") for weight in flow.weights}
    masks = [product.mask for product in flow.conditioner._products]
    h = np.tanh(x @ (weights["kernel_0"] * masks[0]) + weights["bias_0"])
    shift, raw = np.split(h @ (weights["kernel_1"] * masks[1]) + weights["bias_1"], 2, axis=-1)
    log_scale = raw / (1.0 + np.abs(raw) / 2.0)
    z = x * np.exp(-log_scale) - shift
    return (0.5 * (z**2 + math.log(2.0 * math.pi)) + log_scale).sum(axis=-1)


class TestWithKerasAlone:
    def models(self, name, flow):
        if name == "sequential":
            return keras.Sequential([keras.Input((EVENT,)), flow])
        inputs = keras.Input((EVENT,))
        return keras.Model(inputs, flow(inputs))

    @pytest.mark.parametrize(
        ("name", "make"),
        [("sequential", maf), ("sequential", real_nvp), ("functional", real_nvp)],
        ids=["sequential-maf", "sequential-real_nvp", "functional-real_nvp"],
    )
    def test_fit_on_the_mean_squared_error(self, name, make):
        model = self.models(name, make())
        model.compile(keras.optimizers.Adam(1e-2), loss="mse")
        y = 2.0 * X + 1.0
        loss = fit(model, X, y=y, epochs=5)["loss"]
        assert loss[-1] < 0.9 * loss[0]

    @pytest.mark.parametrize("name", ["sequential", "functional"])
    def test_output_is_the_forward_direction(self, name):
        flow = real_nvp()
        model = self.models(name, flow)
        perturb(flow)
        np.testing.assert_allclose(model.predict(X, verbose=0), flow.forward(X), **CLOSE)

    def test_log_determinant_as_a_second_output(self):
        flow = real_nvp()
        inputs = keras.Input((EVENT,))
        model = keras.Model(inputs, flow(inputs, return_log_det=True))
        perturb(flow)
        y, log_det = model.predict(X, verbose=0)
        expected_y, expected_log_det = flow.forward_and_log_det(X)
        np.testing.assert_allclose(y, expected_y, **CLOSE)
        np.testing.assert_allclose(log_det, expected_log_det, **CLOSE)

    def test_condition_as_a_second_input(self):
        flow = real_nvp()
        inputs, condition = keras.Input((EVENT,)), keras.Input((CONDITION,))
        model = keras.Model([inputs, condition], flow(inputs, condition))
        perturb(flow)
        np.testing.assert_allclose(
            model.predict([X, C], verbose=0), flow.forward(X, condition=C), **CLOSE
        )


@pytest.mark.parametrize(
    "data",
    [
        X,
        {"x": X, "condition": C},
        tf.data.Dataset.from_tensor_slices(X).batch(ROWS),
        tf.data.Dataset.from_tensor_slices((X, W, W)).batch(ROWS),
    ],
    ids=["array", "condition", "dataset", "weights"],
)
def test_fit_traces_a_step_once(data):
    traces = []

    class Traced(FlowModel):
        def train_step(self, data):
            traces.append(data)
            return super().train_step(data)

    model = Traced(maf(layers=1))
    model.compile("adam")
    model.fit(data, verbose=0)
    assert len(traces) == 1
