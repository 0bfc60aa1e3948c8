"""Arrays in `fit`, `evaluate` and `predict`, as batches of a pipeline without autotuning."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nf
from keras_nf.models.pipeline import as_arrays, count_rows, make_batches, split_rows
from keras_nf.seeds import draw_seed

ROWS = 10
X = np.arange(2.0 * ROWS, dtype="float32").reshape(ROWS, 2)
W = np.linspace(0.5, 1.5, ROWS, dtype="float32")


def rows_of(batches):
    return np.concatenate([np.asarray(batch) for batch in batches]).tolist()


def model_of(**options):
    model = keras_nf.FlowModel(keras_nf.Scaling(use_shift=True))
    model.compile(keras.optimizers.SGD(1e-3), **options)
    return model


class TestBatches:
    @pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4, 4, 2]), (5, [5, 5]), (16, [10])])
    def test_in_order(self, batch_size, sizes):
        batches = make_batches(X, batch_size)
        assert [len(batch) for batch in batches] == sizes
        assert len(batches) == len(sizes)
        for _ in range(2):
            assert rows_of(batches) == X.tolist()

    def test_shuffled_epochs_have_every_row_in_other_orders(self):
        batches = make_batches(np.arange(100), 16, draw_seed())
        assert len(batches) == 7
        first, second = rows_of(batches), rows_of(batches)
        assert sorted(first) == sorted(second) == list(range(100))
        assert len({tuple(first), tuple(second), tuple(range(100))}) == 3

    def test_single_row(self):
        assert rows_of(make_batches(X[:1], 4, draw_seed())) == X[:1].tolist()

    def test_every_row_comes_equally_often_at_every_place(self):
        batches = make_batches(np.arange(4), 4, draw_seed())
        counts = np.zeros((4, 4))
        for _ in range(400):
            counts[np.arange(4), rows_of(batches)] += 1
        # Four standard deviations.
        np.testing.assert_allclose(counts, 100.0, atol=4.0 * np.sqrt(75.0))

    def test_batches_vary_as_those_of_random_orders(self):
        rows, size, epochs = 90_000, 500, 20
        batches = make_batches(np.arange(rows), size, draw_seed())
        odd = [np.sum(batch.numpy() % 2) for _ in range(epochs) for batch in batches]
        # The hypergeometric distribution.
        variance = size / 4 * (rows - size) / (rows - 1)
        error = np.sqrt(2.0 / len(odd))
        assert np.mean((np.array(odd) - size / 2) ** 2) / variance == pytest.approx(
            1.0, abs=4.0 * error
        )

    def test_orders_follow_the_seed(self):
        def orders(seed):
            keras.utils.set_random_seed(seed)
            batches = make_batches(np.arange(100), 16, draw_seed())
            return [rows_of(batches) for _ in range(3)]

        assert orders(0) == orders(0)
        assert orders(0) != orders(1)

    def test_rows_stay_together(self):
        data = ({"x": X, "condition": tf.constant(X[:, 0])}, W)
        for inputs, weight in make_batches(data, 3, draw_seed()):
            rows = inputs["condition"].numpy().astype(int) // 2
            np.testing.assert_array_equal(inputs["x"], X[rows])
            np.testing.assert_array_equal(weight, W[rows])

    def test_pipeline_is_not_tuned(self):
        assert make_batches(X, 4, draw_seed()).options().autotune.enabled is False


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool", "str"])
def test_arrays_of_any_kind_are_tensors(dtype):
    for kind in (np.asarray, tf.constant, tf.Variable):
        tensor = as_arrays(kind(X.astype(dtype)))
        assert tf.is_tensor(tensor)
        np.testing.assert_array_equal(tensor.numpy().astype(str), X.astype(dtype).astype(str))


def test_numbers_with_a_fractional_part_are_cast():
    inputs = {"x": X.astype("float64"), "condition": (X.astype("int64"), keras.Variable(X))}
    arrays = as_arrays(inputs, "float64")
    assert [part.dtype.name for part in tf.nest.flatten(arrays)] == ["int64", "float64", "float64"]


@pytest.mark.parametrize(
    "data",
    [
        X.tolist(),
        np.float32(1.0),
        None,
        tf.data.Dataset.from_tensors(X),
        tf.RaggedTensor.from_tensor(X),
        iter([X]),
        {"x": X, "condition": X.tolist()},
    ],
    ids=["list", "number", "none", "dataset", "ragged", "iterator", "part"],
)
def test_what_is_no_array(data):
    assert as_arrays(data) is None


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (X, ROWS),
        ((X, None), ROWS),
        ({"x": X, "condition": X}, ROWS),
        (X[:0], 0),
        ((X, W[1:]), None),
    ],
)
def test_count_rows(data, rows):
    assert (
        count_rows(tf.nest.map_structure(lambda a: a if a is None else as_arrays(a), data)) == rows
    )


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 0.99, 1.0, 1.5])
def test_useless_split(fraction):
    with pytest.raises(ValueError, match=r"`validation_split` must be a fraction .* of 10 rows"):
        split_rows((X, None), fraction)


def test_last_rows_are_split_off():
    (x, w), (x_val, w_val) = split_rows((X, None), 0.25)
    np.testing.assert_array_equal(x, X[:7])
    np.testing.assert_array_equal(x_val, X[7:])
    assert (w, w_val) == (None, None)


class TestFit:
    """Against Keras's own pipeline, by way of datasets."""

    @pytest.mark.parametrize("weight", [None, W], ids=["unweighted", "weighted"])
    @pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}], ids=["one", "two"])
    def test_arrays_are_as_datasets(self, weight, options):
        def dataset(rows):
            data = X[rows] if weight is None else (X[rows], weight[rows], weight[rows])
            return tf.data.Dataset.from_tensor_slices(data).batch(3)

        ours, expected = model_of(**options), model_of(**options)
        ours.fit(
            X,
            sample_weight=weight,
            batch_size=3,
            validation_split=0.3,
            epochs=3,
            shuffle=False,
            verbose=0,
        )
        expected.fit(
            dataset(slice(7)), validation_data=dataset(slice(7, None)), epochs=3, verbose=0
        )
        assert ours.history.history.keys() == {"loss", "val_loss"}
        assert ours.history.history == expected.history.history
        assert ours.history.params == expected.history.params
        whole = dataset(slice(None))
        assert ours.evaluate(X, batch_size=3, sample_weight=weight, verbose=0) == expected.evaluate(
            whole, verbose=0
        )
        np.testing.assert_array_equal(
            ours.predict(X, batch_size=3, verbose=0), expected.predict(whole, verbose=0)
        )

    @pytest.mark.parametrize(
        "options",
        [
            {"steps_per_epoch": 3, "batch_size": 5},
            {"validation_data": (X, None, W), "validation_batch_size": 4},
            {"validation_data": X, "validation_steps": 1},
        ],
        ids=["steps", "validation", "validation-steps"],
    )
    def test_other_options_of_keras(self, options):
        model = model_of()
        history = model.fit(X, epochs=2, verbose=0, **options).history
        assert np.isfinite(history["loss"]).all()
        assert ("val_loss" in history) == ("validation_data" in options)
        assert model.optimizer.iterations == 2 * options.get("steps_per_epoch", 1)

    def test_seed_fixes_the_weights(self):
        def weights():
            keras.utils.set_random_seed(0)
            model = model_of()
            model.fit(X, batch_size=3, epochs=3, verbose=0)
            return model.get_weights()

        for a, b in zip(weights(), weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.filterwarnings("error")
    def test_no_warning(self):
        model_of().fit(X, validation_split=0.2, verbose=0)
