"""What all tests share: a process that does not keep what tests have left behind."""

import gc

import keras
import pytest
from tensorflow.python.framework import ops

# Modules without fixtures that outlive a test, whose graphs may be forgotten after each.
_WITHOUT_FIXTURES = ("test_bijector", "test_closed_forms", "test_layer", "test_made")
_count = 0


def forget_graphs():
    """Drop the gradients that TensorFlow registers, each with its whole graph, for ever."""
    gradients = ops.gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]


@pytest.fixture(autouse=True)
def forget_after_a_test(request):
    yield
    global _count
    _count += 1
    if request.module.__name__.removeprefix("tests.") in _WITHOUT_FIXTURES:
        forget_graphs()
        if _count % 100 == 0:
            gc.collect()


@pytest.fixture(autouse=True, scope="module")
def forget_after_a_module():
    yield
    keras.backend.clear_session()
    forget_graphs()
    gc.collect()
