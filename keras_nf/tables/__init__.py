"""Tables as they are: columns of numbers, counts, categories and gaps as events of a flow."""

from keras_nf.tables.preparation import TablePreparation

__all__ = ["TablePreparation"]
