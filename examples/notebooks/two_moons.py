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
# # A first density: two moons
#
# Data of two half circles, which no Gaussian describes; a flow that learns their density;
# the density, samples, and latents as pictures.

# %%
import os

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_nf
from keras_nf import plot

EPOCHS = int(os.environ.get("KERAS_NF_NOTEBOOK_EPOCHS", 100))
keras.utils.set_random_seed(0)

x = keras_nf.datasets.two_moons(10_000, seed=0)
x_train, x_validation, x_test = x[:8000], x[8000:9000], x[9000:]

# %% [markdown]
# A Gaussian gives each row of the test data this log-density, in nats:

# %%
mean, covariance = x_train.mean(axis=0), np.cov(x_train.T)
centred = x_test - mean
distance = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
gaussian = -0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1])
print(f"Gaussian: {gaussian.mean():.2f} nats")

# %% [markdown]
# ## Train
#
# Eight couplings, each an invertible map that a small network steers. There are no targets:
# the loss is the mean of $-\log p(x)$. The learning rate falls to zero, which gains more
# than anything else.

# %%
flow = keras_nf.real_nvp(event_size=2)
model = keras_nf.FlowModel(flow)
batch_size = 256
steps = EPOCHS * len(x_train) // batch_size
schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
model.compile(keras.optimizers.Adam(schedule))
history = model.fit(
    x_train,
    validation_data=x_validation,
    batch_size=batch_size,
    epochs=EPOCHS,
    verbose=0,
)
log_prob = model.predict(x_test, verbose=0)
error = 2.0 * log_prob.std() / np.sqrt(len(log_prob))
print(f"flow: {log_prob.mean():.2f} nats, two standard errors {error:.2f}")

# %%
plot.history(history)
plt.show()

# %% [markdown]
# ## Look
#
# The density beside the data, at the same scale.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
axes[0].scatter(*x_test.T, s=3)
axes[0].set(aspect="equal", xlim=(-4, 4), ylim=(-4, 4), title="data")
plot.density(model, low=-4.0, high=4.0, axes=axes[1])
axes[1].set_title("density of the flow")
plt.show()

# %% [markdown]
# The flow bends a grid of the base into the data, and undoes it for the density.

# %%
plot.grid(flow)
plt.show()

# %% [markdown]
# What the inverse makes of the data ought to look like the base, a standard normal
# distribution.

# %%
plot.latents(model, x_test)
plt.show()

# %% [markdown]
# ## Keep
#
# The file holds the model, and `load_model` gives it back in any process that imports
# `keras_nf`.

# %%
model.save("two_moons.keras")
loaded = keras.models.load_model("two_moons.keras")
print(np.abs(loaded.log_prob(x_test) - model.log_prob(x_test)).max() < 1e-4)
