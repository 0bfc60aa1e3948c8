"""Pictures of the flow pages: what planar flows, couplings and autoregression do to the plane."""

import keras
import numpy as np
from keras import ops
from style import BLUE, INK, ORANGE, density, plt

import keras_nf
from keras_nf import plot

REACH = 3.0
SMOOTH = {"hidden_units": (24,), "activation": "tanh"}


def with_weights(flow, seed, gain=1.0):
    """Build a flow of the plane and give it random weights, far from the identity."""
    rng = np.random.default_rng(seed)
    flow.build((None, 2))
    for variable in flow.trainable_variables:
        shape = tuple(variable.shape)
        width = np.sqrt(shape[0]) if len(shape) > 1 else 1.0
        variable.assign(gain * rng.normal(size=shape) / width)
    return flow


def trained(flow, x, steps, rate=3e-3):
    keras.utils.set_random_seed(0)
    model = keras_nf.FlowModel(flow)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)))
    model.fit(x, batch_size=256, epochs=-(-steps * 256 // len(x)), verbose=0)
    return model


def strip(columns, height=2.2):
    return plt.subplots(1, columns, figsize=(7.0, height), layout="constrained")


def square(axes, title, reach=REACH, symbol="x"):
    axes.set_title(title)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.set_xlabel(f"${symbol}_1$", labelpad=2)
    axes.set_ylabel(f"${symbol}_2$", labelpad=2)


def grid(axes, flow, title, reach=REACH, half=2.4, symbol="x", lines=15):
    """Draw a grid of the base as a flow bends it, in a square of the same size in all panels."""
    plot.grid(flow, -half, half, lines=lines, axes=axes).get_legend().remove()
    square(axes, title, reach, symbol)


def base_grid(axes, reach=REACH):
    grid(axes, keras_nf.Chain([], event_size=2), "base", reach, symbol="z")


def curve(axes, flow, z, **options):
    """Draw the image of a curve in the base, with a white rim."""
    x = np.asarray(flow(np.asarray(z, "float32")))
    axes.plot(*x.T, color="white", linewidth=4.0)
    axes.plot(*x.T, **{"color": INK, "linewidth": 2.0, **options})


def first(flow, number):
    return keras_nf.Chain(flow.flows[:number], event_size=2)


def planar(_):
    w, b = [[1.4, 0.9], [-0.6, 1.5], [1.2, -1.2]], [0.5, -0.4, 0.3]
    u = [[1.5, -0.4], [0.9, 1.3], [-0.8, 1.0]]
    figure, panels = strip(4)
    t = np.linspace(-5.0, 5.0, 400)
    crease = np.stack([t, -(w[0][0] * t + b[0]) / w[0][1]], axis=1)
    for folds, axes in enumerate(panels):
        flow = keras_nf.Planar(folds=max(folds, 1))
        flow.build((None, 2))
        for variable, value in zip((flow.w, flow.u, flow.b), (w, u, b)):
            variable.assign(value[: flow.folds])
        flow = keras_nf.Chain([flow] if folds else [], event_size=2)
        title = f"{folds} fold" + "s" * (folds > 1) if folds else "base"
        grid(axes, flow, title, 3.6, symbol="x" if folds else "z")
        curve(axes, flow, crease)
    panels[0].text(-3.4, -3.4, "$w^T z + b = 0$", fontsize=9, va="bottom")
    return figure


def square_of(corner, width):
    """Return points along the outline of a square."""
    t = np.linspace(0.0, 1.0, 100)
    zeros, ones = np.zeros_like(t), np.ones_like(t)
    x, y = np.concatenate([t, ones, t[::-1], zeros]), np.concatenate([zeros, t, ones, t[::-1]])
    return np.array(corner) + width * np.stack([x, y], axis=1)


def area(x):
    return 0.5 * abs(x[:, 0] @ np.roll(x[:, 1], -1) - x[:, 1] @ np.roll(x[:, 0], -1))


def step_by_step(panels, flow, titles, reach):
    """Draw the grid after each flow of a chain, and the image of a square of area 1."""
    for number, (axes, title) in enumerate(zip(panels, titles)):
        part = first(flow, number)
        x = np.asarray(part(square_of((0.4, 0.2), 1.0).astype("float32")))
        title = f"{title}\narea {area(x):.2f}"
        grid(axes, part, title, reach, symbol="x" if number else "z")
        axes.fill(*x.T, color=ORANGE, alpha=0.9, zorder=3, linewidth=0.0)


def network(*parameters):
    """Return a network that gives fixed functions of its input, one after the other."""
    return keras.layers.Lambda(lambda z: ops.concatenate([f(z) for f in parameters], axis=-1))


def nice(_):
    first_network = network(lambda z: 1.1 * ops.sin(1.6 * z))
    second_network = network(lambda z: 1.2 * ops.tanh(2.0 * z - 1.0))
    couplings = [
        keras_nf.AdditiveCoupling(conditioner=first_network),
        keras_nf.AdditiveCoupling(conditioner=second_network, swap=True),
    ]
    flow = keras_nf.Chain([*couplings, keras_nf.Scaling()], event_size=2)
    flow.build((None, 2))
    flow.flows[-1].log_scale.assign([-0.5, 0.2])
    figure, panels = strip(4, 2.4)
    step_by_step(panels, flow, ["base", "coupling", "swapped coupling", "Scaling"], 4.2)
    return figure


def real_nvp(steps):
    first_network = network(lambda z: 0.7 * ops.sin(1.6 * z), lambda z: -0.3 * z)
    second_network = network(lambda z: -ops.tanh(z), lambda z: 0.5 * ops.cos(1.2 * z))
    couplings = [
        keras_nf.AffineCoupling(conditioner=first_network),
        keras_nf.AffineCoupling(conditioner=second_network, swap=True),
    ]
    figure, panels = strip(4, 2.4)
    flow = keras_nf.Chain(couplings, event_size=2)
    step_by_step(panels, flow, ["base", "coupling", "swapped coupling"], 4.0)
    x = keras_nf.datasets.two_moons(20_000, seed=0)
    flow = trained(keras_nf.real_nvp(2, hidden_units=(64, 64)), x, steps).flow
    grid(panels[3], flow, "8 couplings,\nfitted to moons", 4.0)
    return figure


def maf(steps):
    """One layer, of which each x_2 is normal given x_1, and five that were trained."""
    keras.utils.set_random_seed(0)
    x = keras_nf.datasets.pinwheel(20_000, seed=0)
    figure, panels = strip(3, 2.08)
    layer = with_weights(keras_nf.MaskedAutoregressive(**SMOOTH), 8, 1.3)
    layer.conditioner.weights[-1].assign([0.0, 0.8, 0.0, -1.1])
    one = keras_nf.FlowModel(layer)
    grid(panels[0], layer, "one layer")
    density(panels[1], one.log_prob, REACH)
    square(panels[1], "its density")
    y = np.linspace(-REACH, REACH, 400, dtype="float32")
    for x_1 in (-1.2, 0.0, 1.2):
        p = np.exp(one.log_prob(np.stack([np.full_like(y, x_1), y], axis=1)))
        panels[1].axvline(x_1, color="white", linewidth=0.6, linestyle=":")
        panels[1].plot(x_1 + 0.8 * p / p.max(), y, color="white", linewidth=1.5)
    model = trained(keras_nf.maf(2), x, steps)
    density(panels[2], model.log_prob, REACH)
    square(panels[2], "five layers, fitted")
    return figure


def iaf(steps):
    """Fit to U1 by its own draws."""
    keras.utils.set_random_seed(0)
    flow = keras_nf.Chain(
        [keras_nf.Scaling(use_shift=True), keras_nf.iaf(2, layers=8, hidden_units=(64, 64))],
        event_size=2,
    )
    model = keras_nf.VariationalModel(flow, lambda x: -keras_nf.datasets.u1(x))
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    beta = keras.optimizers.schedules.PolynomialDecay(0.01, steps // 3, 1.0)
    model.compile(keras.optimizers.Adam(rate), inverse_temperature=beta)
    model.fit(batch_size=512, steps_per_epoch=steps, seed=0, verbose=0)
    figure, panels = strip(3, 2.7)
    reach = 4.0
    image = density(panels[0], lambda x: -keras_nf.datasets.u1(x) - 1.8775, reach)
    square(panels[0], "target", reach)
    density(panels[1], model.log_prob, reach, vmax=image.get_clim()[1])
    square(panels[1], "flow, fitted to it", reach)
    draws = np.asarray(model.sample(3000, seed=0))
    panels[2].plot(*draws.T, ".", color=BLUE, markersize=1.5)
    square(panels[2], "its draws", reach)
    return figure
