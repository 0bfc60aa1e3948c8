"""Flows of other libraries, from the arrays of their weights: each function returns the equal flow.

A state dict goes in as NumPy arrays, `{name: array.numpy() for name, array in
model.state_dict().items()}` where the other library runs, so that it is not needed here. Sizes,
orders and numbers of layers are read from the arrays. With the base `"normal"` the densities of the
returned chain are those of the source, to the rounding of the dtype.
"""

from keras_nf.convert.nflows import nflows_maf, nflows_rq_nsf
from keras_nf.convert.tfp import tfp_maf, tfp_real_nvp
from keras_nf.convert.zuko import zuko_maf, zuko_nsf

__all__ = ["nflows_maf", "nflows_rq_nsf", "tfp_maf", "tfp_real_nvp", "zuko_maf", "zuko_nsf"]
