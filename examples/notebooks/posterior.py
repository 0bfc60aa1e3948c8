# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A posterior from simulations
#
# A damped oscillator has two unknown parameters, its frequency and its damping. A simulator
# draws eight noisy positions for given parameters. A conditional flow learns the posterior
# $p(\text{parameters} \mid \text{positions})$ from simulations alone, for every observation
# at once. Here the likelihood is known, so that the flow can be compared with the truth.

# %%
import os

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_nf
from keras_nf import plot

EPOCHS = int(os.environ.get("KERAS_NF_NOTEBOOK_EPOCHS", 40))
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

times = np.linspace(0.5, 6.0, 8)
noise = 0.2


def positions(parameters):
    frequency, damping = parameters[..., :1], parameters[..., 1:]
    return np.exp(-damping * times) * np.cos(frequency * times)


def draw(n):
    """Draw parameters from the prior, uniform, and an observation for each."""
    parameters = rng.uniform([0.5, 0.0], [3.0, 1.0], size=(n, 2))
    observations = positions(parameters) + noise * rng.normal(size=(n, 8))
    return parameters.astype("float32"), observations.astype("float32")


# %% [markdown]
# ## Train
#
# The parameters are $x$, the observation is the condition. `Logit` keeps the density within
# the limits of the prior.

# %%
parameters, observations = draw(20_000)
data = {"x": parameters, "condition": observations}
parameters, observations = draw(2_000)
validation = {"x": parameters, "condition": observations}

nsf = keras_nf.nsf(event_size=2, layers=4, hidden_units=(64, 64), coupling=True)
flow = keras_nf.Chain(
    [
        nsf,
        keras_nf.Standardize(),
        keras_nf.Logit(low=[0.5, 0.0], high=[3.0, 1.0]),
    ]
)
model = keras_nf.FlowModel(flow)
model.adapt(data)
batch_size = 200
steps = EPOCHS * len(data["x"]) // batch_size
schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
model.compile(keras.optimizers.Adam(schedule))
history = model.fit(
    data,
    validation_data=validation,
    batch_size=batch_size,
    epochs=EPOCHS,
    verbose=0,
)

# %%
plot.history(history)
plt.show()

# %% [markdown]
# ## Compare
#
# The posterior of one observation, over a grid: the flow's, and that of Bayes' rule with the
# likelihood of the simulator.

# %%
truth = np.array([1.8, 0.2])
observed = positions(truth) + noise * rng.normal(size=8)
grid = np.stack(
    np.meshgrid(
        np.linspace(0.503, 2.997, 200),
        np.linspace(0.001, 0.999, 200),
    ),
    axis=-1,
)
residual = (positions(grid) - observed) / noise
likelihood = np.exp(-0.5 * (residual**2).sum(axis=-1))
exact = likelihood / (likelihood.mean() * 2.5)

found = np.exp(model.log_prob(grid, condition=observed))

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for axis, values, title in zip(axes, (found, exact), ("flow", "Bayes' rule")):
    shown = axis.pcolormesh(*np.moveaxis(grid, -1, 0), values, vmax=exact.max())
    axis.plot(*truth, "x", color="white")
    axis.set(title=title, xlabel="frequency", ylabel="damping")
figure.colorbar(shown, ax=axes, label="density")
plt.show()

# %% [markdown]
# ## Is it calibrated?
#
# Over many observations the true parameter must be uniform among the samples of its
# posterior. The ranks of 500 of them, in ten bins each:

# %%
samples = model.sample(99, condition=validation["condition"][:500], seed=0)
ranks = np.sum(samples < validation["x"][:500], axis=0)
for name, rank in zip(("frequency", "damping"), ranks.T):
    print(name, np.histogram(rank, bins=10, range=(0, 100))[0])
