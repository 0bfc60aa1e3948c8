"""Columns of categories."""

import dataclasses
from typing import Any

import numpy as np

from keras_nf.tables.columns import Column
from keras_nf.tables.frames import Values
from keras_nf.tables.regions import Intervals, Race, draw_decodable

__all__ = ["Labels"]


@dataclasses.dataclass
class Labels(Column):
    """Categories: each has a region of the standard normal, as large as its share of the rows.

    Attributes:
      values: the categories in order; `None` stands for a missing one.
      shares: of each category.
      one_hot: whether each category has a component, or all of them have one together.
    """

    values: list[Any]
    shares: list[float]
    one_hot: bool

    @classmethod
    def fit(cls, name: str, column: Values, one_hot: bool) -> "Labels":
        found, numbers = np.unique(column.values[~column.missing], return_counts=True)
        seen = dict(zip(found.tolist(), numbers.tolist()))
        # Categories that a frame declares count as if they had been seen once.
        values = list(column.dtype.get("categories", seen))
        counts = [seen.get(value, 1) for value in values]
        if column.missing.any():
            values, counts = [*values, None], [*counts, int(column.missing.sum())]
        total = sum(counts)
        return cls(name, column.dtype, values, [count / total for count in counts], one_hot)

    @property
    def components(self):
        if not self.one_hot:
            return [self.name]
        return [f"{self.name}={'missing' if v is None else v}" for v in self.values]

    @property
    def _regions(self):
        return Race(self.shares) if self.one_hot else Intervals(self.shares)

    def transform(self, column, rng):
        places = {value: place for place, value in enumerate(self.values)}
        codes = np.full(len(column.missing), places.get(None, -1))
        present = ~column.missing
        found, inverse = np.unique(column.values[present], return_inverse=True)
        codes[present] = np.array([places.get(value, -1) for value in found.tolist()], int)[inverse]
        if (codes < 0).any():
            unknown = [value for value in found.tolist() if value not in places]
            unknown += ["a missing one"] * bool(column.missing.any() and None not in places)
            raise ValueError(
                f"Column {self.name!r} has values that were not there in `fit`: {unknown[:5]}. "
                "Remove those rows, or fit on a pandas.Categorical that declares them."
            )
        regions = self._regions
        return draw_decodable(
            self.name, codes, lambda codes: regions.draw(codes, rng), regions.codes
        )

    def inverse(self, z):
        values = np.empty(len(self.values), object)
        values[:] = self.values
        values = values[self._regions.codes(z)]
        missing = np.array([value is None for value in values], bool)
        return values, missing

    def log_det(self, z):
        return self._regions.log_det(z)
