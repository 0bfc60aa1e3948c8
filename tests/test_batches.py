"""One meaning of data, however they come: as arrays of any kind, as datasets, or in a call."""

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb

import keras_nf
from keras_nf import plot

pytestmark = pytest.mark.usefixtures("without_xla")

ROWS = 8
rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, 3))
# Numbers that float32 cannot tell apart.
FAR = 1.7e9 + np.arange(3.0 * ROWS).reshape(ROWS, 3) / 128
C = rng.normal(size=(ROWS, 2))
LABELS = np.eye(2, dtype=bool)[rng.integers(0, 2, ROWS)]


class Table:
    """What is no array but gives one, as the tables of other libraries do."""

    def __init__(self, values):
        self.shape, self._values = values.shape, values

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype)


def slices(x, condition):
    return tf.data.Dataset.from_tensor_slices(
        x if condition is None else {"x": x, "condition": condition}
    ).batch(3)


def together(kind):
    def make(x, condition):
        return kind(x) if condition is None else {"x": kind(x), "condition": kind(condition)}

    return make


KINDS = {
    "array": together(np.asarray),
    "fortran": together(np.asfortranarray),
    "tensor": together(tf.constant),
    "variable": together(tf.Variable),
    "keras-variable": together(lambda a: keras.Variable(a, dtype=a.dtype.name)),
    "table": together(Table),
    "dictionary": lambda x, condition: {"x": x, "condition": condition},
    "dataset": slices,
}
CASES = {
    "float32": ("float32", X.astype("float32"), None),
    "rounded": ("float32", X, None),
    "float64": ("float64", FAR, None),
    "conditional": ("float64", X, C),
    "labels": ("float32", X, LABELS),
}


def maf(**options):
    return keras_nf.maf(3, layers=1, hidden_units=(8,), **options)


def model_of(dtype, x, condition):
    standardize = keras_nf.Standardize(dtype=dtype)
    standardize.adapt(x)
    flow = keras_nf.Chain([maf(dtype=dtype), standardize], dtype=dtype)
    model = keras_nf.FlowModel(flow)
    model.compile(keras.optimizers.SGD(1e-3))
    model(x if condition is None else {"x": x, "condition": condition})
    perturb(flow.flows[0], seed=1)
    return model


# Every kind of data in one dtype and with conditions; arrays and a dataset in all cases.
ENTRANCES = [
    (case, kind)
    for case in CASES
    for kind in KINDS
    if case in ("rounded", "conditional") or kind in ("array", "dataset")
]


@pytest.mark.parametrize(("case", "kind"), ENTRANCES)
def test_all_entrances_agree(case, kind):
    kind = KINDS[kind]
    dtype, x, condition = CASES[case]
    model = model_of(dtype, x, condition)
    expected = model.log_prob(x, condition).numpy()
    assert expected.dtype == dtype
    assert len(set(expected)) == ROWS
    rounding = {"rtol": 1e-5 if dtype == "float32" else 1e-10}
    data = kind(x, condition)
    np.testing.assert_allclose(model.predict(data, batch_size=3, verbose=0), expected, **rounding)
    np.testing.assert_allclose(
        model.evaluate(data, batch_size=3, verbose=0), -np.mean(expected), rtol=1e-5
    )
    history = model.fit(
        data, batch_size=ROWS, validation_data=data, shuffle=False, verbose=0
    ).history
    if kind is not slices:
        np.testing.assert_allclose(history["loss"], -np.mean(expected), rtol=1e-5)
    assert history["val_loss"][0] < -np.mean(expected)


@pytest.mark.parametrize("enter", ["fit", "evaluate", "predict", "log_prob"])
def test_ragged_data(enter):
    model = keras_nf.FlowModel(maf())
    model.compile("sgd")
    with pytest.raises(ValueError, match="needs inputs as one array or tensor"):
        getattr(model, enter)(tf.ragged.constant([[1.0, 2.0, 3.0], [1.0]]))


