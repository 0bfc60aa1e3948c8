"""The example of NeuTra: its densities, the latent density, the chains, the command line."""

import math

import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from processes import load_example, run_example
from tensorflow_probability import distributions as tfd

import keras_nf

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("without_xla")


@pytest.fixture(scope="module")
def example():
    return load_example("neutra")


@pytest.mark.parametrize("name", ["banana", "ring"])
def test_integral_and_deviation_by_quadrature(example, name):
    target = example.TARGETS[name]
    low, high, step = np.array([-6.0, -6.0]), np.array([6.0, 30.0]), 0.01
    x0, x1 = (np.arange(a, b, step) for a, b in zip(low, high))
    p = np.exp(target.log_prob(np.stack(np.meshgrid(x0, x1, indexing="ij"), axis=-1)))
    assert math.log(p.sum() * step**2) == pytest.approx(target.log_z, abs=1e-3)
    of_first = p.sum(axis=1) / p.sum()
    assert math.sqrt(of_first @ x0**2) == pytest.approx(target.std, abs=1e-3)


def test_funnel_is_the_product_of_its_normals(example):
    target = example.TARGETS["funnel"]
    x = np.random.default_rng(0).normal(size=(20, target.size)).astype("float32")
    v = x[:, :1]
    of_others = tfd.Normal(0.0, np.exp(0.5 * v)).log_prob(x[:, 1:])
    expected = tfd.Normal(0.0, target.std).log_prob(x[:, 0]) + tf.reduce_sum(of_others, axis=1)
    np.testing.assert_allclose(target.log_prob(x) - target.log_z, expected, rtol=1e-5)


def test_a_flow_that_fits_pulls_its_density_back_to_the_base(example):
    model = keras_nf.FlowModel(keras_nf.iaf(event_size=3, layers=2, hidden_units=(8,)))
    model.build((None, 3))
    perturb(model.flow)
    z = tf.random.stateless_normal((10, 3), (0, 1))
    latent_log_prob = example.pull_back(model.flow, model.distribution.log_prob)
    expected = tfd.MultivariateNormalDiag(tf.zeros(3)).log_prob(z)
    np.testing.assert_allclose(latent_log_prob(z), expected, rtol=1e-4, atol=1e-4)


def test_chains_have_the_moments_of_a_normal_distribution(example):
    std = tf.constant([0.5, 2.0])
    log_prob = tfd.MultivariateNormalDiag([1.0, -1.0], std).log_prob
    x, accepted, step_size, _ = example.hmc(
        log_prob, tf.zeros((20, 2)), 8, draws=200, burn_in=200, step_size=0.1
    )
    assert x.shape == (200, 20, 2)
    assert 0.6 < accepted < 0.95
    assert step_size != pytest.approx(0.1)
    effective = example.effective_draws(x)
    assert effective > 100
    # Five standard errors.
    tolerance = 5.0 * std.numpy() / np.sqrt(effective)
    np.testing.assert_array_less(np.abs(np.mean(x, axis=(0, 1)) - [1.0, -1.0]), tolerance)
    np.testing.assert_array_less(np.abs(np.std(x, axis=(0, 1)) - std), tolerance)


def test_effective_draws_see_chains_that_disagree(example):
    x = tf.random.stateless_normal((500, 8, 1), (0, 1))
    assert example.effective_draws(x) == pytest.approx(4000, rel=0.3)
    apart = x + tf.range(8.0)[:, None]
    assert example.effective_draws(apart) < 50


@pytest.mark.slow
def test_command_prints_a_row_for_each_run(tmp_path):
    options = "--target banana --layers 1 --hidden-units 8 --epochs 1 --leapfrog-steps 2 4"
    options += " --chains 4 --draws 20 --burn-in 20"
    printed = run_example("neutra", *options.split(), "--output", tmp_path)
    rows = [line.split("|")[1:3] for line in printed.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert rows == [["HMC", "2"], ["HMC", "4"], ["NeuTra", "2"], ["NeuTra", "4"]]
    assert (tmp_path / "neutra.png").read_bytes().startswith(b"\x89PNG")
