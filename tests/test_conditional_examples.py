"""The examples of conditional densities: exact quantiles, exact posteriors, command lines."""

import csv
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from cases import perturb
from processes import load_example, run_example

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(4, 3)).astype("float32")
Y = RNG.gamma(2.0, size=(50, 1)).astype("float32")
PAIRS = {"x": Y, "condition": np.resize(FEATURES, (len(Y), 3))}
OPTIONS = SimpleNamespace(hidden_layers=1, units=8, bins=4)


@pytest.fixture(scope="module")
def regression():
    return load_example("conditional_density")


@pytest.fixture(scope="module")
def sbi():
    return load_example("sbi")


def make(regression, head):
    keras.utils.set_random_seed(0)
    model = regression.make_models(FEATURES.shape[1], Y, OPTIONS, dropout=0.0)[head]
    model.adapt(PAIRS)
    # The last flow is `Standardize`, whose numbers are those of the data.
    for flow in model.flow.flows[:-1]:
        perturb(flow)
    return model


@pytest.mark.parametrize("head", ["gaussian", "flow"])
class TestRegression:
    def test_quantiles_are_those_of_the_draws(self, regression, head):
        model = make(regression, head)
        levels = np.array([0.05, 0.3, 0.5, 0.9])
        quantiles = model.quantile(levels[:, None], FEATURES).numpy()[..., 0]
        draws = np.asarray(model.sample(20_000, FEATURES, seed=0))[..., 0]
        below = np.mean(draws < quantiles[:, None], axis=1)
        # Five standard errors of a frequency.
        tolerance = 5.0 * np.sqrt(levels * (1.0 - levels) / len(draws))
        np.testing.assert_array_less(np.max(np.abs(below - levels[:, None]), axis=1), tolerance)

    def test_mean_is_that_of_the_density(self, regression, head):
        model = make(regression, head)
        low, high = model.quantile([[1e-5], [1.0 - 1e-5]], FEATURES).numpy()[..., 0]
        y = np.linspace(low, high, 4001).astype("float32")[..., None]
        condition = np.tile(FEATURES, (len(y), 1))
        density = np.exp(model.log_prob(y.reshape(-1, 1), condition)).reshape(len(y), -1)
        total, mean = ((high - low) * np.mean(v, axis=0) for v in (density, density * y[..., 0]))
        np.testing.assert_allclose(total, 1.0, atol=1e-3)
        np.testing.assert_allclose(model.mean(FEATURES)[:, 0], mean, rtol=5e-3, atol=5e-3)

    def test_gradients_reach_the_encoder(self, regression, head):
        model = make(regression, head)
        model.compile(keras.optimizers.SGD(0.1))
        before = [np.array(weight) for weight in model.encoder.trainable_weights]
        model.fit({"x": Y[:4], "condition": FEATURES}, epochs=1, verbose=0)
        for weight, old in zip(model.encoder.trainable_weights, before):
            assert np.any(np.asarray(weight) != old), weight.path


def test_likelihood_of_integers_is_that_of_their_probabilities(regression):
    grades = np.arange(3.0, 9.0, dtype="float32")[:, None]
    model = regression.make_models(3, grades, OPTIONS, dropout=0.0, is_integer=True)["flow"]
    model.adapt({"x": grades, "condition": np.zeros((6, 3), "float32")})
    features = np.tile(FEATURES[:1], (6, 1))
    each = [regression.log_likelihood(model, y[None], features[:1], True) for y in grades]
    assert np.sum(np.exp(each)) == pytest.approx(1.0, abs=1e-5)
    together = regression.log_likelihood(model, grades, features, True)
    assert together == pytest.approx(np.mean(each), abs=1e-5)


def test_flow_starts_as_the_gaussian(regression):
    models = regression.make_models(3, Y, OPTIONS, dropout=0.0)
    x = {"x": Y[:4], "condition": FEATURES}
    models["gaussian"].adapt(PAIRS)
    models["gaussian"].compile(keras.optimizers.SGD(0.1))
    models["gaussian"].fit(x, epochs=1, verbose=0)
    expected, log_prob = (model.log_prob(Y[:4], FEATURES) for model in models.values())
    np.testing.assert_allclose(log_prob, expected, rtol=1e-6)


