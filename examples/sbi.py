"""Neural posterior estimation: learn p(parameters | observation) from simulations alone.

    python examples/sbi.py --out sbi

The simulator is two moons, whose posterior has two thin crescents and is known exactly. A flow
conditioned on the observation is trained on pairs (parameters, observation) and so learns the
posteriors of all observations at once. Prints, for the observation (0, 0), the KL divergence of the
learned posterior from the exact one, and writes `two_moons.png` and `posterior.keras`.

References:
  David S. Greenberg, Marcel Nonnenmacher, Jakob H. Macke. Automatic Posterior Transformation for
  Likelihood-Free Inference. 2019. arXiv:1905.07488. The simulator.
  Jan-Matthis Lueckmann, Jan Boelts, David S. Greenberg, Pedro J. Gonçalves, Jakob H. Macke.
  Benchmarking Simulation-Based Inference. 2021. arXiv:2101.04653.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib as mpl
import numpy as np

import keras_nf

mpl.use("Agg")
import matplotlib.pyplot as plt

RADIUS, WIDTH, OFFSET = 0.1, 0.01, 0.25


def prior(n, rng):
    """Parameters, uniform on the square [-1, 1]^2."""
    return rng.uniform(-1.0, 1.0, size=(n, 2))


def crescent(n, rng):
    """The simulator's noise: points on half a ring."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, size=n)
    radius = rng.normal(RADIUS, WIDTH, size=n)
    return np.stack([radius * np.cos(angle) + OFFSET, radius * np.sin(angle)], axis=-1)


def crescent_log_prob(p):
    """Log-density of `crescent`: that of radius and angle, over the radius (the Jacobian)."""
    u, v = p[..., 0] - OFFSET, p[..., 1]
    radius = np.hypot(u, v)
    with np.errstate(divide="ignore"):
        log_prob = -0.5 * ((radius - RADIUS) / WIDTH) ** 2 - np.log(
            np.sqrt(2.0 * np.pi) * WIDTH * np.pi * radius
        )
    return np.where((u > 0.0) & (radius > 0.0), log_prob, -np.inf)


def shift(theta):
    a, b = theta[..., 0], theta[..., 1]
    return np.stack([-np.abs(a + b), b - a], axis=-1) / np.sqrt(2.0)


def simulate(theta, rng):
    """Observations, one for each row of parameters."""
    return crescent(len(theta), rng) + shift(theta)


def exact_posterior(observation, points):
    """Return the centres of a grid of cells on the square and p(theta | observation) there."""
    edges = np.linspace(-1.0, 1.0, points + 1)
    centres = 0.5 * (edges[1:] + edges[:-1])
    theta = np.stack(np.meshgrid(centres, centres), axis=-1)
    likelihood = np.exp(crescent_log_prob(observation - shift(theta)))
    return theta, likelihood / (likelihood.sum() * (2.0 / points) ** 2)


def exact_draws(observation, n, rng):
    """Draw from the exact posterior: solve the simulator for theta, keep what is in the square."""
    kept = np.zeros((0, 2))
    while len(kept) < n:
        difference = crescent(n, rng) - observation
        total = np.where(rng.random(n) < 0.5, -1.0, 1.0) * difference[:, 0]
        theta = np.stack([total + difference[:, 1], total - difference[:, 1]], -1) / np.sqrt(2.0)
        inside = (difference[:, 0] > 0.0) & (np.abs(theta) < 1.0).all(axis=-1)
        kept = np.concatenate([kept, theta[inside]])
    return kept[:n]


def make_model(theta, layers, hidden_units):
    """Return an untrained p(theta | x) that keeps theta inside the square."""
    logit = keras_nf.Logit(low=-1.0, high=1.0)
    standardize = keras_nf.Standardize()
    standardize.adapt(logit.inverse(theta))
    maf = keras_nf.maf(event_size=2, layers=layers, hidden_units=hidden_units)
    return keras_nf.FlowModel(keras_nf.Chain([maf, standardize, logit]))


def train(model, theta, x, options):
    """Maximum likelihood of the parameters given the observations; a tenth is held out."""
    held_out = len(theta) // 10
    validation = {"x": theta[:held_out], "condition": x[:held_out]}
    pairs = {"x": theta[held_out:], "condition": x[held_out:]}
    steps = options.epochs * -(-len(pairs["x"]) // options.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=1.0)
    model.compile(optimizer, jit_compile=True, steps_per_execution=16)
    model.fit(
        pairs,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_data=validation,
        validation_batch_size=held_out,
        verbose=2,
    )


def log_posterior(model, theta, observation):
    """Learned log p(theta | observation) at the rows of theta."""
    theta = np.asarray(theta, "float32")
    condition = np.broadcast_to(np.asarray(observation, "float32"), theta.shape)
    return model.predict({"x": theta, "condition": condition}, batch_size=4096, verbose=0)


def picture(exact, learned, draws, path):
    """Draw both densities around the crescents, and points of the flow."""
    figure, axes = plt.subplots(1, 3, figsize=(11.4, 4.0), sharex=True, sharey=True)
    # The learned density is coloured on the scale of the exact one.
    shared = {"extent": (-1, 1, -1, 1), "origin": "lower", "cmap": "Blues", "vmax": exact.max()}
    axes[0].imshow(exact, vmin=0.0, **shared)
    axes[1].imshow(learned, vmin=0.0, **shared)
    axes[2].scatter(*draws.T, s=2, linewidth=0)
    for axis, title in zip(axes, ("exact posterior", "flow", "draws of the flow")):
        axis.set(title=f"{title}, x = (0, 0)", xlabel="$\\theta_1$", aspect="equal")
    axes[0].set(xlim=(-0.5, 0.5), ylim=(-0.5, 0.5), ylabel="$\\theta_2$")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden-units", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--points", type=int, default=1000, help="grid cells on a side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("sbi"), help="folder to write")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()

    keras.utils.set_random_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    theta = prior(options.simulations, rng)
    x = simulate(theta, rng).astype("float32")
    theta = theta.astype("float32")
    model = make_model(theta, options.layers, options.hidden_units)
    train(model, theta, x, options)
    model.save(options.out / "posterior.keras")
    minutes = (time.perf_counter() - start) / 60.0

    observation = np.zeros(2)
    grid, exact = exact_posterior(observation, options.points)
    log_flow = log_posterior(model, grid.reshape(-1, 2), observation).reshape(exact.shape)
    cell = (2.0 / options.points) ** 2
    log_exact = np.log(exact, where=exact > 0.0, out=np.zeros_like(exact))
    mean_log_exact = (exact * log_exact).sum() * cell
    mean_log_flow = (exact * log_flow).sum() * cell
    theta = exact_draws(observation, 10_000, rng)
    on_draws = log_posterior(model, theta, observation)
    print(f"\nPosterior at x = (0, 0), in nats, on {options.points} x {options.points} cells:")
    print(f"  mean log-density of the exact posterior        {mean_log_exact:.4f}")
    print(f"  the same of the flow, under the exact one      {mean_log_flow:.4f}")
    print(f"  KL divergence, the difference                  {mean_log_exact - mean_log_flow:.4f}")
    print(f"  mean log-density of the flow at exact draws    {on_draws.mean():.4f}")
    print(f"  probability of the square under the flow       {np.exp(log_flow).sum() * cell:.4f}")
    draws = model.sample(2000, condition=observation.astype("float32")[None], seed=options.seed)
    picture(exact, np.exp(log_flow), np.asarray(draws)[:, 0], options.out / "two_moons.png")
    print(f"{minutes:.1f} minutes to simulate and train; wrote {options.out}/.")


if __name__ == "__main__":
    main()
