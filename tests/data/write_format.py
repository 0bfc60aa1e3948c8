"""Write the files that tests/test_files.py loads: a model of one of every flow, and its values.

A file is written once for each format version, under the lowest Keras that the package supports,
and stays as it is. Run this from the root of the repository after raising `FORMAT_VERSION`:

    PYTHONPATH=. python tests/data/write_format.py
"""

import pathlib

import keras
import numpy as np

import keras_nf
from keras_nf.config import FORMAT_VERSION

EVENT, CONDITION, ROWS = 4, 2, 6


def every_flow():
    small = {"hidden_units": (6,), "activation": "tanh"}
    return keras_nf.Chain(
        [
            keras_nf.Planar(folds=2),
            keras_nf.Scaling(),
            keras_nf.AdditiveCoupling(mask="random", **small),
            keras_nf.AffineCoupling(mask="alternating", swap=True, log_scale_bound=3.0, **small),
            keras_nf.MaskedAutoregressive(order="random", **small),
            keras_nf.InverseAutoregressive(order=(2, 0, 3, 1), **small),
            keras_nf.Permute("random"),
            keras_nf.Invert(keras_nf.MaskedAutoregressive(order="reversed", **small)),
            keras_nf.Standardize(),
            keras_nf.Logit(low=-1.0, high=2.0, margin=0.01),
        ]
    )


def main():
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.8, 1.8, size=(ROWS, EVENT)).astype("float32")
    c = rng.normal(size=(ROWS, CONDITION)).astype("float32")
    model = keras_nf.FlowModel(every_flow(), base="logistic")
    model.build({"x": (None, EVENT), "condition": (None, CONDITION)})
    model.flow.flows[-2].adapt(model.flow.flows[-1].inverse(x))
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit({"x": x, "condition": c}, epochs=2, verbose=0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.3, size=variable.shape))
    path = pathlib.Path(__file__).with_name(f"format_{FORMAT_VERSION}.keras")
    model.save(path)
    np.savez(
        path.with_suffix(".npz"),
        x=x,
        condition=c,
        log_prob=model.log_prob(x, c),
        latents=model.flow.inverse(x, condition=c),
        samples=model.sample(3, c, seed=0),
    )


if __name__ == "__main__":
    main()
