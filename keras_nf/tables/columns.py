"""What a fitted column does, and constants, which have no component."""

import dataclasses
from typing import Any

import numpy as np

from keras_nf.tables.frames import Values

__all__ = ["Column", "Constant"]


@dataclasses.dataclass
class Column:
    """A fitted column. Its fields are what a file holds.

    Attributes:
      name: of the column.
      dtype: of the column; see `write_column`.
    """

    name: str
    dtype: dict[str, Any]

    @property
    def components(self) -> list[str]:
        """Names of the components."""
        raise NotImplementedError

    @property
    def is_exact(self) -> bool:
        """Whether the column is mapped without noise."""
        return False

    def transform(self, column: Values, rng: np.random.Generator) -> np.ndarray:
        """Return points of shape `(rows, components)`."""
        raise NotImplementedError

    def inverse(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return values, and which of them are missing."""
        raise NotImplementedError

    def log_det(self, z: np.ndarray) -> np.ndarray:
        """Return what log p(z) lacks to log p of the column's values."""
        raise NotImplementedError


@dataclasses.dataclass
class Constant(Column):
    """One value, which has no component, and is restored.

    Attributes:
      value: the value, or `None` where all are missing.
    """

    value: Any

    @classmethod
    def fit(cls, name: str, column: Values, drop: bool) -> "Constant":
        present = column.values[~column.missing].tolist()
        if present and column.missing.any():
            raise ValueError(
                f"Column {name!r} is {present[0]!r} where it is not missing. Make categories of "
                f"it: categorical={{{name!r}: 'ordinal'}}."
            )
        value = present[0] if present else None
        if not drop:
            raise ValueError(
                f"Column {name!r} is constant, {value!r} in every row, and has no density. Drop "
                "it, or pass constant='drop', which restores it in samples."
            )
        return cls(name, column.dtype, value)

    @property
    def components(self):
        return []

    @property
    def is_exact(self):
        return True

    def transform(self, column, rng):
        gaps = column.missing
        same = gaps if self.value is None else ~gaps & (column.values == self.value)
        if not same.all():
            raise ValueError(
                f"Column {self.name!r} was constant in `fit`, {self.value!r}, and is not now. Fit "
                "on rows that have other values too."
            )
        return np.zeros((len(gaps), 0), "float32")

    def inverse(self, z):
        values = np.full(len(z), self.value, object)
        return values, np.full(len(z), self.value is None)

    def log_det(self, z):
        return np.zeros(len(z))
