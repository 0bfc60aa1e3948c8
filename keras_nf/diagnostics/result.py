"""Result: what a diagnostic found, as numbers, a verdict and a sentence."""

import dataclasses
from typing import Any

__all__ = ["Result", "in_words"]


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a diagnostic found: named numbers, whether they pass, and a sentence.

    `str(result)` says what was found and, where it is bad, what to do. Results with a picture have
    `plot(axes=None)`, which draws in matplotlib's axes and returns them.

    Example:

    >>> import numpy as np, keras_nf
    >>> result = keras_nf.diagnostics.importance(np.zeros(100))
    >>> isinstance(result, keras_nf.diagnostics.Result), result.passed
    (True, True)
    """

    @property
    def passed(self) -> bool:
        """Whether nothing was found that is wrong."""
        raise NotImplementedError

    def sentence(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.sentence()


def in_words(p_value: Any) -> str:
    """Return how sentences write a p-value."""
    return f"p = {p_value:.1g}" if p_value > 1e-12 else "p < 1e-12"
