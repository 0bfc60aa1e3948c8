"""SavedModels that answer without this package: density, samples and latents as signatures."""

import os
import pathlib
from typing import Any

import keras
import tensorflow as tf

from keras_nf.flow.contract import Flow
from keras_nf.layout import portable_operations
from keras_nf.models.replicas import by_chief

__all__ = ["export_saved_model", "input_specs"]

# What TensorFlow Serving replays before it answers, under this name.
_WARMUP_FILE = pathlib.Path("assets.extra") / "tf_serving_warmup_requests"


@by_chief
def export_saved_model(model: keras.Model, path: str | os.PathLike) -> None:
    """Write a model as a SavedModel with a signature for each thing that a flow does.

    The file needs TensorFlow alone: neither keras_nf nor Keras nor TensorFlow Probability, and no
    operation that only the XLA compiler implements. Every signature takes any number of rows, of
    the dtype of the model's variables.

    | signature | inputs | output |
    |---|---|---|
    | `log_prob`, also `serving_default` | `x`, of shape `(rows, event_size)` | `log_prob`, of \
shape `(rows,)`, in nats |
    | `sample` | `n`, an int32; `seed`, of shape `(2,)` and int32 | `x`, of shape \
`(n, event_size)` |
    | `forward` | `z`, of shape `(rows, event_size)` | `x`, of the same shape |
    | `inverse` | `x`, of shape `(rows, event_size)` | `z`, of the same shape |
    | `cdf` | `x`, of shape `(rows, 1)` | `cdf`, of shape `(rows,)` |
    | `quantile` | `p`, of shape `(rows,)`, between 0 and 1 | `x`, of shape `(rows, 1)` |

    The last two are there where `model.has_exact_quantiles`: events of one component.

    A conditional model takes `condition`, of shape `(rows, condition_size)`, or what its encoder
    takes, in each of them; `sample` then returns `n` draws for each row, of shape
    `(n, rows, event_size)`. A seed fixes the draws, which are those of
    `model.sample(n, seed=seed)` up to rounding.

    Requests that warm up TensorFlow Serving lie in `assets.extra`. A server looks for models in
    folders named by version, so that the path is `"name/1"` for the first.

    Args:
      model: a `FlowModel` or a `VariationalModel` whose event size is known.
      path: folder to write to.

    Raises:
      ValueError: if the model is none of these, or was not built.

    Example:

    >>> import pathlib, tempfile, keras_nf, tensorflow as tf
    >>> flow = keras_nf.maf(event_size=2, layers=2, hidden_units=(8,))
    >>> model = keras_nf.FlowModel(flow)
    >>> model.build((None, 2))
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "density" / "1"
    >>> keras_nf.export_saved_model(model, path)
    >>> served = tf.saved_model.load(str(path))
    >>> served.signatures["log_prob"](x=tf.zeros((3, 2)))["log_prob"].shape
    TensorShape([3])
    """
    flow = getattr(model, "flow", None)
    if not isinstance(model, keras.Model) or not isinstance(flow, Flow):
        raise ValueError(
            f"Expected a keras_nf.FlowModel. Received: {model!r}. Put a flow into one: "
            "keras_nf.FlowModel(flow)."
        )
    if not model.built:
        raise ValueError(
            "The model has no weights yet. Build it first, model.build((None, event_size)), or fit "
            "it."
        )
    archive = keras.export.ExportArchive()
    archive.track(model)
    endpoints = _endpoints(model)
    with portable_operations():
        for name, (function, specs) in endpoints.items():
            archive.add_endpoint(name, function, input_signature=specs)
        archive.write_out(str(path), verbose=False)
    _write_warmup_requests(pathlib.Path(path), endpoints)


def input_specs(model):
    """Return the `keras.InputSpec` of the events, and of the condition if the model has one."""
    event_shape = model.distribution.event_shape
    x = keras.InputSpec(shape=(None, *event_shape), dtype=model.variable_dtype, name="x")
    sizes = [getattr(part, "condition_size", None) for part in (model.flow, model.base)]
    if sizes == [None, None]:
        return [x]
    shape = model.condition_shape
    if not all(size is None or isinstance(size, int) for size in shape):
        raise ValueError(
            "An export takes the condition as a single tensor, but the encoder was built for "
            f"shapes {shape}. Export the encoder by itself, and FlowModel(model.flow)."
        )
    inputs = getattr(model.encoder, "inputs", None)
    dtype = inputs[0].dtype if inputs else model.variable_dtype
    return [x, keras.InputSpec(shape=(None, *shape[1:]), dtype=dtype, name="condition")]


