"""What `Standardize.adapt` learns from data, and what it costs."""

import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nf

X = np.random.default_rng(0).normal([5.0, -2.0, 0.0], [2.0, 0.1, 7.0], size=(60, 3))


def adapted(data, dtype="float64"):
    standardize = keras_nf.Standardize(dtype=dtype)
    standardize.adapt(data)
    return standardize


def assert_moments(standardize, x, rtol=1e-12):
    np.testing.assert_allclose(standardize.mean, np.mean(x, axis=0), rtol=rtol)
    np.testing.assert_allclose(standardize.std, np.std(x, axis=0), rtol=rtol)


def as_dataset(x, batch=7):
    return tf.data.Dataset.from_tensor_slices(x).batch(batch)


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        np.ndarray.tolist,
        np.asfortranarray,
        np.ma.asarray,
        tf.constant,
        tf.Variable,
        lambda x: keras.Variable(x, dtype="float64"),
        lambda x: x.reshape(3, 20, 3),
        lambda x: np.asfortranarray(x.reshape(3, 20, 3)),
        as_dataset,
        tf.data.Dataset.from_tensor_slices,
        lambda x: as_dataset(x.reshape(30, 2, 3)),
    ],
    ids=[
        "array",
        "list",
        "fortran",
        "unmasked",
        "tensor",
        "tf-variable",
        "keras-variable",
        "more-axes",
        "more-axes-fortran",
        "dataset",
        "dataset-of-rows",
        "dataset-with-more-axes",
    ],
)
def test_moments_of_every_kind_of_data(convert):
    before = X.copy()
    assert_moments(adapted(convert(X)), X)
    np.testing.assert_array_equal(X, before)


def test_moments_of_integers():
    x = np.random.default_rng(0).integers(0, 256, size=(60, 3), dtype="uint8")
    assert_moments(adapted(x), x.astype("float64"))


def test_moments_of_a_data_frame():
    pandas = pytest.importorskip("pandas")
    x = np.column_stack([X, np.arange(60.0)])
    frame = pandas.DataFrame(X, index=X[:, 0]).assign(count=np.arange(60))
    assert_moments(adapted(frame), x)
    assert_moments(adapted(frame.convert_dtypes()), x)


@pytest.mark.parametrize("batch", [1, 50, 70])
def test_drift_between_batches_counts(batch):
    # The means of the batches are a thousand of their standard deviations apart.
    noise = np.random.default_rng(0).normal(size=(300, 2))
    x = noise + 1000.0 * (np.arange(300) // 50)[:, None]
    assert_moments(adapted(as_dataset(x, batch)), x)


def test_drift_between_blocks_counts():
    x = (
        np.random.default_rng(0).normal(size=(300_000, 1))
        + np.linspace(-900.0, 4000.0, 300_000)[:, None]
    )
    assert_moments(adapted(x), x)


@pytest.mark.parametrize(
    "as_data", [np.asarray, lambda x: as_dataset(x, 999)], ids=["array", "dataset"]
)
def test_small_deviations_from_a_large_mean(as_data):
    # In float32 the rows are rounded to multiples of 0.001, and their sum to multiples of 1000.
    x = 1e4 + 1e-2 * np.random.default_rng(0).standard_normal((1_000_000, 1))
    standardize = adapted(as_data(x))
    assert_moments(standardize, x, rtol=1e-9)
    assert np.abs(np.std(x.astype("float32")) / np.std(x) - 1.0) > 1e-4


def test_peak_of_memory_is_a_block():
    x = np.random.default_rng(0).standard_normal((1_000_000, 8), dtype="float32")
    adapted(x[:10])
    for data in (x, np.asfortranarray(x), x.reshape(2, -1, 8), x.reshape(-1, 1)):
        tracemalloc.start()
        try:
            adapted(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 0.1 * x.nbytes
