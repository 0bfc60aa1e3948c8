"""ConvNet: the default conditioner of couplings of images."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_nf.arguments import check_count
from keras_nf.networks.mlp import MLP

__all__ = ["ConvNet"]


@keras.saving.register_keras_serializable("keras_nf")
class ConvNet(MLP):
    """Convolutional network whose last layer starts at zero.

    An `MLP` whose layers are convolutions. The first, the third and so on, and the last, see
    `kernel_size` positions along each axis, the others one: with two hidden layers it is the
    network of Glow. Borders are padded with zeros, so that each position has an output.

    Args:
      hidden_units: number of channels of each hidden layer.
      units: channels of the output. `None` leaves it to the flow that owns the network.
      kernel_size: odd number of positions that a kernel spans along each axis.
      **kwargs: `activation`, `residual`, `dropout` and `condition_size`, as for `keras_nf.MLP`;
        `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape: `(batch, height, width, channels)`; or with one or three axes of positions.

    Output shape: `(batch, height, width, units)`.

    Raises:
      ValueError: if the kernel size is no odd number, and as `MLP`.

    Example:

    >>> import numpy as np, keras_nf
    >>> network = keras_nf.ConvNet((16, 16), units=4)
    >>> network(np.zeros((5, 8, 8, 2), "float32")).shape
    TensorShape([5, 8, 8, 4])

    References:
      Diederik P. Kingma, Prafulla Dhariwal. Glow: Generative Flow with Invertible 1x1 Convolutions.
      2018. arXiv:1807.03039
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (64, 64),
        units: int | None = None,
        *,
        kernel_size: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden_units, units, **kwargs)
        self.kernel_size = check_count(kernel_size, "kernel_size")
        if kernel_size % 2 == 0:
            raise ValueError(
                "`kernel_size` must be odd, so that kernels have a centre. Received: "
                f"{kernel_size}."
            )

    def build(self, inputs_shape):
        self._axes = len(inputs_shape) - 2
        super().build(inputs_shape)

    def _kernel_shapes(self, sizes):
        shapes, last = super()._kernel_shapes(sizes), len(sizes) - 2
        widths = [self.kernel_size if i % 2 == 0 or i == last else 1 for i in range(len(shapes))]
        return [(*[width] * self._axes, *shape) for width, shape in zip(widths, shapes)]

    def product(self, i, kernel, inputs):
        return ops.conv(inputs, kernel, padding="same", data_format="channels_last")

    def layer_bias(self, i, condition, weights):
        return super().layer_bias(i, condition, weights)[:, 0]

    def linear(self, kernel, bias, condition):
        return ops.matmul(condition, kernel) + bias

    def call(self, inputs, training=None):
        condition = inputs[..., -self.condition_size :] if self._condition_weights else None
        return self.outputs(inputs, condition, self.weight_tensors(), training)[-1]

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}
