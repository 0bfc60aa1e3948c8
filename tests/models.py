"""Models that are written to files of all kinds."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import FlowModel

EVENT, CONDITION = 4, 2
rng = np.random.default_rng(0)
X = rng.uniform(0.05, 0.95, size=(6, EVENT)).astype("float32")
C = rng.normal(size=(6, CONDITION)).astype("float32")
SMALL = {"layers": 2, "hidden_units": (8,), "activation": "tanh"}
RESIDUAL = {**SMALL, "hidden_units": (8, 8, 8), "residual": True}


@keras.saving.register_keras_serializable("saving_tests")
def laplace(event_size):
    return tfd.Independent(tfd.Laplace(tf.zeros(event_size), 1.0), 1)


def standardized_maf():
    standardize = keras_nf.Standardize()
    standardize.adapt(3.0 * X + 1.0)
    return keras_nf.Chain([keras_nf.maf(EVENT, **SMALL), standardize])


def coupling_with_network():
    network = keras.Sequential(
        [keras.layers.Dense(8, "gelu"), keras.layers.LayerNormalization(), keras.layers.Dense(4)]
    )
    return keras_nf.AffineCoupling(conditioner=network)


def normalized():
    flows = [keras_nf.maf(EVENT, **SMALL), keras_nf.BatchNormalization()]
    return keras_nf.Chain([*flows, keras_nf.Logit(), keras_nf.Dequantize(2)])


def pixels():
    flows = [keras_nf.real_nvp(EVENT, **SMALL), keras_nf.Permute("random"), keras_nf.Logit()]
    return keras_nf.Chain(flows)


# Models, each as a flow and the options of the model; where nothing is said, seeds are drawn.
MODELS = {
    "planar": (lambda: keras_nf.planar_flow(EVENT, layers=2), {}),
    "nice": (lambda: keras_nf.nice(EVENT, mask="random", **SMALL), {"base": "logistic"}),
    "real-nvp": (lambda: keras_nf.real_nvp(EVENT, mask="random", **SMALL), {}),
    "maf": (lambda: keras_nf.maf(EVENT, order="random", **SMALL), {}),
    "iaf": (lambda: keras_nf.iaf(EVENT, order="random", **SMALL), {}),
    "residual": (lambda: keras_nf.maf(EVENT, dropout=0.1, **RESIDUAL), {}),
    "nsf": (lambda: keras_nf.nsf(EVENT, bins=4, **SMALL), {}),
    "standardized": (standardized_maf, {}),
    "pixels": (pixels, {}),
    "normalized": (normalized, {}),
    "inverted": (lambda: keras_nf.Invert(keras_nf.iaf(EVENT, **SMALL)), {}),
    "network": (coupling_with_network, {}),
    "user-base": (lambda: keras_nf.real_nvp(EVENT, **SMALL), {"base": laplace}),
    "uniform-base": (lambda: keras_nf.Invert(keras_nf.Logit()), {"base": "uniform"}),
    "float64": (lambda: keras_nf.maf(EVENT, dtype="float64", **SMALL), {}),
    "mixed": (lambda: keras_nf.real_nvp(EVENT, dtype="mixed_bfloat16", **SMALL), {}),
    "conditional-planar": (lambda: keras_nf.Planar(folds=2, amortized=True), {}),
    "conditional-maf": (lambda: keras_nf.maf(EVENT, **SMALL), {}),
    "conditional-residual": (lambda: keras_nf.maf(EVENT, **RESIDUAL), {}),
    "conditional-real-nvp": (lambda: keras_nf.real_nvp(EVENT, **SMALL), {}),
    "conditional-network": (coupling_with_network, {}),
}


VARIATIONS = {"uniform-base", "normalized", "pixels", "mixed", "user-base"}
# What these are made of, others have too.
COMBINATIONS = {"nice", "real-nvp", "residual", "inverted"}
COMBINATIONS |= {"conditional-residual", "conditional-network", "conditional-real-nvp"}
MARKS = {name: [pytest.mark.slow] for name in VARIATIONS}
MARKS |= {name: [pytest.mark.long] for name in COMBINATIONS}
names = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, [])) for name in MODELS]
)


def selected(request):
    """Return the names of the models that the tests of this run are about, and of a plain one."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {call.params.get("name") for call in calls if call is not None}
    return [name for name in MODELS if name in wanted or name == "maf"]


def condition_of(name):
    return C if name.startswith("conditional") else None


def inputs_of(name):
    """Return what the model takes in a call."""
    return X if condition_of(name) is None else {"x": X, "condition": C}


def make(name):
    """Return a model with random weights; those of `Standardize` stay."""
    flow, options = MODELS[name]
    model = FlowModel(flow(), **options)
    model(inputs_of(name))
    fixed = [v.numpy() for v in model.non_trainable_variables]
    perturb(model.flow)
    for variable, value in zip(model.non_trainable_variables, fixed):
        variable.assign(value)
    return model
