"""Pictures of the flow pages: linear layers, chains, and one layer of each kind side by side."""

import numpy as np
from flow_pages_plane import SMOOTH, first, grid, network, square, strip, trained, with_weights
from keras import ops
from style import BLUE, GREY, ORANGE, VERMILLION, plt

import keras_nf

LETTER = np.array(
    [[0, 0], [0.5, 0], [0.5, 0.9], [1.2, 0.9], [1.2, 1.4], [0.5, 1.4], [0.5, 2.0]]
    + [[1.5, 2.0], [1.5, 2.5], [0, 2.5], [0, 0]]
)


def lu_linear(_):
    figure, panels = strip(4)
    steps = [
        ("base", "sequential", np.zeros((2, 2)), (0, 0)),
        ("$U$", "sequential", [[0.3, 0.5], [0.0, -0.4]], (0, 0)),
        ("$L\\,U$", "sequential", [[0.3, 0.5], [-0.7, -0.4]], (0, 0)),
        ("$P L\\,U$ and $t$", "reversed", [[0.3, 0.5], [-0.7, -0.4]], (1.0, -1.5)),
    ]
    for axes, (title, permutation, kernel, shift) in zip(panels, steps):
        flow = keras_nf.LULinear(permutation, event_size=2)
        flow.build((None, 2))
        flow.kernel.assign(kernel)
        flow.shift.assign(shift)
        grid(axes, flow, title, 4.2, half=2.0, symbol="z" if title == "base" else "x")
        x = np.asarray(flow((LETTER - [0.75, 1.25]).astype("float32")))
        axes.fill(*x.T, color=ORANGE, zorder=3)
    return figure


def chain(steps):
    x = keras_nf.datasets.pinwheel(20_000, seed=0)
    flow = trained(keras_nf.real_nvp(2, hidden_units=(64, 64)), x, steps).flow
    z = np.random.default_rng(0).normal(size=(3000, 2)).astype("float32")
    colours = np.arctan2(*z.T)
    figure, panels = strip(5, 1.8)
    for axes, number in zip(panels, (0, 2, 4, 6, 8)):
        y = np.asarray(first(flow, number)(z))
        axes.scatter(*y.T, c=colours, s=1.0, cmap="twilight_shifted", linewidths=0.0)
        square(axes, f"{number} layers" if number else "base", 3.6)
        axes.set(xlabel="", ylabel="")
    return figure


def invert(_):
    first_network = network(lambda z: 1.0 * ops.sin(1.4 * z), lambda z: -0.3 * z)
    second_network = network(lambda z: -1.2 * ops.tanh(z), lambda z: 0.3 * ops.cos(1.2 * z))
    couplings = [
        keras_nf.AffineCoupling(conditioner=first_network),
        keras_nf.AffineCoupling(conditioner=second_network, swap=True),
    ]
    flow = keras_nf.Chain(couplings, event_size=2)
    figure, panels = strip(3, 2.7)
    grid(panels[0], keras_nf.Chain([], event_size=2), "grid", 4.0, symbol="z")
    grid(panels[1], flow, "forward: flow", 4.0)
    grid(panels[2], keras_nf.Invert(flow), "forward: Invert(flow)", 4.0)
    return figure


def latents_by_layer(norms, x):
    """Return latents of x after each of four random layers, from the data to the base."""
    flows = []
    for seed, order in enumerate(2 * ["sequential", "reversed"]):
        layer = keras_nf.MaskedAutoregressive(order=order, **SMOOTH)
        flows += [*norms(), with_weights(layer, seed, 1.0)]
    chain = keras_nf.Chain(flows, event_size=2)
    chain.adapt(x)
    step = len(flows) // 4
    return [np.asarray(keras_nf.Chain(flows[-step * n :]).inverse(x)) for n in (1, 2, 3, 4)]


def act_norm(_):
    x = (keras_nf.datasets.two_moons(1500, seed=0) * [1.0, 0.6] + [0.0, 2.0]).astype("float32")
    figure, rows = plt.subplots(2, 5, figsize=(7.0, 3.2), layout="constrained")
    names = [
        ("without", VERMILLION, lambda: []),
        ("with ActNorm", BLUE, lambda: [keras_nf.ActNorm()]),
    ]
    for panels, (name, colour, norms) in zip(rows, names):
        for axes, z in zip(panels, [x, *latents_by_layer(norms, x)]):
            axes.plot(*z.T, ".", color=colour, markersize=1.0)
            square(axes, "", 4.5)
            axes.set(xlabel="", ylabel="")
            axes.axhline(0.0, color=GREY, linewidth=0.5, zorder=0)
            axes.axvline(0.0, color=GREY, linewidth=0.5, zorder=0)
        panels[0].set_ylabel(name)
    for axes, title in zip(rows[0], ("data", "1 layer", "2 layers", "3 layers", "4 layers")):
        axes.set_title(title)
    return figure


def layers():
    """Yield one layer of each kind, with strong weights, and its name."""
    yield "base", keras_nf.Chain([])
    planar = keras_nf.Planar()
    planar.build((None, 2))
    for variable, value in zip(
        (planar.w, planar.u, planar.b), ([[1.4, 0.9]], [[1.5, -0.6]], [0.5])
    ):
        variable.assign(value)
    yield "Planar", planar
    shift = network(lambda z: 1.1 * ops.sin(1.6 * z))
    yield "NICE", keras_nf.AdditiveCoupling(conditioner=shift)
    affine = network(lambda z: 0.7 * ops.sin(1.6 * z), lambda z: -0.3 * z)
    yield "Real NVP", keras_nf.AffineCoupling(conditioner=affine)
    maf = with_weights(keras_nf.MaskedAutoregressive(**SMOOTH), 8, 1.3)
    maf.conditioner.weights[-1].assign([-0.6, 0.0, 0.0, -0.5])
    yield "MAF", maf
    iaf = with_weights(keras_nf.InverseAutoregressive(order="reversed", **SMOOTH), 8, 1.3)
    iaf.conditioner.weights[-1].assign([0.0, 0.0, 0.0, 0.4])
    yield "IAF", iaf
    yield "NSF", with_weights(keras_nf.SplineCoupling(bins=5, bound=2.4, **SMOOTH), 5, 3.0)
    linear = keras_nf.LULinear()
    linear.build((None, 2))
    linear.kernel.assign([[0.2, 0.4], [-0.5, -0.4]])
    yield "LULinear", linear
    yield "Permute", keras_nf.Permute()
    scaling = keras_nf.Scaling()
    scaling.build((None, 2))
    scaling.log_scale.assign([0.3, -0.6])
    yield "Scaling, ActNorm", scaling


def index(_):
    figure, rows = plt.subplots(2, 5, figsize=(7.0, 3.2), layout="constrained")
    for axes, (title, flow) in zip(rows.flat, layers()):
        grid(axes, keras_nf.Chain([flow], event_size=2), title, 3.8, lines=11)
        axes.set(xlabel="", ylabel="")
        axes.spines[["left", "bottom"]].set_visible(False)
    return figure
