"""Warnings of a training whose loss tells that something is wrong with the data."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nf

X = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
WITH_NAN = np.where(np.arange(64)[:, None] == 5, np.float32("nan"), X)
RAW = 1e6 * X


def model_of(*flows, base="normal"):
    maf = keras_nf.maf(event_size=2, layers=1, hidden_units=(4,))
    model = keras_nf.FlowModel(keras_nf.Chain([maf, *flows]), base)
    model.compile("adam")
    return model


def warnings_of(model, x, **kwargs):
    """Return the texts of the warnings of two epochs of training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, epochs=2, verbose=0, **kwargs)
    return [str(w.message) for w in caught if "loss" in str(w.message) or "log p" in str(w.message)]


def dataset(*arrays):
    parts = arrays[0] if len(arrays) == 1 else arrays
    return tf.data.Dataset.from_tensor_slices(parts).batch(32)


RAW_UNITS = ("nats, for events of size 2", "keras_nf.Standardize()", "`model.adapt(x)`", "StudentT")
ROWS_OF_NAN = ("The loss is NaN", "infinite values: 1 of 64.", "Remove or impute")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (RAW, RAW_UNITS),
        (dataset(RAW), RAW_UNITS),
        (WITH_NAN, ROWS_OF_NAN),
        (tf.constant(WITH_NAN), ROWS_OF_NAN),
        ({"x": X, "condition": WITH_NAN}, ROWS_OF_NAN),
        ({"x": X, "condition": np.where(X > 3.0, 0, 1)}, None),
        (dataset(WITH_NAN), ("The loss is NaN", "Remove or impute", "If there are none")),
        (X, None),
        (10.0 * X, None),
    ],
    ids=[
        "raw-units",
        "raw-units-in-a-dataset",
        "nan",
        "nan-in-a-tensor",
        "nan-in-a-condition",
        "condition-of-integers",
        "nan-in-a-dataset",
        "good",
        "ten-standard-deviations",
    ],
)
def test_warning(x, words):
    texts = warnings_of(model_of(), x)
    assert len(texts) == (words is not None)
    for word in words or ():
        assert word in texts[0]


@pytest.mark.parametrize(
    ("rate", "word"), [(1e30, "is -inf everywhere"), (float("inf"), "The data are finite")]
)
def test_steps_that_are_too_large(rate, word):
    model = model_of()
    model.compile(keras.optimizers.SGD(rate))
    (text,) = warnings_of(model, X)
    assert word in text
    assert "lower the learning rate" in text


@pytest.mark.parametrize(
    ("flows", "base"), [([keras_nf.Logit()], "normal"), ([], "uniform")], ids=["logit", "uniform"]
)
def test_rows_of_density_zero(flows, base):
    (text,) = warnings_of(model_of(*flows, base=base), X)
    assert "The loss is infinite" in text
    assert "`model.log_prob(x)` is -inf" in text


def test_standardized_data_give_no_warning():
    model = model_of(keras_nf.Standardize())
    model.adapt(RAW)
    assert warnings_of(model, RAW) == []


@pytest.mark.parametrize("weighted", ["array", "dataset"])
def test_weights_of_rows_make_no_loss_high(weighted):
    w = np.full(64, 1e4, "float32")
    x, kwargs = (X, {"sample_weight": w}) if weighted == "array" else (dataset(X, w, w), {})
    assert warnings_of(model_of(), x, **kwargs) == []


@pytest.mark.parametrize(
    "wrap",
    [
        lambda own, model: own,
        lambda own, model: [own],
        lambda own, model: keras.callbacks.CallbackList([own], add_history=True, model=model),
    ],
    ids=["one", "list", "callback-list"],
)
def test_callbacks_of_the_user_run_too(wrap):
    epochs, model = [], model_of()
    own = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    warnings_of(model, X, callbacks=wrap(own, model))
    assert epochs == [0, 1]
