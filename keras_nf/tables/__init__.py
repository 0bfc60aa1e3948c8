"""Tables as they are: columns of numbers, counts, categories and gaps as events of a flow.

Example:

>>> import numpy as np, keras_nf
>>> rooms, sold = np.array([1, 3, 2]), np.array([True, False, True])
>>> table = {"rooms": rooms, "sold": sold}
>>> preparation = keras_nf.tables.TablePreparation().fit(table)
>>> preparation.transform(table, seed=0).shape
(3, 2)
"""

from keras_nf.tables.preparation import TablePreparation

__all__ = ["TablePreparation"]
