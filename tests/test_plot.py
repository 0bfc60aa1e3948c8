"""Pictures of densities."""

import matplotlib as mpl
import numpy as np
import pytest

import keras_nf
from keras_nf.plot import plot_density

mpl.use("Agg")

import matplotlib.pyplot as plt


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def normal(x):
    return np.exp(-0.5 * x**2) / np.sqrt(2.0 * np.pi)


def test_curve(axes):
    # A fresh flow is the identity, so that the density is that of its base.
    model = keras_nf.FlowModel(keras_nf.maf(event_size=1))
    plot_density(model, low=-2.0, high=3.0, points=11, axes=axes)
    x, density = axes.lines[0].get_data()
    np.testing.assert_allclose(x, np.linspace(-2.0, 3.0, 11))
    np.testing.assert_allclose(density, normal(x), rtol=1e-5)


def test_image_has_the_first_component_across(axes):
    model = keras_nf.FlowModel(keras_nf.maf(event_size=2))
    plot_density(model, low=(-1.0, 0.0), high=(1.0, 3.0), points=7, axes=axes)
    density = axes.collections[0].get_array().reshape(7, 7)
    across, up = normal(np.linspace(-1.0, 1.0, 7)), normal(np.linspace(0.0, 3.0, 7))
    np.testing.assert_allclose(density, up[:, None] * across[None, :], rtol=1e-5)


def test_condition(axes):
    model = keras_nf.FlowModel(keras_nf.maf(event_size=1, layers=1))
    model.log_prob(np.zeros((1, 1)), condition=np.zeros((1, 2)))
    plot_density(model, low=-1.0, high=1.0, condition=[0.5, 1.0], points=5, axes=axes)
    assert len(axes.lines[0].get_xdata()) == 5


def test_more_than_two_components(axes):
    model = keras_nf.FlowModel(keras_nf.maf(event_size=3))
    with pytest.raises(ValueError, match="one or two components"):
        plot_density(model, low=-1.0, high=1.0, axes=axes)
