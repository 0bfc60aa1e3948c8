"""Pictures of densities, flows, samples and training, with matplotlib (extra `plot`).

Every function that draws in one axes takes `axes=`, by default pyplot's current ones, and returns
them.

Example:

>>> import matplotlib
>>> matplotlib.use("Agg")
>>> import keras_nf
>>> axes = keras_nf.plot.history({"loss": [3.0, 2.5], "val_loss": [2.8, 2.6]})
>>> axes.get_xlabel()
'epoch'
"""

from keras_nf.plot.densities import density
from keras_nf.plot.maps import grid, latents
from keras_nf.plot.rows import corner, images, samples
from keras_nf.plot.training import Draw, history

__all__ = ["Draw", "corner", "density", "grid", "history", "images", "latents", "samples"]
