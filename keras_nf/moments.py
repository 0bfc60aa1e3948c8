"""Mean and standard deviation of data that come in blocks."""

import keras
import numpy as np
import tensorflow as tf

__all__ = ["check_dataset", "mean_and_std"]

# Numbers that are accumulated at a time: few against the data, many against NumPy's overhead.
_BLOCK = 2**16


def mean_and_std(data, dtype):
    """Return mean and standard deviation of each component, as arrays of float64.

    Args:
      data: array of shape `(..., event_size)`, or a `tf.data.Dataset` of such batches. Rows are
        read once, and accumulated in float64, block by block.
      dtype: dtype in which they must be good numbers.

    Raises:
      ValueError: if a component is constant, or its standard deviation out of range in the dtype;
        if the data are not real, masked, not finite or fewer than two rows.
    """
    moments, is_dataset = _Moments(), isinstance(data, tf.data.Dataset)
    if is_dataset:
        check_dataset(data)
    for batch in data.as_numpy_iterator() if is_dataset else (data,):
        for block, block_dtype in _blocks(batch, is_dataset):
            moments.add(block, block_dtype)
    return _check_moments(moments, dtype)


def _as_array(batch):
    """Return a batch as something with a shape that can be read in blocks."""
    if isinstance(batch, (dict, tuple)):
        raise ValueError(
            "`data` must be an array or a dataset of arrays. Received: a "
            f"{type(batch).__name__}. Take x alone, for example with "
            "dataset.map(lambda x, *_: x)."
        )
    if np.ma.is_masked(batch):
        raise ValueError(
            "`data` must have no masked values. Received: a masked array with "
            f"{np.ma.count_masked(batch)} of them. Remove or impute those rows, and pass an "
            "ordinary array."
        )
    array = batch
    if isinstance(batch, keras.KerasTensor) or tf.is_symbolic_tensor(batch):
        array = None
    elif not hasattr(batch, "__array__"):
        try:
            array = np.asarray(batch)
        except (ValueError, TypeError):
            array = None
    if array is None or (array is not batch and array.dtype == object):
        raise ValueError(
            "`data` must be one array of shape (..., event_size), or a dataset of such batches. "
            f"Received: a {type(batch).__name__} that is no array of numbers. Give every row the "
            "same number of components, and convert it to a dense array."
        )
    return array


def _is_numeric(dtype):
    try:
        # To NumPy, TensorFlow's bfloat16 is no number.
        return dtype.kind in "biuf" or tf.as_dtype(dtype).is_floating
    except TypeError:
        return False


def _read(part):
    """Return a copy of part of a batch in float64, and the dtype that it had."""
    if hasattr(part, "iloc"):
        dtypes = list(part.dtypes)
        if all(map(_is_numeric, dtypes)):
            # Columns of several dtypes, perhaps with missing values that are no NaN.
            part = part.to_numpy(dtype="float64", na_value=np.nan, copy=True)
            return part, np.dtype("float64")
    else:
        part = np.asarray(part)
        dtypes = [part.dtype]
        if _is_numeric(part.dtype):
            block = np.array(part, dtype="float64")
            return block, part.dtype if part.dtype.itemsize <= 8 else block.dtype
    wrong = next(dtype for dtype in dtypes if not _is_numeric(dtype))
    raise ValueError(
        f"`data` must hold real numbers. Received: dtype {wrong}. Convert it first, for example "
        "with x.astype('float32')."
    )


