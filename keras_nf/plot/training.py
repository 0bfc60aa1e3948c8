"""Pictures of training: its curves, and those that a callback draws on the way."""

import io
import random
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_nf.arguments import check_count
from keras_nf.models.replicas import by_chief
from keras_nf.plot.figures import COLOURS, axes_or_current, matplotlib

__all__ = ["Draw", "history"]


def history(
    history: keras.callbacks.History | dict[str, Sequence[float]],
    *,
    validation_freq: int | Sequence[int] = 1,
    axes: Any = None,
) -> Any:
    """Draw the loss of each epoch, that of validation and the other metrics.

    Each has a colour, in which the curve of training is solid and that of validation dashed. The
    rate of learning, where a callback has recorded it, is left out. Epochs count from 1, so that
    their axis may be logarithmic: `axes.set_xscale("log")`.

    Args:
      history: what `fit` returned, or the dictionary of lists in it.
      validation_freq: that of `fit`, where not every epoch was validated.
      axes: matplotlib axes to draw in; the current ones when `None`.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: if there is no epoch, or a curve has more or fewer numbers than epochs.
      ModuleNotFoundError: if matplotlib is not installed.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import keras_nf
    >>> losses = {"loss": [2.1, 1.6, 1.5], "val_loss": [1.8, 1.7, 1.6]}
    >>> axes = keras_nf.plot.history(losses)
    >>> axes.get_legend_handles_labels()[1]
    ['loss', 'val_loss']
    """
    logs = getattr(history, "history", history)
    if not isinstance(logs, dict) or not any(map(np.size, logs.values())):
        raise ValueError(
            "Expected what `fit` returned, or the dictionary of lists in it, of at least one "
            f"epoch. Received: {history!r}."
        )
    names = [name for name in logs if name not in ("learning_rate", "lr")]
    trained = [name for name in names if not name.startswith("val_")]
    number = max(map(len, logs.values()))
    epochs = 1 + np.asarray(getattr(history, "epoch", range(number)))
    validated = epochs[_is_validated(epochs, validation_freq)]
    axes = axes_or_current(axes)
    for name in names:
        of_training = name.removeprefix("val_")
        is_validation = name != of_training
        x = validated if is_validation else epochs
        if len(x) != len(logs[name]):
            raise ValueError(
                f"{name!r} has {len(logs[name])} numbers for {len(x)} epochs. Give "
                "`validation_freq` as to `fit`."
            )
        position = trained.index(of_training) if of_training in trained else len(trained)
        axes.plot(
            x,
            logs[name],
            color=COLOURS[position % len(COLOURS)],
            linestyle="--" if is_validation else "-",
            marker="." if len(x) < 20 else None,
            label=name,
        )
    axes.set(xlabel="epoch", ylabel=trained[0] if trained == ["loss"] else None)
    axes.legend()
    return axes


def _is_validated(epochs, validation_freq):
    if np.ndim(validation_freq):
        return np.isin(epochs, validation_freq)
    return epochs % check_count(validation_freq, "validation_freq") == 0


class Draw(keras.callbacks.Callback):
    """Callback that draws a picture of the model after every epoch, or after some.

    The pictures are files in a folder, `epoch_0001.png` after the first epoch, and on demand images
    for TensorBoard. Each is drawn in a figure of its own, which no window shows and which is gone
    afterwards. Training draws what it would without pictures, also where they sample the model
    without a seed; with one, they differ from epoch to epoch by the model alone. Of several workers
    the chief draws.

    Args:
      draw: function `draw(model, figure)` that draws in an empty matplotlib figure, in the axes
        `figure.gca()`, or in several of `figure.subplots(1, 2)`.
      directory: folder of the pictures, made where it is missing.
      every: number of epochs from one picture to the next.
      tensorboard: whether to write the pictures for TensorBoard as well, as event files in the same
        folder, which is then best one in the folder of logs.
      size: width and height of the figure, in inches.
      dpi: pixels in an inch.

    Raises:
      ValueError: if `draw` is no function, or draws nothing in the figure.
      ModuleNotFoundError: if matplotlib is not installed.

    Example:

    >>> import tempfile, pathlib
    >>> import keras_nf
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> x = keras_nf.datasets.two_moons(256, seed=0)
    >>> model = keras_nf.FlowModel(keras_nf.planar_flow(event_size=2, layers=4))
    >>> model.compile("adam", jit_compile=False)
    >>> def draw(model, figure):
    ...     keras_nf.plot.density(model, -4.0, 4.0, points=50, axes=figure.gca())
    >>> callback = keras_nf.plot.Draw(draw, folder, every=2)
    >>> history = model.fit(x, epochs=4, verbose=0, callbacks=[callback])
    >>> sorted(path.name for path in folder.iterdir())
    ['epoch_0002.png', 'epoch_0004.png']
    """

    def __init__(
        self,
        draw: Callable[[Any, Any], Any],
        directory: Any,
        *,
        every: int = 1,
        tensorboard: bool = False,
        size: tuple[float, float] = (4.8, 4.0),
        dpi: float = 100.0,
    ) -> None:
        super().__init__()
        if not callable(draw):
            raise ValueError(
                f"`draw` must be a function `draw(model, figure)`. Received: {draw!r}."
            )
        self.draw = draw
        self.directory = str(directory)
        self.every = check_count(every, "every")
        self.tensorboard = tensorboard
        self.size, self.dpi = size, dpi
        # Missing, it is better missed before training.
        self._figure = matplotlib("matplotlib.figure").Figure
        self._writer: Any = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            _write(self.model, self, epoch)

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def picture(self, model: Any) -> bytes:
        """Return the picture of a model, as the bytes of a PNG file."""
        # Not of pyplot, which would keep it, and show it where there are windows.
        figure = self._figure(figsize=self.size, dpi=self.dpi, layout="constrained")
        states = random.getstate(), np.random.get_state()
        try:
            self.draw(model, figure)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
        if not figure.axes:
            raise ValueError(
                "`draw` has drawn nothing in the figure that it got. Draw in its axes, as with "
                "plot.density(model, -3.0, 3.0, axes=figure.gca())."
            )
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()


@by_chief
def _write(model, callback, epoch):
    picture = callback.picture(model)
    tf.io.gfile.makedirs(callback.directory)
    path = tf.io.gfile.join(callback.directory, f"epoch_{epoch + 1:04d}.png")
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(picture)
    if not callback.tensorboard:
        return
    if callback._writer is None:
        callback._writer = tf.summary.create_file_writer(callback.directory)
    with callback._writer.as_default():
        # At the step that Keras's own callback gives to what it writes of the epoch.
        tf.summary.image("picture", tf.io.decode_png(picture, channels=3)[None], step=epoch)
        callback._writer.flush()
