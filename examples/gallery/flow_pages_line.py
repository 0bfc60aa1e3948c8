"""Pictures of the flow pages: maps of one component, and statistics of data."""

import numpy as np
from flow_pages_plane import trained
from style import BLUE, GREY, INK, PALE, SKY, VERMILLION, density, plt

import keras_nf

LIGHT = "#cfcfcf"


def normal(z):
    return np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)


def knots_of(raw, bins, bound):
    """Return places and heights of the knots of a spline, by the formula of its page."""
    a, b = (raw / (1.0 + np.abs(raw) / 2.0))[: 2 * bins, 0].reshape(2, bins)
    sizes = np.exp([a, a + b])
    ends = np.cumsum(sizes, axis=1) / sizes.sum(axis=1, keepdims=True)
    return np.concatenate([[[-bound], [-bound]], bound * (2.0 * ends - 1.0)], axis=1)


def draw_spline(axes, spline, raw):
    """Draw a spline with its knots, and tangents there; return z, x and the logarithm of dx/dz."""

    def forward(z):
        parameters = np.tile(raw, (1, z.size)).astype("float32")
        return (np.asarray(part) for part in spline.forward(z.astype("float32"), parameters))

    z = np.linspace(-4.0, 4.0, 2001)
    x, log_slope = forward(z)
    axes.plot(z, x, color=BLUE, linewidth=1.8)
    places, heights = knots_of(raw, spline.bins, spline.bound)
    _, at_knots = forward(places)
    for place, height, slope in zip(places, heights, np.exp(at_knots)):
        step = 0.5 / np.sqrt(1.0 + slope**2) * np.array([-1.0, 1.0])
        axes.plot(place + step, height + slope * step, color=VERMILLION, linewidth=1.6)
    axes.plot(places, heights, "o", color=VERMILLION, markersize=4.0)
    for end in (-spline.bound, spline.bound):
        axes.axvline(end, color=GREY, linewidth=0.7, linestyle=":")
    return z, x, log_slope


def nsf(steps):
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 2.6), layout="constrained")
    spline = keras_nf.elementwise.RationalQuadraticSpline(bins=5, bound=3.0)
    raw = np.zeros((spline.parameters, 1))
    raw[:10, 0] = [0.6, 0.0, -0.4, 0.3, 0.6] + [0.5, -1.3, 3.0, -1.3, 0.5]
    z, x, log_slope = draw_spline(panels[0], spline, raw)
    panels[0].set(xlabel="$z$", ylabel="$x$", title="spline and knots", aspect="equal")
    panels[0].set(xlim=(-4.0, 4.0), ylim=(-4.0, 4.0))
    panels[1].plot(z, normal(z), color=GREY, linestyle="--", label="base")
    panels[1].plot(x, normal(z) / np.exp(log_slope), color=BLUE, label="data")
    panels[1].set(title="density of $x$", yticks=[], xlabel="$x$", ylim=(0.0, None))
    panels[1].legend(frameon=False, handlelength=1.2, loc="upper right", borderpad=0.0)
    data = keras_nf.datasets.checkerboard(40_000, seed=0)
    model = trained(keras_nf.nsf(2, layers=3, hidden_units=(64, 64)), data, 2 * steps)
    density(panels[2], model.log_prob, 4.4)
    panels[2].set(title="three layers, fitted", xlabel="$x_1$", ylabel="$x_2$")
    return figure


def log(_):
    x = np.random.default_rng(0).lognormal(0.8, 0.9, 200_000)
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 2.4), layout="constrained")
    flow = keras_nf.Log()
    z = np.linspace(-3.5, 2.5, 500, dtype="float32")
    panels[0].axhspan(0.0, 12.0, color=PALE)
    panels[0].plot(z, np.asarray(flow(z[:, None]))[:, 0], color=BLUE, linewidth=1.8)
    panels[0].text(-3.3, 10.5, "above the bound", fontsize=9)
    panels[0].set(xlabel="$z$", ylabel="$x$", title="forward", ylim=(-1.5, 12.0))
    panels[1].hist(x, np.linspace(0.0, 12.0, 80), density=True, color=SKY)
    panels[1].set(xlabel="$x$", title="positive data", yticks=[], ylabel="density")
    latents = np.asarray(flow.inverse(x[:, None].astype("float32")))[:, 0]
    panels[2].hist(latents, 80, density=True, color=SKY)
    panels[2].set(xlabel="$z$", title="their latents", yticks=[], ylabel="density")
    return figure


