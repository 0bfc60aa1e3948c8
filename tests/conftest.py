"""What all tests share: a process that does not keep what a module of tests has left behind."""

import gc

import keras
import pytest


@pytest.fixture(autouse=True, scope="module")
def forget_models():
    """Drop graphs and models after each module, or a worker grows to many gigabytes."""
    yield
    keras.backend.clear_session()
    gc.collect()
