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
# # Digits: images, bits per dimension, classes
#
# The digits of scikit-learn are 1,797 images of 8 by 8 pixels with integer levels 0 to 16. A
# flow needs a density, so that the model ends in layers that add noise to the levels
# (`Dequantize`) and map the interval to the line (`Logit`). What it learns is conditional on
# the class.

# %%
import os

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import keras_nf
from keras_nf import plot

EPOCHS = int(os.environ.get("KERAS_NF_NOTEBOOK_EPOCHS", 60))
keras.utils.set_random_seed(0)

rng = np.random.default_rng(0)
digits = load_digits()
order = rng.permutation(len(digits.data))
images = digits.data[order].astype("uint8")
classes = np.eye(10, dtype="float32")[digits.target[order]]
train = {"x": images[:1400], "condition": classes[:1400]}
validation = {"x": images[1400:], "condition": classes[1400:]}

plot.images(images[:30].reshape(-1, 8, 8), columns=10)
plt.show()

# %% [markdown]
# ## Train
#
# `adapt` passes the data through the layers next to them. Few images overfit soon, so that
# training stops when the validation loss no longer falls.

# %%
flow = keras_nf.Chain(
    [
        keras_nf.maf(event_size=64, hidden_units=(128,), dropout=0.2),
        keras_nf.Standardize(),
        keras_nf.Logit(margin=0.01),
        keras_nf.Dequantize(17),
    ]
)
model = keras_nf.FlowModel(flow)
model.adapt(train)
model.compile(
    keras.optimizers.AdamW(1e-3, weight_decay=0.1),
    metrics=[keras_nf.BitsPerDim()],
)
stop = keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)
history = model.fit(
    train,
    validation_data=validation,
    batch_size=50,
    epochs=EPOCHS,
    callbacks=[stop],
    verbose=0,
)
result = model.evaluate(validation, return_dict=True, verbose=0)
print({name: round(value, 2) for name, value in result.items()})

# %% [markdown]
# ## Samples of each class

# %%
samples = model.sample(10, condition=np.eye(10, dtype="float32"), seed=0)
plot.images(np.asarray(samples).reshape(-1, 8, 8), columns=10)
plt.show()

# %% [markdown]
# ## Classes from densities
#
# Bayes' rule turns the ten densities of an image into probabilities of its class.

# %%
x = validation["x"][:200]
log_prob = np.stack(
    [
        model.log_prob(x, condition=np.broadcast_to(one, (len(x), 10)))
        for one in np.eye(10, dtype="float32")
    ]
)
predicted = log_prob.argmax(axis=0)
accuracy = np.mean(predicted == validation["condition"][:200].argmax(axis=-1))
print(f"accuracy {accuracy:.2f}")