def logit(_):
    rng = np.random.default_rng(0)
    x = np.where(
        rng.random(200_000) < 0.6, rng.beta(1.2, 9.0, 200_000), rng.beta(8.0, 3.0, 200_000)
    )
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 2.4), layout="constrained")
    margin = 0.05
    flow = keras_nf.Logit(margin=margin)
    z = np.linspace(-6.5, 6.5, 500, dtype="float32")
    panels[0].axhspan(0.0, 1.0, color=PALE)
    panels[0].plot(z, np.asarray(flow(z[:, None]))[:, 0], color=BLUE, linewidth=1.8)
    panels[0].text(-6.2, 0.88, "(low, high)", fontsize=9)
    panels[0].set(xlabel="$z$", ylabel="$x$", title=rf"forward, $\lambda$ = {margin}")
    panels[1].hist(x, 80, density=True, color=SKY)
    panels[1].set(xlabel="$x$", title="data in (0, 1)", yticks=[], ylabel="density")
    latents = np.asarray(keras_nf.Logit().inverse(x[:, None].astype("float32")))[:, 0]
    panels[2].hist(latents, np.linspace(-8.0, 5.0, 80), density=True, color=SKY)
    panels[2].set(xlabel="$z$", title="their latents", yticks=[], ylabel="density")
    return figure


def dequantize(steps):
    """Fit a spline to integers, as they are and with noise."""
    p = np.array([0.05, 0.17, 0.22, 0.13, 0.06, 0.09, 0.18, 0.10])
    levels = len(p)
    data = np.random.default_rng(0).choice(levels, size=(20_000, 1), p=p).astype("float32")
    ends = {
        "without noise": [keras_nf.Logit(-0.5, levels - 0.5, margin=1e-3)],
        "with Dequantize": [keras_nf.Logit(margin=1e-3), keras_nf.Dequantize(levels, seed=0)],
    }
    figure, panels = plt.subplots(1, 2, figsize=(7.0, 2.5), layout="constrained", sharey=True)
    x = np.linspace(-0.499, levels - 0.501, 4000, dtype="float32")[:, None]
    for axes, (title, flows) in zip(panels, ends.items()):
        spline = keras_nf.SplineAutoregressive(bins=24, hidden_units=())
        chain = keras_nf.Chain([spline, keras_nf.Standardize(), *flows])
        chain.adapt(data)
        model = trained(chain, data, steps, rate=3e-2)
        axes.bar(np.arange(levels), p, 0.96, color=LIGHT, label="$P(x)$")
        axes.plot(x[:, 0], np.exp(model.log_prob(x)), color=BLUE, linewidth=1.5, label="$p(x)$")
        axes.set(title=title, xlabel="$x$", xticks=range(levels), ylim=(0.0, 0.8))
    panels[1].legend(frameon=False)
    return figure


def batch_normalization(_):
    """Follow the running statistics over batches of data of mean 3 and standard deviation 2."""
    steps, size = 500, 32
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(steps, size, 1)).astype("float32")
    flow = keras_nf.BatchNormalization(event_size=1)
    flow.build((None, 1))
    running = []
    for batch in x:
        keras_nf.Invert(flow)(batch, training=True)
        running.append([float(flow.running_mean[0]), float(flow.running_variance[0])])
    of_batches = np.stack([x.mean(axis=(1, 2)), x.var(axis=(1, 2))], axis=1)
    flow.adapt(x.reshape(-1, 1))
    of_all = [float(flow.running_mean[0]), float(flow.running_variance[0])]
    figure, panels = plt.subplots(1, 2, figsize=(7.0, 2.5), layout="constrained")
    for axes, name, batches, curve, level in zip(
        panels, ("mean", "variance"), of_batches.T, np.array(running).T, of_all
    ):
        axes.plot(batches, ".", color="#b0b0b0", markersize=3.0, label="of the batch")
        axes.axhline(level, color=INK, linestyle="--", linewidth=1.2, label="after adapt")
        axes.plot(curve, color=BLUE, linewidth=2.2, label="running")
        axes.set(title=name, xlabel="step of training", ylim=(0.0, None))
    panels[0].legend(frameon=False, loc="lower right")
    return figure


def standardize(_):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 2))
    x = np.stack([noise[:, 0], 0.6 * noise[:, 0] + 0.8 * noise[:, 1]], axis=1)
    x = (x * [200.0, 10.0] + [1000.0, -30.0]).astype("float32")
    flow = keras_nf.Standardize()
    flow.adapt(x)
    z = np.asarray(flow.inverse(x))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.0, 2.6), layout="constrained", width_ratios=(1.5, 1.0)
    )
    left.plot(*x.T, ".", color=VERMILLION, markersize=2.5)
    left.set(title="data, in their units", xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    left.set(xlim=(0.0, 1700.0), ylim=(-550.0, 490.0))
    right.plot(*z.T, ".", color=BLUE, markersize=2.5)
    right.set(title="what the other layers see", xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    right.set(xlim=(-4.0, 4.0), ylim=(-4.0, 4.0))
    for axes in (left, right):
        axes.axhline(0.0, color=GREY, linewidth=0.5, zorder=0)
        axes.axvline(0.0, color=GREY, linewidth=0.5, zorder=0)
    return figure
