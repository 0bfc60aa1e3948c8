"""A flow layer by layer: draws of the base on their way to two moons.

    python examples/gallery/composition.py

Each point keeps the colour of its quadrant in the base. Takes half a minute on two cores.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from style import BLUE, GREEN, ORANGE, VERMILLION, parse, plt, save

import keras_nf

SHOWN = (0, 2, 4, 6, 7, 8)
COLORS = np.array([VERMILLION, BLUE, GREEN, ORANGE])


def fit(steps, seed):
    x = keras_nf.datasets.two_moons(steps * 256, seed=seed)
    model = keras_nf.FlowModel(keras_nf.real_nvp(2, layers=SHOWN[-1], hidden_units=(64, 64)))
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(rate))
    model.fit(x, batch_size=256, epochs=1, verbose=0)
    return model.flow


def main():
    arguments = parse(__doc__, "composition.png", steps=2500)
    keras.utils.set_random_seed(arguments.seed)
    flow = fit(arguments.steps, arguments.seed)
    z = np.random.default_rng(arguments.seed).normal(size=(4000, 2)).astype("float32")
    colors = COLORS[2 * (z[:, 0] > 0.0) + (z[:, 1] > 0.0)]
    states, log_dets = [z], [np.zeros(len(z))]
    for layer in flow.flows:
        x, log_det = layer.forward_and_log_det(states[-1])
        states.append(np.asarray(x))
        log_dets.append(log_dets[-1] + log_det)
    figure, panels = plt.subplots(2, 3, figsize=(7.0, 4.6), layout="compressed")
    for axes, number in zip(panels.flat, SHOWN):
        axes.scatter(*states[number].T, s=1.5, c=colors, linewidths=0.0)
        name = f"{number} layers" if number else "base"
        axes.set_title(f"{name}, mean log-det {np.mean(log_dets[number]):.2f}", fontsize=9)
        axes.set(xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), aspect="equal", xticks=[], yticks=[])
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