def _endpoints(model):
    """Return the function and the input signature of each endpoint, by name."""
    flow = model.flow
    events, *conditions = input_specs(model)
    x = tf.TensorSpec(events.shape, flow.dtype, "x")
    z = tf.TensorSpec((None, *model.distribution.distribution.event_shape), flow.dtype, "z")
    conditions = [tf.TensorSpec(spec.shape, spec.dtype, spec.name) for spec in conditions]
    draws = [tf.TensorSpec((), tf.int32, "n"), tf.TensorSpec((2,), tf.int32, "seed")]

    def log_prob(x, condition=None):
        rows, x, condition = _with_a_row(x, condition)
        return {"log_prob": model.log_prob(x, condition)[:rows]}

    def sample(n, seed, condition=None):
        count = n + tf.cast(tf.equal(n, 0), n.dtype)
        if condition is None:
            return {"x": model.distribution.sample(count, seed=seed)[:n]}
        rows, condition = _with_a_row(condition)
        condition = model.encode(condition)
        draws = model.distribution.sample(count, seed=seed, condition=condition)
        return {"x": draws[:n, :rows]}

    def forward(z, condition=None):
        rows, z, condition = _with_a_row(z, condition)
        return {"x": flow.forward(z, condition=model.encode(condition))[:rows]}

    def inverse(x, condition=None):
        rows, x, condition = _with_a_row(x, condition)
        return {"z": flow.inverse(x, condition=model.encode(condition))[:rows]}

    def cdf(x, condition=None):
        rows, x, condition = _with_a_row(x, condition)
        return {"cdf": model.cdf(x, condition)[:rows]}

    def quantile(p, condition=None):
        rows, p, condition = _with_a_row(p, condition)
        return {"x": model.quantile(p, condition)[:rows]}

    endpoints = {
        "log_prob": (log_prob, [x, *conditions]),
        "sample": (sample, [*draws, *conditions]),
        "forward": (forward, [z, *conditions]),
        "inverse": (inverse, [x, *conditions]),
    }
    if model.has_exact_quantiles:
        p = tf.TensorSpec((None,), flow.dtype, "p")
        endpoints["cdf"] = cdf, [x, *conditions]
        endpoints["quantile"] = quantile, [p, *conditions]
    return endpoints


def _with_a_row(*tensors):
    """Return the number of rows of the first tensor, and all with a row more if it has none.

    Updating rows of an empty buffer is an error in TensorFlow.
    """
    rows = tf.shape(tensors[0])[0]
    missing = tf.cast(tf.equal(rows, 0), tf.int32)

    def padded(tensor):
        # TensorFlow merges a `tf.pad` with a convolution that follows, and forgets the rows.
        row = tf.zeros((missing, *tensor.shape[1:]), tensor.dtype)
        return tf.concat([tensor, row], axis=0)

    return rows, *[None if tensor is None else padded(tensor) for tensor in tensors]


def _write_warmup_requests(path, endpoints):
    """Write a request of a single row for each endpoint."""
    target = path / _WARMUP_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(target)) as writer:
        for name, (_, specs) in endpoints.items():
            shapes = [[size or 1 for size in spec.shape] for spec in specs]
            ones = {spec.name: tf.ones(shape, spec.dtype) for spec, shape in zip(specs, shapes)}
            writer.write(_prediction_log(name, ones))


def _prediction_log(signature_name: str, inputs: dict[str, Any]) -> bytes:
    """Encode a `tensorflow.serving.PredictionLog` of one `PredictRequest`.

    The numbers are those of the fields in prediction_log.proto, predict.proto and model.proto of
    TensorFlow Serving, whose package is a large one for three of them.
    """
    model_spec = _field(3, signature_name.encode())
    entries = [
        _field(1, name.encode()) + _field(2, tf.make_tensor_proto(value).SerializeToString())
        for name, value in inputs.items()
    ]
    request = _field(1, model_spec) + b"".join(_field(2, entry) for entry in entries)
    return _field(6, _field(1, request))


def _field(number, content):
    """Encode a length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value):
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
