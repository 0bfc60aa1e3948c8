"""Flows of other libraries, from the arrays of their weights: each function returns the equal flow.

A state dict goes in as NumPy arrays, `{name: array.numpy() for name, array in
model.state_dict().items()}` where the other library runs, so that it is not needed here. Sizes,
orders and numbers of layers are read from the arrays. With the base `"normal"` the densities of the
returned chain are those of the source, to the rounding of the dtype.

Example:

>>> import numpy as np, keras_nf
>>> state = {"_transform._transforms.0._permutation": np.array([2, 0, 1])}
>>> model = keras_nf.FlowModel(keras_nf.convert.nflows_maf(state))
>>> round(float(model.log_prob(np.zeros(3, "float32"))), 4)
-2.7568
"""

from keras_nf.convert.nflows import nflows_maf, nflows_rq_nsf
from keras_nf.convert.tfp import tfp_maf, tfp_real_nvp
from keras_nf.convert.zuko import zuko_maf, zuko_nsf

__all__ = ["nflows_maf", "nflows_rq_nsf", "tfp_maf", "tfp_real_nvp", "zuko_maf", "zuko_nsf"]
