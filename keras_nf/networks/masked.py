"""Product with a masked kernel, without most of the products with zeros."""

import itertools

import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.layout import has_accelerator

# On a CPU, tiles pay from layers of this size on; smaller or more of them save little more.
_SMALLEST_LAYER = 256
_SMALLEST_TILE = 64
_MOST_TILES = 6


def _cuts(size, groups=1):
    """Return the bounds of tiles of one axis, whose entries are in groups of equal size."""
    size //= groups
    if size < _SMALLEST_LAYER or has_accelerator():
        return [0, size * groups]
    bounds = np.linspace(0, size, min(size // _SMALLEST_TILE, _MOST_TILES) + 1).round().astype(int)
    return [0, *(group * size + bound for group in range(groups) for bound in bounds[1:].tolist())]


def _tiles(mask, cuts):
    """Pair the slice of each tile of the first axis with the slice of the other that it links."""
    tiles = []
    for start, end in itertools.pairwise(cuts):
        links = np.flatnonzero(mask[start:end].any(axis=0))
        # Something has to be multiplied, also where nothing is linked.
        first, last = links[[0, -1]] if len(links) else (0, 0)
        tiles.append((slice(start, end), slice(int(first), int(last) + 1)))
    return tiles


class MaskedProduct:
    """(M * W)^T x for a kernel W, a constant 0/1 mask M, and x of shape (rows, batch).

    M connects row i with column j where `rows[i] <= columns[j]`, and is kept as these two vectors.
    The kernel of a wide layer is cut into tiles: those that M empties are left out, of the product
    and of its gradients, which saves nearly half of the arithmetic where the vectors are sorted.

    Args:
      rows: array of integers, one for each row of the kernel.
      columns: array of integers, one for each column of the kernel.
      groups: number of equal parts of the columns, to be tiled alike.
    """

    def __init__(self, rows, columns, groups=1):
        self._rows, self._columns = rows.astype("int32"), columns.astype("int32")
        row_cuts, column_cuts = _cuts(len(rows)), _cuts(len(columns), groups)
        self._is_tiled = len(row_cuts) > 2 and len(column_cuts) > 2
        if self._is_tiled:
            self._row_tiles = _tiles(self.mask, row_cuts)
            self._column_tiles = _tiles(self.mask.T, column_cuts)

    @property
    def mask(self):
        """M, as an array of booleans."""
        return self._rows[:, None] <= self._columns[None, :]

    @property
    def links(self):
        """Number of rows that each column is connected with."""
        return np.searchsorted(np.sort(self._rows), self._columns, side="right")

    def masked(self, kernel, rows=slice(None), columns=slice(None)):
        """Return M * W, or the part of it in the given rows and columns for that part of W."""
        rows, columns = self._rows[rows], self._columns[columns]
        if rows.max() <= columns.min():
            return kernel
        mask = tf.constant(rows[:, None]) <= tf.constant(columns[None, :])
        return kernel * ops.cast(mask, kernel.dtype)

    def __call__(self, kernel, x):
        if not self._is_tiled:
            return tf.matmul(self.masked(kernel), x, transpose_a=True)
        return self._tiled_product(kernel, x)

    def _tiled_product(self, kernel, x):
        @tf.custom_gradient
        def product(kernel, x):
            pieces = []
            for columns, rows in self._column_tiles:
                own_kernel = self.masked(kernel[rows, columns], rows, columns)
                pieces.append(tf.matmul(own_kernel, x[rows], transpose_a=True))

            def gradient(upstream):
                x_bars = []
                for rows, columns in self._row_tiles:
                    own_kernel = self.masked(kernel[rows, columns], rows, columns)
                    x_bars.append(tf.matmul(own_kernel, upstream[columns]))
                return self.kernel_gradient(x, upstream), tf.concat(x_bars, axis=0)

            return tf.concat(pieces, axis=0), gradient

        return product(kernel, x)

    def kernel_gradient(self, x, upstream):
        """Return the gradient of the product in the kernel, given that in the product."""
        if not self._is_tiled:
            return self.masked(tf.matmul(x, upstream, transpose_b=True))
        bars = []
        for rows, columns in self._row_tiles:
            bar = tf.matmul(x[rows], upstream[columns], transpose_b=True)
            margins = [[0, 0], [columns.start, len(self._columns) - columns.stop]]
            bars.append(tf.pad(self.masked(bar, rows, columns), margins))
        return tf.concat(bars, axis=0)
