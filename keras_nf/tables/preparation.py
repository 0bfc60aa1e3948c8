"""TablePreparation: a table of any columns as events of a flow, and back."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras
import numpy as np

from keras_nf.tables.columns import Column, Constant
from keras_nf.tables.frames import columns_of, read_column, to_frame, write_column
from keras_nf.tables.labels import Labels
from keras_nf.tables.numbers import Number, fit_number

__all__ = ["TablePreparation"]

_KINDS = {kind.__name__: kind for kind in (Number, Labels, Constant)}


@keras.saving.register_keras_serializable("keras_nf")
class TablePreparation:
    """Maps tables to events of a flow and back: numbers, counts, categories, and missing values.

    `transform` gives rows of float32 that a flow can be trained on, and `inverse_transform` makes
    a table of the same columns and dtypes of them, or of samples:

    - numbers are standardized, `x = mean + std z`, between bounds after a logarithm or a logit;
    - integers, and numbers of a `step`, get noise u, uniform on a step, and are rounded back;
    - categories, booleans and strings get a place in a region of the standard normal, whose
      probability is the category's share of the rows: an interval of one component (`"ordinal"`),
      or the part of K components in which the k-th of K wins a race (`"one_hot"`);
    - missing categories are a category. Missing numbers have a component that says whether there is
      a number, with an interval for either, and a standard normal draw in the place of the number.

    What is drawn has a known density q, so each row has a likelihood. `log_det(z)` is what the
    density of z lacks:

        E[log p(z) + log_det(z)] <= log p(row), with equality where nothing is drawn.

    p(row) is a density in the units of numbers and a probability of integers, categories and gaps;
    for numbers of a step it is their probability divided by the step. The logarithm of the mean of
    p(z) exp(log_det(z)) over several draws lies closer to log p(row), and tends to it.

    Args:
      categorical: encoding of categories, `"ordinal"` or `"one_hot"`; or a dictionary of them by
        the names of columns. Columns of numbers that are in it are categories too: those that
        occur, or with a step all its multiples between the smallest and the largest, or between
        bounds. That suits numbers of which some, such as round ones, are far more frequent.
      steps: by the names of columns of floats, what their values are multiples of, such as 0.01.
      bounds: by the names of columns, a lower and an upper bound, each a number or `None`. Numbers
        lie between them; those of a step, and integers, may be equal to them.
      constant: what to do with columns of one value: refuse them (`"error"`), or leave them out
        and restore them (`"drop"`).

    Raises:
      ValueError: on arguments of another kind.

    Example:

    >>> import numpy as np, keras_nf
    >>> table = {
    ...     "size": np.array([0.5, 1.5, 4.0, 2.0]),
    ...     "rooms": np.array([1, 3, 5, 2]),
    ...     "town": np.array(["Ulm", "Bonn", "Bonn", "Ulm"]),
    ... }
    >>> preparation = keras_nf.tables.TablePreparation(bounds={"size": (0, None)})
    >>> z = preparation.fit(table).transform(table, seed=0)
    >>> z.shape, preparation.log_det(z).shape
    ((4, 3), (4,))
    >>> preparation.inverse_transform(z)["town"].tolist()
    ['Ulm', 'Bonn', 'Bonn', 'Ulm']
    """

    def __init__(
        self,
        *,
        categorical: str | Mapping[str, str] = "ordinal",
        steps: Mapping[str, float] | None = None,
        bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
        constant: str = "error",
    ) -> None:
        self.steps = {name: float(step) for name, step in (steps or {}).items()}
        self.bounds = {
            name: tuple(None if end is None else float(end) for end in ends)
            for name, ends in (bounds or {}).items()
        }
        self.constant = constant
        if isinstance(categorical, str):
            self._named, self._otherwise = {}, categorical
        else:
            self._named, self._otherwise = dict(categorical), "ordinal"
        if not {*self._named.values(), self._otherwise} <= {"ordinal", "one_hot"}:
            raise ValueError(
                "`categorical` must be 'ordinal' or 'one_hot', or a dictionary of these by the "
                f"names of columns. Received: {categorical!r}."
            )
        if not all(0.0 < step < np.inf for step in self.steps.values()):
            raise ValueError(f"`steps` must be positive numbers. Received: {steps!r}.")
        if constant not in ("error", "drop"):
            raise ValueError(f"`constant` must be 'error' or 'drop'. Received: {constant!r}.")
        if not all(_are_bounds(*ends) for ends in self.bounds.values()):
            raise ValueError(
                "`bounds` must be pairs (low, high) of increasing numbers, or of None where there "
                f"is no bound. Received: {bounds!r}."
            )
        self._holder: str | None = None
        self._columns: list[Column] = []

    def fit(self, frame: Any) -> "TablePreparation":
        """Learn columns, dtypes, categories, means and deviations.

        Args:
          frame: a `pandas.DataFrame`, a dictionary of arrays of shape `(rows,)`, or a structured
            array of NumPy.

        Returns:
          The preparation itself.

        Raises:
          ValueError: if the table has no rows, a constant column, numbers that are infinite or
            outside of their bounds, a dtype that has no place in it, such as dates, or lacks a
            column that an argument names.
        """
        holder, columns = columns_of(frame)
        unknown = [n for n in (*self._named, *self.steps, *self.bounds) if n not in columns]
        if unknown:
            raise ValueError(
                f"Arguments name columns that the table lacks: {unknown}. It has {list(columns)}."
            )
        fitted = [self._fit_column(name, column) for name, column in columns.items()]
        if not any(column.components for column in fitted):
            raise ValueError("All columns are constant, which leaves nothing to model.")
        self._holder, self._columns = holder, fitted
        return self

    def _fit_column(self, name, column):
        column = read_column(name, column)
        if not len(column.values):
            raise ValueError("The table has no rows to fit on.")
        step, bounds = self.steps.get(name), self.bounds.get(name, (None, None))
        if name in self._named or not column.is_number:
            one_hot = self._named.get(name, self._otherwise) == "one_hot"
            is_ordered = column.is_number and not one_hot and step is not None
            if not is_ordered and (step is not None or bounds != (None, None)):
                raise ValueError(
                    f"Column {name!r} holds categories. A step, and bounds beside it, are for "
                    "ordinal ones of numbers."
                )
            seen = {*column.values[~column.missing].tolist()}
            is_varied = len(seen) + bool(column.missing.any()) > 1
            fitted = Labels.fit(name, column, one_hot, step, bounds) if is_varied else None
        else:
            step = step or float(column.dtype["is_integer"]) or None
            fitted = fit_number(name, column, step, bounds)
        return fitted or Constant.fit(name, column, self.constant == "drop")

    def transform(self, frame: Any, *, seed: Any = None) -> np.ndarray:
        """Return rows as points of the flow's space.

        Args:
          frame: a table with the columns that `fit` saw, in any order.
          seed: an integer or a `numpy.random.Generator` for the noise; `None` draws one.

        Returns:
          An array of float32 of shape `(rows, event_size)`.

        Raises:
          ValueError: on other columns, unknown categories, or gaps where there were none.
        """
        self._check_fitted()
        _, columns = columns_of(frame)
        lacking = [c.name for c in self._columns if c.name not in columns]
        extra = [name for name in columns if name not in {c.name for c in self._columns}]
        if lacking or extra:
            raise ValueError(
                f"A table must have the columns of `fit`. It lacks {lacking}; unknown are {extra}."
            )
        # A stream of its own: a table that was drawn with the same seed is independent of it.
        own = isinstance(seed, np.random.Generator)
        rng = seed if own else np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        read = [read_column(column.name, columns[column.name]) for column in self._columns]
        parts = [column.transform(values, rng) for column, values in zip(self._columns, read)]
        return np.concatenate(parts, axis=1)

    def inverse_transform(self, z: Any) -> Any:
        """Return the table of points of the flow's space, such as samples.

        Args:
          z: array of shape `(rows, event_size)`.

        Returns:
          A table of the kind, the columns and the dtypes that `fit` saw.

        Raises:
          ValueError: on another shape, or numbers that are not finite.
        """
        columns = {}
        for column, part in self._parts(z):
            columns[column.name] = write_column(column.dtype, *column.inverse(part))
        return to_frame(str(self._holder), columns)

    def log_det(self, z: Any) -> np.ndarray:
        """Return what log p(z) lacks to log p(row), in nats: see above.

        Args:
          z: array of shape `(rows, event_size)`, as `transform` returns it.

        Returns:
          An array of float32 of shape `(rows,)`.

        Raises:
          ValueError: on another shape, or numbers that are not finite.
        """
        return sum(column.log_det(part) for column, part in self._parts(z)).astype("float32")

    def _parts(self, z):
        self._check_fitted()
        z, size = np.asarray(z), self.event_size
        if z.ndim != 2 or z.shape[1] != size:
            raise ValueError(f"Points must have the shape (rows, {size}). Received: {z.shape}.")
        if not np.isfinite(z).all():
            number = int((~np.isfinite(z).all(axis=1)).sum())
            raise ValueError(f"Points must be finite. Received: {number} of {len(z)} that are not.")
        ends = np.cumsum([len(column.components) for column in self._columns])
        return list(zip(self._columns, np.split(z, ends[:-1], axis=1)))

    def _check_fitted(self):
        if not self._columns:
            raise ValueError("The preparation has seen no table. Call `fit` first.")

    @property
    def event_size(self) -> int:
        """Number of components of a point."""
        return len(self.components)

    @property
    def components(self) -> list[str]:
        """Names of the components of a point."""
        return [name for column in self._columns for name in column.components]

    @property
    def is_exact(self) -> bool:
        """Whether nothing is drawn, so that log p(z) + log_det(z) is log p(row)."""
        return all(column.is_exact for column in self._columns)

    def get_config(self) -> dict[str, Any]:
        """Return arguments and what `fit` learned, as JSON can hold it."""
        return {
            "categorical": self._named or self._otherwise,
            "steps": self.steps,
            "bounds": {name: list(ends) for name, ends in self.bounds.items()},
            "constant": self.constant,
            "holder": self._holder,
            "columns": [{"kind": type(c).__name__, **asdict(c)} for c in self._columns],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TablePreparation":
        """Return the preparation of a config."""
        config = dict(config)
        holder, columns = config.pop("holder"), config.pop("columns")
        preparation = cls(**config)
        preparation._holder = holder
        for fields in columns:
            kind = _KINDS[fields["kind"]]
            fields = {name: value for name, value in fields.items() if name != "kind"}
            preparation._columns.append(kind(**fields))
        return preparation

    def save(self, path: str | os.PathLike) -> None:
        """Write a JSON file, to lie beside the `.keras` file of the model.

        Args:
          path: of the file.
        """
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"class_name": type(self).__name__, "config": self.get_config()}, file)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TablePreparation":
        """Return the preparation of a file that `save` wrote. Nothing in a file runs.

        Args:
          path: of the file.

        Raises:
          ValueError: if it is another file.
        """
        with open(path, encoding="utf-8") as file:
            held = json.load(file)
        if not isinstance(held, dict) or held.get("class_name") != cls.__name__:
            raise ValueError(f"{str(path)!r} holds no {cls.__name__}. Pass a file of its `save`.")
        return cls.from_config(held["config"])


def _are_bounds(low=None, high=None, *others):
    return not others and (low is None or high is None or low < high)