def test_splits_share_no_row(regression):
    x, y = np.arange(60.0).reshape(20, 3), np.arange(20.0)
    parts = regression.split_rows(x, y, np.array([3, 7, 11]), seed=0)
    rows = [part["x"][:, 0] for part in parts]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), y)
    np.testing.assert_array_equal(rows[2], [3.0, 7.0, 11.0])
    np.testing.assert_allclose(parts[0]["condition"].mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(parts[0]["condition"].std(axis=0), 1.0, rtol=1e-6)


@pytest.mark.long
def test_regression_command_goes_on_where_it_stopped(tmp_path):
    x = RNG.normal(size=(60, 2)).astype("float32")
    test = np.stack([np.arange(6), np.arange(6, 12)]).astype("int32")
    np.savez(tmp_path / "sets.npz", toy_x=x, toy_y=x[:, 0] ** 2, toy_test=test)
    options = {"--data": tmp_path / "sets.npz", "--out": tmp_path / "out.csv", "--epochs": 1}
    options |= {"--units": 4, "--bins": 2, "--min-steps": 2}
    words = [word for option in options.items() for word in option]
    run_example("conditional_density", *words, "--splits", 1)
    first = (tmp_path / "out.csv").read_text()
    printed = run_example("conditional_density", *words)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (tmp_path / "out.csv").read_text().startswith(first)
    done = {(row["split"], row["head"]) for row in rows}
    assert done == {(split, head) for split in "01" for head in ("gaussian", "flow")}
    assert len(rows) == 4
    assert {row["dropout"] for row in rows} <= {"0.0", "0.05"}
    assert {row["phases"] for row in rows} <= {"1", "2"}
    assert np.all(np.isfinite([float(row["log_likelihood"]) for row in rows]))
    assert printed.splitlines()[-1].split()[:2] == ["toy", "2"]


@pytest.mark.long
def test_regression_command_without_data(tmp_path):
    options = ["--splits", 1, "--epochs", 1, "--units", 4, "--bins", 2, "--min-steps", 2]
    printed = run_example("conditional_density", *options, "--out", tmp_path / "out.csv")
    name, splits, log_prob, *_ = printed.splitlines()[-1].split()
    assert (name, splits) == ("diabetes", "1")
    assert np.isfinite(float(log_prob))


def test_results_of_other_columns_are_refused(regression, tmp_path, monkeypatch, capsys):
    (tmp_path / "out.csv").write_text("set,split\n")
    monkeypatch.setattr("sys.argv", ["", "--out", str(tmp_path / "out.csv")])
    with pytest.raises(SystemExit):
        regression.main()
    assert "out.csv with set, split. Give another name." in capsys.readouterr().err


def test_default_regression_set(regression):
    arrays = regression.load(None)
    assert arrays["diabetes_x"].shape == (442, 10)
    assert arrays["diabetes_y"].shape == (442,)
    assert arrays["diabetes_test"].shape == (10, 44)
    for rows in arrays["diabetes_test"]:
        assert len(set(rows)) == 44


def test_regression_data_that_are_missing(regression, tmp_path):
    advice = r"docs/conditional\.md says how to make one; without --data the set is `diabetes`"
    with pytest.raises(
        SystemExit, match=rf"<set>_test.*none\.npz, where there is no file.*{advice}"
    ):
        regression.load(tmp_path / "none.npz")
    np.savez(tmp_path / "part.npz", a_x=np.ones((2, 1)), a_test=[[0]])
    with pytest.raises(SystemExit, match=rf"part\.npz has no a_y\. {advice}"):
        regression.load(tmp_path / "part.npz")


def test_exact_posterior_is_that_of_the_draws(sbi):
    observation = np.array([0.0, 0.1])
    grid, density = sbi.exact_posterior(observation, points=500)
    cell = (2.0 / 500) ** 2
    np.testing.assert_allclose(density.sum() * cell, 1.0)
    draws = sbi.exact_draws(observation, 20_000, np.random.default_rng(0))
    for moment in (1, 2):
        expected = (density[..., None] * grid**moment).sum(axis=(0, 1)) * cell
        error = np.std(draws**moment, axis=0) / np.sqrt(len(draws))
        difference = np.mean(draws**moment, axis=0) - expected
        np.testing.assert_array_less(np.abs(difference), 5.0 * error + 1e-4)


def test_simulator_has_the_density_of_the_posterior(sbi):
    rng = np.random.default_rng(0)
    x = sbi.crescent(100_000, rng)
    edges = np.linspace([0.25, -0.12], [0.37, 0.12], 13)
    counts, _, _ = np.histogram2d(*x.T, bins=edges.T)
    # The density of a bin, by its mean over 20 x 20 points.
    fine = [np.linspace(axis[0], axis[-1], 241)[:-1] + np.ptp(axis) / 480 for axis in edges.T]
    points = np.stack(np.meshgrid(*fine, indexing="ij"), axis=-1)
    density = np.exp(sbi.crescent_log_prob(points)).reshape(12, 20, 12, 20).mean(axis=(1, 3))
    expected = density * len(x) * np.prod(edges[1] - edges[0])
    np.testing.assert_array_less(np.abs(counts - expected), 5.0 * np.sqrt(expected) + 5.0)


@pytest.mark.slow
def test_simulation_command_writes_picture_and_model(sbi, tmp_path):
    options = ["--simulations", 400, "--epochs", 1, "--batch-size", 20, "--layers", 1]
    printed = run_example("sbi", *options, "--hidden-units", 8, "--points", 50, "--out", tmp_path)
    assert "KL divergence" in printed
    assert (tmp_path / "two_moons.png").read_bytes().startswith(b"\x89PNG")
    model = keras.models.load_model(tmp_path / "posterior.keras")
    draws = np.asarray(model.sample(100, condition=np.zeros((1, 2), "float32"), seed=0))
    assert np.all(np.abs(draws) < 1.0)
