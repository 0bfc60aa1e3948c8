"""Ready-made flows: plain functions that return a `Chain`."""

from keras_nf.recipes.autoregressive import iaf, maf
from keras_nf.recipes.coupling import nice, real_nvp
from keras_nf.recipes.head import density_head
from keras_nf.recipes.image import glow, image_real_nvp
from keras_nf.recipes.planar import planar_flow
from keras_nf.recipes.spline import nsf

__all__ = ["density_head", "glow", "iaf", "image_real_nvp", "maf", "nice", "nsf", "planar_flow"]
__all__ += ["real_nvp"]
