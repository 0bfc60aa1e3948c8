"""Pictures of the guides, each of a training of its own.

    python examples/gallery/guides.py density_estimation anomalies

Without names all are drawn. A minute or two each on a quiet core; the search of `tuning` takes
some ten, and needs the package keras-tuner.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_curve
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from style import BLUE, GALLERY, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, plt, save
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import plot

FOLDER = GALLERY.parent / "guides"


def load_example(name):
    path = Path(__file__).resolve().parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fit(model, x, x_val, *, rate, epochs, batch_size, callbacks=()):
    steps = epochs * len(x) // batch_size
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)))
    return model.fit(
        x,
        validation_data=x_val,
        epochs=epochs,
        batch_size=batch_size,
        callbacks=list(callbacks),
        verbose=0,
    )


def density_estimation():
    """Losses, latents and samples of the table of weather."""
    seasons = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.6, 0.4]), tfd.Normal([6.0, 21.0], [4.0, 3.0])
    )
    weather = tfd.JointDistributionSequential(
        [
            seasons,
            lambda t: tfd.LogitNormal(1.5 - 0.1 * t, 0.6),
            lambda h, t: tfd.LogNormal(1.0 + 0.6 * tf.sin(4.0 * h), 0.4),
        ]
    )
    x = np.stack(weather.sample(7000, seed=(0, 1)), axis=-1)
    maf = keras_nf.maf(event_size=3, layers=3, hidden_units=(32, 32))
    logit = keras_nf.Logit([-60.0, 0.0, 0.0], [60.0, 1.0, 60.0], margin=0.0)
    model = keras_nf.FlowModel(keras_nf.Chain([maf, keras_nf.Standardize(), logit]))
    model.adapt(x[:4000])
    history = fit(model, x[:4000], x[4000:5000], rate=5e-3, epochs=30, batch_size=200)
    figure, (first, second, third) = plt.subplots(1, 3, figsize=(9.0, 3.0), layout="constrained")
    plot.history(history, axes=first)
    first.set(title="-log p(x), nats")
    plot.latents(model, x[5000:], axes=second)
    second.set(title="latents of test data")
    samples = model.sample(1500, seed=0).numpy()
    for rows, colour, name in ((x[5000:6500], BLUE, "data"), (samples, VERMILLION, "samples")):
        third.plot(rows[:, 0], rows[:, 1], ".", color=colour, markersize=2.5, label=name, alpha=0.6)
    third.set(xlabel="temperature, °C", ylabel="humidity", title="data and samples")
    third.legend(markerscale=4, loc="lower left")
    return figure


def anomalies():
    """Scores of tumours, and ROC curves of the digit 8 among the others."""
    example = load_example("anomaly")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.0), layout="constrained")
    rows = example.cancer(0)
    density = example.detectors(noise=0.1)["flow"].fit(rows.train)
    benign = np.concatenate([rows.held_out, rows.normal])
    edges = np.concatenate([np.arange(-70.0, 50.0, 10.0), np.geomspace(50.0, 1e5, 34)])
    for name, values, colour in (
        ("benign, held out", benign, BLUE),
        ("malignant", rows.anomalies, VERMILLION),
    ):
        scores = -density.score_samples(values)
        left.hist(np.clip(scores, edges[0], edges[-1]), edges, alpha=0.6, color=colour, label=name)
    limit = -example.threshold(density, rows, 0.05)
    left.axvline(limit, color="black", linestyle="--", label="threshold")
    left.set(title="breast cancer, 30 columns", xlabel="score, nats", ylabel="tumours")
    left.set_xscale("symlog", linthresh=50.0)
    left.set_xticks([-50, 0, 50, 1e3, 1e5], ["-50", "0", "50", "1,000", "100,000"])
    left.minorticks_off()
    left.legend()

    rows = example.digits(0)
    neighbours = make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True))
    detectors = {**example.detectors(), "local outlier factor": neighbours}
    unseen = np.concatenate([rows.normal, rows.anomalies])
    is_anomaly = np.arange(len(unseen)) >= len(rows.normal)
    for (name, detector), colour in zip(detectors.items(), (BLUE, ORANGE, PURPLE, GREEN)):
        false, found, _ = roc_curve(is_anomaly, -detector.fit(rows.train).score_samples(unseen))
        area = example.area(detector, rows)
        right.plot(false, found, color=colour, label=f"{name}, {area:.2f}")
    right.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    right.set(title="digits: an 8 among the others", xlabel="false alarms", ylabel="found")
    right.set_aspect("equal")
    right.legend(title="area under the curve", loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def neutra():
    """Plain HMC and NeuTra on the funnel and on the ring."""
    example = load_example("neutra")
    figure, rows = plt.subplots(2, 3, figsize=(8.0, 5.2), layout="constrained")
    # The best number of leapfrog steps of either sampler, as measured by the example.
    for row, name, steps, component in (
        (rows[0], "funnel", (8, 16), "v"),
        (rows[1], "ring", (32, 16), "x[0]"),
    ):
        keras.utils.set_random_seed(0)
        target = example.TARGETS[name]
        model, _, _ = example.train(target, "iaf", 3, 64, epochs=30)
        flow = model.flow
        z = tf.random.stateless_normal((16, target.size), [0, 1])
        size = {"draws": 1000, "burn_in": 1000}
        plain = example.hmc(target.log_prob, flow.forward(z), steps[0], **size)[0]
        latent_log_prob = example.pull_back(flow, target.log_prob)
        z = example.hmc(latent_log_prob, z, steps[1], **size)[0]
        panels = (plain, z, flow.forward(z))
        for axes, states, colour in zip(row, panels, (GREY, SKY, BLUE)):
            shown = np.reshape(states, (-1, target.size))[::5]
            axes.scatter(shown[:, 1], shown[:, 0], s=2.5, color=colour, linewidths=0)
            latent = axes is row[1]
            axes.set(xlabel="z[1]" if latent else "x[1]", ylabel="z[0]" if latent else component)
        if name == "funnel":
            for axes in row[::2]:
                axes.set(xlim=(-30.0, 30.0), ylim=(-10.0, 10.0))
        else:
            for axes in row[::2]:
                axes.set_aspect("equal")
        row[0].set_title(f"{name}: plain HMC")
        row[1].set_title("NeuTra, latent space")
        row[2].set_title("NeuTra")
    return figure


def tuning(trials=40):
    """Validation loss of the trials of a random search, over what it varied."""
    import keras_tuner

    x = keras_nf.datasets.two_moons(5000, seed=0)
    x_train, x_val = x[:4000], x[4000:]
    epochs, batch_size = 30, 200

    def build(hp):
        layers = hp.Choice("layers", [2, 4, 6, 8, 10])
        units = hp.Choice("units", [16, 32, 64, 128])
        rate = hp.Float("rate", 3e-4, 3e-2, sampling="log")
        model = keras_nf.FlowModel(
            keras_nf.real_nvp(event_size=2, layers=layers, hidden_units=(units,) * 2)
        )
        steps = epochs * len(x_train) // batch_size
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)))
        return model

    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.RandomSearch(
            build, "val_loss", max_trials=trials, seed=0, directory=folder
        )
        tuner.search(
            x_train, validation_data=x_val, epochs=epochs, batch_size=batch_size, verbose=0
        )
    done = [trial for trial in tuner.oracle.trials.values() if trial.score is not None]
    values = {
        name: np.array([t.hyperparameters.values[name] for t in done])
        for name in ("layers", "units", "rate")
    }
    losses = np.array([trial.score for trial in done])
    for order in np.argsort(losses):
        print({name: each[order].item() for name, each in values.items()}, f"{losses[order]:.3f}")
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.0, 3.0), sharey=True, layout="constrained"
    )
    colours = dict(zip((2, 4, 6, 8, 10), (ORANGE, VERMILLION, PURPLE, SKY, BLUE)))
    for layers, colour in colours.items():
        chosen = values["layers"] == layers
        left.plot(
            values["rate"][chosen], losses[chosen], "o", color=colour, label=f"{layers} layers"
        )
        jitter = 2.0 ** (0.04 * (layers - 6))
        right.plot(values["units"][chosen] * jitter, losses[chosen], "o", color=colour)
    left.set(xscale="log", xlabel="learning rate at the start", ylabel="validation loss, nats")
    right.set(xscale="log", xlabel="hidden units", xticks=[16, 32, 64, 128])
    right.set_xticks([16, 32, 64, 128], ["16", "32", "64", "128"])
    right.minorticks_off()
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
    return figure


def tables():
    """Points of a category in three, of a number with gaps, and of two one-hot categories."""
    figure, (first, second, third) = plt.subplots(1, 3, figsize=(9.0, 3.1), layout="constrained")
    rng = np.random.default_rng(0)
    colours = np.array([SKY, BLUE, ORANGE])
    sizes = rng.choice(["large", "medium", "small"], 4000, p=[0.2, 0.5, 0.3])
    gaps = np.where(rng.random(4000) < 0.2, np.nan, np.exp(rng.normal(size=4000)))
    table = {"size": sizes, "weight": gaps, "sold": rng.random(4000) < 0.3}
    preparation = keras_nf.tables.TablePreparation(
        categorical={"size": "ordinal", "sold": "one_hot"}, bounds={"weight": (0, None)}
    )
    z = preparation.fit(table).transform(table, seed=0)
    kinds = [np.unique(sizes), ["a number", "missing"], ["no", "yes"]]
    codes = [np.unique(sizes, return_inverse=True)[1], np.isnan(gaps), table["sold"]]
    for code, (name, colour) in enumerate(zip(kinds[0], colours)):
        first.hist(z[codes[0] == code, 0], np.linspace(-4, 4, 81), color=colour, label=name)
    first.set(title="three categories, ordinal", xlabel="size", ylabel="rows", ylim=(0, 200))
    for axes, code, names, start in (
        (second, codes[1], kinds[1], 1),
        (third, codes[2], kinds[2], 3),
    ):
        for value, (name, colour) in enumerate(zip(names, colours[1:])):
            rows = z[code == value, start : start + 2]
            axes.plot(*rows.T, ".", color=colour, markersize=2.0, label=name)
        labels = preparation.components[start : start + 2]
        axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-4, 4), ylim=(-4, 5.5), aspect="equal")
    second.set(title="numbers and gaps")
    third.set(title="two categories, one-hot")
    for axes in (first, second, third):
        axes.legend(loc="upper center", ncols=3, markerscale=4, handlelength=0.8, columnspacing=1.0)
    return figure


def diagnostics():
    """PIT and coverage of a posterior learned from 200 pairs, and from 10,000."""
    rng = np.random.default_rng(1)

    def simulate(number):
        theta = rng.normal(size=(number, 2))
        x = np.stack([theta[:, 0], theta[:, 1] + theta[:, 0] ** 2], axis=-1)
        x += 0.3 * rng.normal(size=(number, 2))
        return theta.astype("float32"), x.astype("float32")

    theta, x = simulate(1000)
    figure, panels = plt.subplots(2, 2, figsize=(8.0, 6.4), layout="constrained")
    settings = ((200, 100, 100), (10_000, 6, 200))
    for (number, epochs, batch_size), (left, right) in zip(settings, panels):
        keras.utils.set_random_seed(0)
        model = keras_nf.FlowModel(keras_nf.real_nvp(2, layers=4, hidden_units=(64, 64)))
        parameters, observations = simulate(number)
        steps = epochs * number // batch_size
        rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
        model.compile(keras.optimizers.Adam(rate))
        pairs = {"x": parameters, "condition": observations}
        model.fit(pairs, epochs=epochs, batch_size=batch_size, verbose=0)
        for function, axes in (
            (keras_nf.diagnostics.pit, left),
            (keras_nf.diagnostics.coverage, right),
        ):
            result = function(model, theta, x)
            print(result)
            result.plot(axes)
        left.set(title=f"PIT, trained on {number:,} pairs", ylim=(-0.15, 0.15))
        right.set(title=f"coverage, trained on {number:,} pairs")
    return figure


PICTURES = {
    f.__name__: f for f in (density_estimation, anomalies, neutra, tuning, tables, diagnostics)
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write")
    options = parser.parse_args()
    if unknown := set(options.names) - set(PICTURES):
        parser.error(f"expected names among {', '.join(PICTURES)}, not {', '.join(unknown)}")
    for name in options.names or PICTURES:
        keras.utils.set_random_seed(0)
        save(PICTURES[name](), options.output / f"{name}.png")


if __name__ == "__main__":
    main()
