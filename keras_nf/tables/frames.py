"""Frames: columns read from pandas, dictionaries and structured arrays, and written back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Values", "columns_of", "pandas", "read_column", "to_frame", "write_column"]

_KINDS = (
    "Columns may be numbers, booleans, strings, or pandas categories of these. Convert it, times "
    "for example to days: (times - times.min()) / np.timedelta64(1, 'D'); or drop it."
)


class Values(NamedTuple):
    """A column as it was read.

    Attributes:
      values: numbers in float64, or Python's own objects; what stands in gaps has no meaning.
      missing: whether a value is missing.
      dtype: what `write_column` makes the column of again, as JSON can hold it.
      is_number: whether values are numbers.
    """

    values: np.ndarray
    missing: np.ndarray
    dtype: dict[str, Any]
    is_number: bool


def pandas():
    """Return pandas, which only frames need."""
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise ModuleNotFoundError(
            "This table was fitted on a frame of pandas, which is not installed. Install it: pip "
            "install pandas.",
            name="pandas",
        ) from None
    return pandas


def columns_of(frame: Any) -> tuple[str, dict[str, Any]]:
    """Return what holds the columns, and the columns by their names."""
    if hasattr(frame, "iloc") and hasattr(frame, "columns"):
        holder, names = "frame", list(frame.columns)
        columns = {name: frame.iloc[:, place] for place, name in enumerate(names)}
    elif isinstance(frame, Mapping):
        holder, names = "dict", list(frame)
        columns = {name: np.asanyarray(column) for name, column in frame.items()}
    elif isinstance(frame, np.ndarray) and frame.dtype.names:
        holder, names = "structured", list(frame.dtype.names)
        columns = {name: frame[name] for name in names}
    else:
        raise ValueError(
            "A table must be a pandas.DataFrame, a dictionary of columns, or a structured array. "
            f"Received: {type(frame).__name__}. Of an array of numbers, make a dictionary: "
            "dict(zip(names, x.T))."
        )
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong or len(columns) < len(names):
        raise ValueError(
            f"Names of columns must be strings, each of one column. Received: {names}. Rename "
            "them, for example by frame.columns = [f'x{i}' for i in range(...)]."
        )
    shapes = {name: np.shape(column) for name, column in columns.items()}
    if not shapes or len(set(shapes.values())) > 1 or any(len(s) != 1 for s in shapes.values()):
        raise ValueError(
            f"Columns must have the shape (rows,), of as many rows. Received: shapes {shapes}."
        )
    return holder, columns


def to_frame(holder: str, columns: dict[str, Any]) -> Any:
    """Return columns in what held them."""
    if holder == "frame":
        # Objects stay objects, of which pandas 3 makes strings by itself.
        series = {name: pandas().Series(c, dtype=c.dtype) for name, c in columns.items()}
        return pandas().DataFrame(series)
    if holder == "dict":
        return columns
    dtype = [(name, column.dtype) for name, column in columns.items()]
    rows = np.empty(len(next(iter(columns.values()))), dtype)
    for name, column in columns.items():
        rows[name] = column
    return rows


def read_column(name: str, column: Any) -> Values:
    """Return the values of a column, which ones are missing, and its dtype."""
    if np.ma.is_masked(column):
        raise ValueError(f"Column {name!r} is masked. Pass column.filled(np.nan).")
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        return _read_array(name, np.asarray(column), dtype)
    text = str(dtype)
    missing = column.isna().to_numpy()
    if text == "category":
        categories = dtype.categories
        known = _read_array(name, categories.to_numpy(), np.asarray(categories).dtype)
        held = categories.to_numpy().astype(object)
        spec = {"name": text, "of": _name_of(categories.dtype), "ordered": bool(dtype.ordered)}
        values = np.empty(len(column), object)
        if len(held):
            values[:] = held[np.maximum(column.cat.codes.to_numpy(), 0)]
        return Values(values, missing, {**spec, "categories": known.values.tolist()}, False)
    if text in ("boolean", "str") or text.startswith("string"):
        spec = {"name": _name_of(dtype)}
        return Values(column.to_numpy(dtype=object), missing, spec, False)
    if text.startswith(("Int", "UInt", "Float")):
        values = column.to_numpy(dtype="float64", na_value=np.nan)
        if np.isnan(values[~missing]).any():
            missing = np.isnan(values)
        is_integer = not text.startswith("Float")
        return _numbers(name, values, missing, {"name": text, "is_integer": is_integer})
    raise ValueError(f"Column {name!r} has the dtype {text}. {_KINDS}")


def _name_of(dtype):
    """Return a name that makes the dtype again, with the place where it stores strings."""
    if str(dtype) != "str" and hasattr(dtype, "storage"):
        return f"string[{dtype.storage}]"
    return str(dtype)


def _read_array(name, column, dtype):
    if dtype.kind in "iuf":
        spec = {"name": dtype.name, "is_integer": dtype.kind != "f"}
        values = column.astype("float64")
        return _numbers(name, values, np.isnan(values), spec)
    if dtype.kind in "bU":
        spec = {"name": dtype.str if dtype.kind == "U" else "bool"}
        return Values(column.astype(object), np.zeros(len(column), bool), spec, False)
    if dtype.kind != "O":
        raise ValueError(f"Column {name!r} has the dtype {dtype}. {_KINDS}")
    # Of floats, NaN alone differs from itself; pandas.NA answers with neither.
    gaps = [value is None or _is_nan(value) for value in column]
    missing = np.array(gaps, bool)
    types = {type(value) for value in column[~missing]}
    if not any(all(issubclass(t, kinds) for t in types) for kinds in (str, (bool, np.bool_))):
        found = sorted(kind.__name__ for kind in types)
        raise ValueError(
            f"Column {name!r} holds objects of the types {found}. Objects may be strings, or "
            "booleans. Convert it, numbers for example by astype('float64')."
        )
    gap = next((value for value in column[missing]), None)
    mark = "None" if gap is None else "NaN" if isinstance(gap, float) else "NA"
    values = np.full(len(column), None, object)
    values[~missing] = [str(v) if isinstance(v, str) else bool(v) for v in column[~missing]]
    return Values(values, missing, {"name": "object", "missing": mark}, False)


def _is_nan(value):
    return type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


def _numbers(name, values, missing, spec):
    present = values[~missing]
    if not np.isfinite(present).all():
        raise ValueError(f"Column {name!r} has infinite values. Remove those rows.")
    if spec["is_integer"] and (np.abs(present) >= 2.0**53).any():
        raise ValueError(
            f"Column {name!r} has integers of 2^53 and more, which numbers like an identifier "
            "have. Drop it, or make strings of it."
        )
    return Values(values, missing, spec, True)


def write_column(dtype: Mapping[str, Any], values: np.ndarray, missing: np.ndarray) -> Any:
    """Return a column of a dtype that `read_column` told."""
    name = dtype["name"]
    if "is_integer" in dtype:
        return _write_numbers(values.astype("float64"), missing, dtype)
    if name == "bool" or name.startswith("<U") or name.startswith(">U"):
        return values.astype(name)
    values = values.astype(object)
    if name == "object":
        gaps = {"None": lambda: None, "NaN": lambda: np.nan, "NA": lambda: pandas().NA}
        values[missing] = gaps[dtype["missing"]]()
        return values
    values[missing] = None
    if name != "category":
        return pandas().Series(values, dtype=name)
    categories = pandas().Index(dtype["categories"], dtype=dtype["of"])
    places = {value: place for place, value in enumerate(dtype["categories"])}
    codes = [-1 if value is None else places[value] for value in values]
    kind = pandas().CategoricalDtype(categories, ordered=dtype["ordered"])
    return pandas().Series(pandas().Categorical.from_codes(codes, dtype=kind))


def _write_numbers(values, missing, dtype):
    name = dtype["name"]
    if dtype["is_integer"]:
        # A sample may lie beyond the integers of the dtype.
        limits = np.iinfo(name.lower())
        ends = max(float(limits.min), -(2.0**53)), min(float(limits.max), 2.0**53)
        values = np.clip(np.rint(np.where(missing, 0.0, values)), *ends).astype(name.lower())
    else:
        values = np.where(missing, np.nan, values).astype(name.lower())
    if name == name.lower():
        return values
    return pandas().Series(values).astype(name).mask(missing)