def test_sparse_data():
    model = model_of("float32", X, None)
    sparse = tf.sparse.from_dense(np.float32(X))
    expected = model.log_prob(np.float32(X))
    np.testing.assert_array_equal(model.log_prob(sparse), expected)
    np.testing.assert_allclose(model.predict(sparse, verbose=0), expected, rtol=1e-5)


def conditional(x):
    return {"x": x, "condition": C[: len(x)]}


@pytest.mark.parametrize("enter", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("data", [X[:, 0], X[:, :2], X.astype(int), {"x": X, "condition": C[:-1]}])
def test_what_is_wrong_is_said_by_both(enter, data):
    model = keras_nf.FlowModel(maf())
    model.compile("sgd")
    if isinstance(data, dict):
        model(conditional(X))
    with pytest.raises(ValueError, match="Received"):
        getattr(model, enter)(data, verbose=0)
    if not isinstance(data, dict):
        with pytest.raises(ValueError, match="Received"):
            getattr(model, enter)(tf.data.Dataset.from_tensor_slices(data).batch(4), verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_split": 1.0}, "`validation_split` must be a fraction .* 1.0 of 8 rows"),
        ({"validation_split": -0.1}, "`validation_split` must be a fraction .* -0.1 of 8 rows"),
        ({"validation_split": 0.99}, "`validation_split` must be a fraction .* 0.99 of 8 rows"),
        (
            {"class_weight": {0: 1.0}},
            "no `class_weight`. Give each row a weight",
        ),
        ({"y": np.zeros(ROWS)}, "takes no targets"),
        ({"shuffle": "batch"}, "`shuffle` must be True or False. Received: 'batch'"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: 0"),
        (
            {"sample_weight": np.ones(ROWS - 1)},
            "a sample weight for each row",
        ),
    ],
    ids=str,
)
def test_options_of_fit(options, message):
    model = keras_nf.FlowModel(maf())
    model.compile("sgd")
    with pytest.raises(ValueError, match=message):
        model.fit(X, verbose=0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_split": 0.5}, "`validation_split` takes rows from arrays.*BatchDataset"),
        ({"sample_weight": np.ones(ROWS)}, r"Put the weights of a dataset into it, as \(x, w, w\)"),
        ({"y": np.zeros(ROWS)}, "takes no targets"),
    ],
    ids=str,
)
def test_options_of_fit_beside_a_dataset(options, message):
    model = keras_nf.FlowModel(maf())
    model.compile("sgd")
    with pytest.raises(ValueError, match=message):
        model.fit(slices(X, None), verbose=0, **options)


def test_targets_of_a_conditional_model():
    model = keras_nf.FlowModel(maf())
    model.compile("sgd")
    model(conditional(X))
    with pytest.raises(ValueError, match="takes no targets"):
        model.fit(X, C, verbose=0)


@pytest.mark.filterwarnings("error")
def test_dataset_gives_no_warning():
    model = keras_nf.FlowModel(maf())
    model.compile("sgd")
    model.fit(slices(X, None), verbose=0)


def test_single_condition_of_an_encoder():
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, "tanh")])
    model = keras_nf.FlowModel(maf(), encoder=encoder)
    model(conditional(X))
    perturb(model.flow)
    whole = model.log_prob(X, np.repeat(C[:1], ROWS, axis=0))
    for single in (C[0], C[:1]):
        np.testing.assert_allclose(model.log_prob(X, single), whole, rtol=1e-5)
    assert model.sample(5, C[0], seed=0).shape == (5, 3)
    line = keras_nf.FlowModel(keras_nf.maf(1, layers=1), encoder=encoder)
    line({"x": X[:, :1], "condition": C})
    matplotlib.use("Agg")
    curve = plot.density(line, -3.0, 3.0, condition=C[0], points=9).lines[-1].get_ydata()
    grid = np.linspace(-3.0, 3.0, 9)[:, None]
    np.testing.assert_allclose(curve, np.exp(line.log_prob(grid, C[:1])), rtol=1e-5)
    np.testing.assert_array_equal(
        model.sample(5, C[0], seed=0), model.sample(5, C[:1], seed=0)[:, 0]
    )
