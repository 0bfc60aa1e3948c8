"""Files: weights of another model are refused, and what is there stays until the new is whole."""

import signal

import keras
import numpy as np
import pytest
from cases import perturb
from processes import run_python

import keras_nf

X = np.random.default_rng(0).uniform(0.1, 0.9, size=(5, 4)).astype("float32")
SMALL = {"layers": 2, "hidden_units": (8,)}


def maf(**options):
    return keras_nf.maf(4, **SMALL, **options)


def logit(**options):
    return keras_nf.Chain([maf(), keras_nf.Logit(**options)])


def network(activation):
    return keras.Sequential([keras.layers.Dense(3, activation), keras.layers.Dense(2)])


def coupling(activation):
    return keras_nf.AdditiveCoupling(conditioner=network(activation))


def model_of(flow, **options):
    model = keras_nf.FlowModel(flow, **options)
    condition = {"condition": X[:, :3]} if "encoder" in options else {}
    model({"x": X, **condition})
    perturb(model.flow)
    return model


# Models whose weights have the same shapes, and what tells them apart.
PAIRS = {
    "activation": (
        lambda: model_of(maf(activation="tanh")),
        lambda: model_of(maf()),
        "activation='tanh', here activation='relu'",
    ),
    "bound": (
        lambda: model_of(maf(log_scale_bound=3.0)),
        lambda: model_of(maf()),
        "log_scale_bound=3.0, here log_scale_bound=2.0",
    ),
    "residual": (
        lambda: model_of(keras_nf.maf(4, layers=2, hidden_units=(8,) * 3, residual=True)),
        lambda: model_of(keras_nf.maf(4, layers=2, hidden_units=(8,) * 3)),
        "residual=True, here residual=False",
    ),
    "logit": (lambda: model_of(logit()), lambda: model_of(logit(high=2.0)), "high=.*, here high=2"),
    "planar": (
        lambda: model_of(keras_nf.planar_flow(4)),
        lambda: model_of(keras_nf.planar_flow(4, activation="elu")),
        "activation='tanh', here activation='elu'",
    ),
    "network": (
        lambda: model_of(coupling("tanh")),
        lambda: model_of(coupling("relu")),
        "activation='tanh', here activation='relu'",
    ),
    "encoder": (
        lambda: model_of(maf(), encoder=network("tanh")),
        lambda: model_of(maf(), encoder=network("relu")),
        "activation='tanh', here activation='relu'",
    ),
}


@pytest.mark.parametrize(("make", "other", "words"), PAIRS.values(), ids=PAIRS.keys())
def test_weights_of_another_model_are_refused(make, other, words, tmp_path):
    model = make()
    model.save_weights(tmp_path / "model.weights.h5")
    same = make()
    perturb(same.flow, seed=1)
    same.load_weights(tmp_path / "model.weights.h5")
    for weight, saved in zip(same.flow.weights, model.flow.weights, strict=True):
        np.testing.assert_array_equal(weight, saved)
    with pytest.raises(ValueError, match=words):
        other().load_weights(tmp_path / "model.weights.h5")


SAVE = {
    "model.keras": keras_nf.FlowModel.save,
    "model.weights.h5": keras_nf.FlowModel.save_weights,
}
names = pytest.mark.parametrize("name", SAVE)


def read(name, path):
    if name.endswith(".keras"):
        return keras.models.load_model(path)
    model = model_of(maf())
    model.load_weights(path)
    return model


@names
def test_file_stays_when_writing_fails(name, tmp_path, monkeypatch):
    model, path = model_of(maf()), tmp_path / name
    SAVE[name](model, path)
    expected = model.log_prob(X)
    perturb(model.flow, seed=1)

    def fail(self, store):
        raise OSError("No space left on device")

    monkeypatch.setattr(keras_nf.MADE, "save_own_variables", fail)
    with pytest.raises(OSError, match="No space left"):
        SAVE[name](model, path)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(read(name, path).log_prob(X), expected)


def test_file_stays_when_the_process_is_killed(tmp_path):
    model, path = model_of(maf()), tmp_path / "model.keras"
    model.save(path)
    run_python(
        """
        import os, signal, sys
        import keras_nf
        model = keras_nf.FlowModel(keras_nf.maf(4, layers=2, hidden_units=(8,)))
        model.build((None, 4))
        keras_nf.MADE.save_own_variables = lambda self, store: os.kill(os.getpid(), signal.SIGKILL)
        model.save(sys.argv[1])
        """,
        path,
        returncode=-signal.SIGKILL,
    )
    np.testing.assert_array_equal(read(path.name, path).log_prob(X), model.log_prob(X))


@names
def test_file_is_replaced_through_a_link(name, tmp_path):
    model, target, link = model_of(maf()), tmp_path / "folder" / name, tmp_path / name
    target.parent.mkdir()
    target.write_bytes(b"")
    link.symlink_to(target)
    SAVE[name](model, link)
    assert link.is_symlink()
    np.testing.assert_array_equal(read(name, target).log_prob(X), model.log_prob(X))
