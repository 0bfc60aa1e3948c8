"""Two moons: the points, the Gaussian of their mean and covariance, and a flow.

    python examples/gallery/why_flows.py

Prints the mean log-density of 10,000 other points under both. Takes half a minute on two cores.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from style import BLUE, density, parse, plt, save
from tensorflow_probability import distributions as tfd

import keras_nf

REACH = 3.6


def fit(x, steps):
    model = keras_nf.FlowModel(keras_nf.real_nvp(2, layers=8, hidden_units=(64, 64)))
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(rate))
    batches = -(-steps * 256 // len(x))
    model.fit(np.tile(x, (batches, 1))[: steps * 256], batch_size=256, epochs=1, verbose=0)
    return model


def main():
    arguments = parse(__doc__, "why_flows.png", steps=3000)
    keras.utils.set_random_seed(arguments.seed)
    x = keras_nf.datasets.two_moons(20_000, seed=arguments.seed)
    held_out = keras_nf.datasets.two_moons(10_000, seed=arguments.seed + 1)
    gaussian = tfd.MultivariateNormalFullCovariance(x.mean(axis=0), np.cov(x.T).astype("float32"))
    flow = fit(x, arguments.steps)
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 1.9), layout="compressed")
    panels[0].plot(*x[:2000].T, ".", color=BLUE, markersize=1.5)
    panels[0].set(title="two moons", xlim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[])
    for axes, name, log_prob in zip(
        panels[1:], ("Gaussian", "flow"), (gaussian.log_prob, flow.log_prob)
    ):
        mean = float(np.mean(log_prob(held_out)))
        image = density(axes, log_prob, REACH, vmax=0.24)
        axes.set_title(f"{name}: {mean:.2f} nats")
        print(f"{name}: {mean:.3f}")
    for axes in panels:
        axes.set_ylim(-2.4, 2.4)
    figure.colorbar(image, ax=panels, label="density", extend="max")
    save(figure, arguments.output, palette=False)


if __name__ == "__main__":
    main()
