"""What all tests and doctests share: a process that does not keep what tests have left behind."""

import ctypes
import gc
import sys

import keras
import pytest
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import ops
from tensorflow_probability.python.math import special

# TFP's graph of this function would outlive its gradient, which is dropped after a test.
special.lbeta = special.lbeta.python_function

_count = 0

# Where the C library has it: gives memory that was freed back to the system.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)


def forget_graphs():
    """Drop the gradients that TensorFlow registers, each with its whole graph, for ever."""
    gradients = ops.gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]


def pytest_collection_finish():
    """Leave what was imported, most of all there is, out of the search for what can go.

    Building graphs, it would search every 700 objects; after every 16th test is often enough.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each process modules as a whole, which make what they share once, as far as that goes.

    A process that is done takes half of what another one still has before it.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(autouse=True)
def forget_after_a_test():
    yield
    global _count
    _count += 1
    forget_graphs()
    if "matplotlib.pyplot" in sys.modules:
        # What a test draws in pyplot's current axes is not for the next one.
        sys.modules["matplotlib.pyplot"].close("all")
    if _count % 16 == 0:
        # Python does not know how large graphs are, and would wait for many of them.
        gc.collect()
    if _count % 100 == 0:
        # A kernel for each operation, dtype and list of attributes that ever ran.
        context.context().clear_kernel_cache()
        _trim(0)


@pytest.fixture(autouse=True, scope="module")
def forget_after_a_module():
    yield
    keras.backend.clear_session()
    forget_graphs()
    gc.collect()
    _trim(0)


_function = tf.function


def graph(*args, jit_compile=None, **kwargs):
    """Stands in for `tf.function` where nothing is to be compiled."""
    return _function(*args, **kwargs)


@pytest.fixture(scope="module")
def without_xla():
    """For modules that are not about compiled code: graphs, as on a device without XLA.

    A program of XLA takes seconds, and 10 to 80 MB which no process gives back.
    """
    tf.function = graph
    yield
    tf.function = _function


@pytest.fixture(autouse=True)
def doctest_without_xla(request, monkeypatch):
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.setattr(tf, "function", graph)


@pytest.fixture
def with_xla(monkeypatch):
    """For a test of compiled code in such a module."""
    monkeypatch.setattr(tf, "function", _function)