def _blocks(batch, of_dataset):
    """Yield the rows of a batch some at a time, as `_read` returns them."""
    array = _as_array(batch)
    shape = tuple(array.shape)
    if len(shape) == 0:
        raise ValueError(f"`data` must have shape (..., event_size). Received: {batch!r}.")
    if 0 in shape:
        return
    if len(shape) == 1:
        if not of_dataset:
            raise _without_event_axis(shape)
        array = array[None]
    elif isinstance(array, np.ndarray) and array.flags.c_contiguous:
        array = array.reshape(-1, shape[-1])
    rows = array.iloc if hasattr(array, "iloc") else array
    step = max(_BLOCK // int(np.prod(array.shape[1:])), 1)
    for start in range(0, array.shape[0], step):
        block, dtype = _read(rows[start : start + step])
        yield block.reshape(-1, shape[-1]), dtype


def _without_event_axis(shape):
    return ValueError(
        "`data` must have shape (rows, event_size). Received: shape "
        f"{shape}, in which an axis for the event is missing. Add it, also for a single component: "
        "data[:, None]."
    )


def _epsilon(dtype):
    """Return the distance from 1 to the next number, or 0 for integers."""
    dtype = tf.as_dtype(dtype)
    if not dtype.is_floating:
        return 0.0
    one = dtype.as_numpy_dtype(1.0)
    return float(np.nextafter(one, dtype.as_numpy_dtype(2.0)) - one)


class _Moments:
    """Mean, sum of squared deviations and range of rows that come in blocks, in float64.

    Blocks are joined as by Chan, Golub and LeVeque, so that what lies between their means counts.
    """

    def __init__(self):
        self.columns = None
        self.count = self.bad_count = 0
        self.epsilon, self.dtype = 0.0, "float64"

    def add(self, block, dtype):
        if self.columns is None:
            self.columns = block.shape[1]
            self.squares = np.zeros(self.columns)
            self.low, self.high = np.full(self.columns, np.inf), np.full(self.columns, -np.inf)
            self.is_bad = np.zeros(self.columns, bool)
        if block.shape[1] != self.columns:
            raise ValueError(
                "`data` must have the same number of components in every batch. Received: batches "
                f"of {self.columns} and of {block.shape[1]} columns."
            )
        if _epsilon(dtype) > self.epsilon:
            self.epsilon, self.dtype = _epsilon(dtype), tf.as_dtype(dtype).name
        is_finite = np.isfinite(block)
        if not is_finite.all():
            self.is_bad |= ~is_finite.all(axis=0)
            is_good = is_finite.all(axis=1)
            self.bad_count += int((~is_good).sum())
            block = block[is_good]
        if len(block) == 0:
            return
        self.low = np.minimum(self.low, block.min(axis=0))
        self.high = np.maximum(self.high, block.max(axis=0))
        if self.count == 0:
            self.mean = block[0].copy()
        total = self.count + len(block)
        # What overflows here is refused for its range.
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            block -= self.mean
            shift = block.mean(axis=0)
            block -= shift
            self.squares += np.square(block, out=block).sum(axis=0)
            self.squares += shift**2 * (self.count * len(block) / total)
            self.mean += shift * (len(block) / total)
        self.count = total


def check_dataset(data):
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`data` must end. Received: a dataset that repeats itself for ever. Pass it "
            "without `repeat`, or a part of it: dataset.take(n)."
        )
    shape = getattr(data.element_spec, "shape", None)
    if shape is not None and shape.rank == 1 and shape[0] is None:
        raise _without_event_axis(tuple(shape))


def _check_moments(moments, flow_dtype):
    """Return mean and standard deviation, which must be good numbers in the flow's dtype."""
    if moments.bad_count > 0:
        raise ValueError(
            f"`data` must be finite. Received: {moments.bad_count} of "
            f"{moments.bad_count + moments.count} rows with NaN or infinite values, in "
            f"components {np.flatnonzero(moments.is_bad).tolist()}. Remove or impute those "
            "rows. Latents of a `Logit` are infinite for values outside of its interval."
        )
    if moments.count < 2:
        raise ValueError(
            "`data` must hold at least two rows, of shape (rows, event_size), to take a "
            f"standard deviation of. Received: {moments.count}."
        )
    mean, std = moments.mean, np.sqrt(moments.squares / moments.count)
    is_constant = moments.low == moments.high
    epsilon = max(_epsilon(flow_dtype), moments.epsilon)
    # A float that no longer tells integers apart may have made a component constant.
    is_rounded = np.where(
        is_constant, moments.epsilon * np.abs(mean) >= 1.0, std <= epsilon * np.abs(mean)
    )
    name = flow_dtype.name
    of_digits = name if moments.epsilon < epsilon else moments.dtype
    # Squares are taken in float64; numbers below the smallest normal one are flushed to zero.
    least = max(4.0 / float(flow_dtype.max), 1e-150)
    most = min(float(flow_dtype.max), 1e150)
    is_out_of_range = ~is_constant & ~(
        (least <= std) & (np.maximum(-moments.low, moments.high) <= most)
    )
    for is_wrong, problem in (
        (
            is_out_of_range,
            f"Scales must lie between {least:.2g} and {most:.2g} in {name}. Received others in "
            "components {}. Rescale them, or make the flow with dtype='float64'.",
        ),
        (
            is_rounded,
            f"There are too few digits in {of_digits} for components "
            "{}, which vary less than they are rounded. Subtract an offset, or "
            "pass float64 to a flow with dtype='float64'; drop them if they are constant.",
        ),
        (
            is_constant,
            "Constant components have no density and cannot be standardized: {}. Drop them, "
            "or add noise.",
        ),
    ):
        if is_wrong.any():
            raise ValueError(problem.format(np.flatnonzero(is_wrong).tolist()))
    return mean, std
