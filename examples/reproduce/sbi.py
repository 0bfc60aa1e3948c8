"""Posteriors from simulations, measured by a classifier that tells them from the right ones.

    python examples/reproduce/sbi.py --task two_moons --simulations 10000 --data sbi.npz

Trains p(theta | x), one flow for all observations, on pairs from the simulator; then draws as many
parameters for each observation as there are from the reference posterior. A classifier, trained on
both, has the accuracy C2ST under cross-validation: 0.5 where nothing tells them apart, 1 where
everything does. The mean over observations is appended to `sbi.csv` in the folder `--out`.

One recipe serves all tasks and numbers of simulations: both of NETWORKS are trained, and the one
with the less validation loss is taken. `--data` is an npz file with the
observations `<task>_observation` and draws `<task>_posterior` of the reference posteriors, both of
the benchmark.

References:
  Jan-Matthis Lueckmann, Jan Boelts, David S. Greenberg, Pedro J. Gonçalves, Jakob H. Macke.
  Benchmarking Simulation-Based Inference. 2021. arXiv:2101.04653
"""

import copy

import numpy as np
from harness import batches_of, fill_in, mean_and_error, parser_of, record, train

# isort: split
import keras

import keras_nf


def gaussian_linear(theta, rng):
    return theta + np.sqrt(0.1) * rng.normal(size=theta.shape)


def gaussian_mixture(theta, rng):
    deviation = np.where(rng.random((len(theta), 1)) < 0.5, 1.0, 0.1)
    return theta + deviation * rng.normal(size=theta.shape)


def two_moons(theta, rng):
    angle = rng.uniform(-np.pi / 2, np.pi / 2, size=len(theta))
    radius = rng.normal(0.1, 0.01, size=len(theta))
    crescent = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=-1)
    total, difference = theta[:, 0] + theta[:, 1], theta[:, 1] - theta[:, 0]
    return crescent + np.stack([-np.abs(total), difference], axis=-1) / np.sqrt(2.0)


def slcp(theta, rng):
    """Four points of a normal distribution of two components, whose all five numbers are asked."""
    mean, deviation, correlation = (
        theta[:, None, :2],
        theta[:, None, 2:4] ** 2,
        np.tanh(theta[:, 4:]),
    )
    noise = rng.normal(size=(len(theta), 4, 2))
    second = correlation * noise[..., 0] + np.sqrt(1.0 - correlation**2) * noise[..., 1]
    points = mean + deviation * np.stack([noise[..., 0], second], axis=-1)
    return points.reshape(-1, 8)


# Number of parameters, half the width of their uniform prior, and the simulator.
TASKS = {
    "gaussian_linear": (10, None, gaussian_linear),
    "gaussian_linear_uniform": (10, 1.0, gaussian_linear),
    "gaussian_mixture": (2, 10.0, gaussian_mixture),
    "two_moons": (2, 1.0, two_moons),
    "slcp": (5, 3.0, slcp),
}


def simulate(task, number, rng):
    """Return pairs of parameters from the prior and observations."""
    size, half_width, simulator = TASKS[task]
    if half_width is None:
        theta = np.sqrt(0.1) * rng.normal(size=(number, size))
    else:
        theta = rng.uniform(-half_width, half_width, size=(number, size))
    return theta.astype("float32"), simulator(theta, rng).astype("float32")


# By name: layers and units of the flow; epochs and learning rate. The narrow one is for what the
# wide one learns by heart: few pairs, many parameters.
NETWORKS = {"wide": ((5, 64), (200, 1e-3)), "narrow": ((2, 32), (30, 5e-4))}


def make_model(task, theta, x, layers, units):
    """Return an untrained p(theta | x) that stays where the prior is."""
    size, half_width, _ = TASKS[task]
    network = {"hidden_units": (units,) * 3, "residual": True, "dropout": 0.1}
    flows = [keras_nf.nsf(size, layers=layers, **network), keras_nf.Standardize()]
    if half_width is not None:
        flows.append(keras_nf.Logit(-half_width, half_width, margin=0.0))
    encoder = keras.layers.Normalization()
    encoder.adapt(x)
    model = keras_nf.FlowModel(keras_nf.Chain(flows), encoder=encoder)
    model.adapt({"x": theta, "condition": x})
    return model


def train_networks(theta, x, options, folder):
    """Return the better one of the networks by the last tenth of the pairs, and its progress."""
    kept = len(theta) - len(theta) // 10
    validation = {"x": theta[kept:], "condition": x[kept:]}
    candidates, minutes = {}, 0.0
    for name, (sizes, (epochs, rate)) in NETWORKS.items():
        settings = copy.copy(options)
        settings.minutes = options.minutes / len(NETWORKS)
        fill_in(settings, (epochs, max(20, len(theta) // 100), rate))
        model = make_model(options.task, theta, x, *sizes)
        batches = batches_of(
            (theta[:kept], x[:kept]),
            settings.batch_size,
            lambda theta, x: {"x": theta, "condition": x},
        )
        progress = train(model, batches, validation, kept, settings, folder / name)
        candidates[name] = model, progress
        minutes += progress["minutes"]
    name = max(candidates, key=lambda name: candidates[name][1]["validation"])
    model, progress = candidates[name]
    return model, name, {**progress, "minutes": round(minutes, 1)}


def main():
    parser = parser_of(__doc__, data="an npz file of observations and reference posteriors")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--simulations", type=int, default=10_000)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    with np.load(options.data) as arrays:
        observations = arrays[f"{options.task}_observation"]
        posteriors = arrays[f"{options.task}_posterior"]

    theta, x = simulate(options.task, options.simulations, np.random.default_rng(options.seed))
    run = {"task": options.task, "simulations": options.simulations, "seed": options.seed}
    folder = options.out / "-".join(map(str, ("sbi", *run.values())))
    model, network, progress = train_networks(theta, x, options, folder)
    model.save(folder / "model.keras")

    accuracies = []
    for i, (observation, reference) in enumerate(zip(observations, posteriors)):
        reference = reference[: options.rows]
        draws = model.sample(len(reference), condition=observation[None], seed=i)[:, 0]
        accuracies.append(keras_nf.diagnostics.c2st(draws, reference).accuracy)
        print(f"observation {i + 1}: {accuracies[-1]:.3f}", flush=True)
    record(
        options.out / "sbi.csv",
        run,
        model.count_params(),
        {"network": network, **mean_and_error(accuracies, "c2st")},
        progress,
    )


if __name__ == "__main__":
    main()
