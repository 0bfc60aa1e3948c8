"""Columns of categories."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_nf.tables.columns import Column
from keras_nf.tables.frames import Values
from keras_nf.tables.grid import check_grid, multiples
from keras_nf.tables.regions import Intervals, Race, draw_decodable

__all__ = ["Labels"]


@dataclasses.dataclass
class Labels(Column):
    """Categories: each has a region of the standard normal, as large as its share of the rows.

    Attributes:
      values: the categories in order, of numbers with a step their places in multiples of it;
        `None` stands for a missing one.
      shares: of each category.
      one_hot: whether each category has a component, or all of them have one together.
      step: what numbers are multiples of, or `None`.
    """

    values: list[Any]
    shares: list[float]
    one_hot: bool
    step: float | None

    @classmethod
    def fit(
        cls, name: str, column: Values, one_hot: bool, step: float | None, bounds: Any
    ) -> "Labels":
        values = column.values[~column.missing]
        if step is not None:
            check_grid(name, np.append(values, [end for end in bounds if end is not None]), step)
            values = np.rint(values / step)
        found, numbers = np.unique(values, return_counts=True)
        seen = dict(zip(found.tolist(), numbers.tolist()))
        # Categories that a frame declares, or a step, count as if they had been seen once.
        declared = list(column.dtype.get("categories", seen))
        if step is not None:
            ends = [found[i] if bounds[i] is None else round(bounds[i] / step) for i in (0, -1)]
            if found[0] < ends[0] or found[-1] > ends[1]:
                raise ValueError(f"Column {name!r} has values outside of its bounds, {bounds}.")
            declared = np.arange(ends[0], ends[1] + 1.0).tolist()
        counts = [seen.get(value, 1) for value in declared]
        if column.missing.any():
            declared, counts = [*declared, None], [*counts, int(column.missing.sum())]
        shares = [count / sum(counts) for count in counts]
        return cls(name, column.dtype, declared, shares, one_hot, step)

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
        values = column.values[present]
        if self.step is not None:
            check_grid(self.name, values, self.step)
            values = np.rint(values / self.step)
        found, inverse = np.unique(values, return_inverse=True)
        codes[present] = np.array([places.get(value, -1) for value in found.tolist()], int)[inverse]
        if (codes < 0).any():
            unknown = [v for v in found.tolist() if v not in places]
            if self.step is not None:
                unknown = multiples(np.array(unknown), self.step).tolist()
            unknown += ["a missing one"] * bool(column.missing.any() and None not in places)
            raise ValueError(
                f"Column {self.name!r} has values that were not there in `fit`: {unknown[:5]}. "
                "Remove those rows; or fit on a pandas.Categorical that declares them, of numbers "
                "with a step and bounds."
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
        if self.step is not None:
            values[~missing] = multiples(values[~missing].astype("float64"), self.step)
        return values, missing

    def log_det(self, z):
        log_det = self._regions.log_det(z)
        if self.step is None:
            return log_det
        # Densities are those of numbers; a gap is none.
        is_number = np.array([value is not None for value in self.values])
        return log_det - math.log(self.step) * is_number[self._regions.codes(z)]
