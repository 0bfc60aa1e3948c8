"""Diagnostics: five faults are found, twenty right models pass, statistics have closed forms."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from keras import ops
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import diagnostics

pytestmark = pytest.mark.usefixtures("without_xla")

ROWS = 1000
SMALL = {"layers": 2, "hidden_units": (8,), "activation": "tanh"}
registered = keras.saving.register_keras_serializable("diagnostics_tests")


def chain(*flows):
    return keras_nf.Chain(list(flows))


def standardized(flow):
    standardize = keras_nf.Standardize()
    standardize.adapt(np.random.default_rng(0).normal(30.0, 5.0, size=(50, 3)))
    return chain(flow, standardize)


def encoder():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)])


def correlated(event_size):
    """A base whose components depend on each other."""
    scale = 0.5 * (tf.eye(event_size) + tf.ones((event_size, event_size)))
    return tfd.MultivariateNormalTriL(tf.zeros(event_size), tf.linalg.cholesky(scale))


# Models that are right by construction: data are their own draws. Each has a flow, the options of
# its model, and the shapes of data and condition.
RIGHT = {
    "planar": (lambda: keras_nf.planar_flow(2, layers=3), {}, (2,), None),
    "nice": (lambda: keras_nf.nice(4, **SMALL), {"base": "logistic"}, (4,), None),
    "real-nvp": (lambda: keras_nf.real_nvp(3, **SMALL), {}, (3,), None),
    "real-nvp-64": (lambda: keras_nf.real_nvp(3, dtype="float64", **SMALL), {}, (3,), None),
    "real-nvp-condition": (lambda: keras_nf.real_nvp(3, **SMALL), {}, (3,), 2),
    "encoder": (lambda: keras_nf.real_nvp(2, **SMALL), {"encoder": encoder}, (2,), 3),
    "maf": (lambda: keras_nf.maf(3, **SMALL), {}, (3,), None),
    "maf-condition": (lambda: keras_nf.maf(2, **SMALL), {}, (2,), 2),
    "one-maf": (lambda: keras_nf.maf(2, **{**SMALL, "layers": 1}), {}, (2,), None),
    "maf-heavy-tails": (lambda: keras_nf.maf(2, **SMALL), {"base": "student"}, (2,), None),
    "maf-standardized": (lambda: standardized(keras_nf.maf(3, **SMALL)), {}, (3,), None),
    "iaf": (lambda: keras_nf.iaf(2, **SMALL), {}, (2,), None),
    "iaf-64-condition": (lambda: keras_nf.iaf(2, dtype="float64", **SMALL), {}, (2,), 1),
    "nsf": (lambda: keras_nf.nsf(2, **SMALL), {}, (2,), None),
    "nsf-one-component": (lambda: keras_nf.nsf(1, **SMALL), {}, (1,), 2),
    "mixture": (lambda: keras_nf.real_nvp(2, **SMALL), {"base": "mixture"}, (2,), None),
    "mixture-condition": (lambda: keras_nf.real_nvp(2, **SMALL), {"base": "mixtures"}, (2,), 2),
    "correlated": (lambda: keras_nf.real_nvp(2, **SMALL), {"base": correlated}, (2,), None),
    "logit": (lambda: chain(keras_nf.maf(2, **SMALL), keras_nf.Logit()), {}, (2,), None),
    "image": (
        lambda: keras_nf.glow((2, 2, 2), levels=1, steps=1, hidden_units=(4, 4)),
        {},
        (2, 2, 2),
        None,
    ),
}
BASES = {
    "student": keras_nf.bases.StudentT,
    "mixture": lambda: keras_nf.bases.Mixture(3),
    "mixtures": lambda: keras_nf.bases.Mixture(2, conditional=True),
}


def right(name, seed):
    """Return a model whose weights are numbers of the seed, its draws and their conditions."""
    flow, options, shape, condition_size = RIGHT[name]
    keras.utils.set_random_seed(seed)
    options = dict(options)
    if options.get("base") in BASES:
        options["base"] = BASES[options["base"]]()
    if "encoder" in options:
        options["encoder"] = options["encoder"]()
    model = keras_nf.FlowModel(flow(), **options)
    condition = None
    if condition_size:
        condition = np.random.default_rng([seed, 1]).normal(size=(ROWS, condition_size))
        condition = condition.astype(model.flow.dtype.name)
        model.build({"x": (None, *shape), "condition": (None, condition_size)})
    else:
        model.build((None, *shape))
    if name != "maf-standardized":
        perturb(model.flow, seed)
    if condition is None:
        return model, np.asarray(model.sample(ROWS, seed=seed)), None
    return model, np.asarray(model.sample(1, condition=condition, seed=seed))[0], condition
