"""Where Jacobians of layers are zero, by automatic differentiation of real layers.

    python examples/gallery/jacobians.py

An entry counts as zero if it is exactly zero at 50 random points, with random weights. Takes ten
seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from style import ORANGE, SKY, VERMILLION, parse, plt, save

import keras_nf

SIZE = 8
ZERO, OTHER, ONE, DIAGONAL = range(4)
COLORS = ["#f4f4f4", SKY, ORANGE, VERMILLION]
NAMES = ["always zero", "other entry", "diagonal entry, always 1", "diagonal entry"]
COSTS = ["4 factors", "4 factors", "8 factors", "8 factors"]
COSTS += ["1 factor, by a lemma", "8 factors, by LU", "by parts", "by parts"]
NETWORK = {"hidden_units": (64,)}


def make_flows(seed):
    """Return a flow for each panel, by its title."""
    maf, coupling = keras_nf.MaskedAutoregressive, keras_nf.AffineCoupling
    couplings = [coupling(swap=i % 2 == 1, **NETWORK) for i in range(5)]
    return {
        "coupling": coupling(**NETWORK),
        "coupling, random mask": coupling(mask="random", seed=seed, **NETWORK),
        "MAF": maf(**NETWORK),
        "MAF, random order": maf(order="random", seed=seed, **NETWORK),
        "planar": keras_nf.Planar(),
        "linear map": keras_nf.LULinear(),
        "two couplings": keras_nf.Chain(couplings[:2]),
        "three couplings": keras_nf.Chain(couplings[2:]),
    }


def jacobians(flow, rng, points=50):
    flow.build((None, SIZE))
    flow.set_weights([rng.normal(size=weight.shape) for weight in flow.weights])
    z = tf.constant(rng.normal(size=(points, 1, SIZE)), "float32")
    copies = tf.repeat(z, SIZE, axis=1)  # one for each row of the Jacobian
    with tf.GradientTape() as tape:
        tape.watch(copies)
        diagonal = tf.linalg.trace(flow.forward(copies))
    return tape.gradient(diagonal, copies).numpy()


def is_triangular(entries):
    """Tell whether an order of the components makes a pattern of entries triangular."""
    left = list(range(len(entries)))
    while left:
        free = [i for i in left if not any(entries[i, j] for j in left if j != i)]
        if not free:
            return False
        left = [i for i in left if i not in free]
    return True


def pattern(matrices):
    entries = np.abs(matrices).max(axis=0) > 0.0
    kinds = np.where(entries, OTHER, ZERO)
    if is_triangular(entries):
        ones = (matrices == 1.0).all(axis=0)
        diagonal = np.diag_indices(SIZE)
        kinds[diagonal] = np.where(ones[diagonal], ONE, DIAGONAL)
    return kinds


def main():
    arguments = parse(__doc__, "jacobians.png")
    keras.utils.set_random_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    figure, panels = plt.subplots(2, 4, figsize=(7.0, 4.6), layout="constrained")
    flows = make_flows(arguments.seed)
    for axes, cost, (title, flow) in zip(panels.flat, COSTS, flows.items()):
        kinds = pattern(jacobians(flow, rng))
        axes.pcolormesh(kinds, cmap=ListedColormap(COLORS), vmin=0, vmax=3, edgecolor="white")
        axes.set(title=title, xlabel=f"det: {cost}", aspect="equal", xticks=[], yticks=[])
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
    figure.get_layout_engine().set(hspace=0.06)
    handles = [Patch(color=color, label=name) for color, name in zip(COLORS, NAMES)]
    figure.legend(handles=handles[::-1], loc="outside lower center", ncols=4, frameon=False)
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
