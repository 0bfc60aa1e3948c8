"""What a chain of couplings compiles to."""

import re

import pytest
import tensorflow as tf

import keras_nf

MASKS = pytest.mark.parametrize("mask", ["half", "alternating"])


def count_operations(names, layers, mask):
    """Number of the compiled operations of these names in the density of couplings."""
    flow = keras_nf.real_nvp(6, layers=layers, hidden_units=(8,), mask=mask)
    density = keras_nf.FlowModel(flow)
    density.build((None, 6))
    compiled = tf.function(lambda x: density.log_prob(x), jit_compile=True, autograph=False)
    program = compiled.experimental_get_compiler_ir(tf.zeros((5, 6)))(stage="optimized_hlo")
    return len(re.findall(rf" (?:{'|'.join(names)})\(", program))


@MASKS
def test_a_density_is_joined_once(mask):
    """From one coupling to the next, parts stay apart, whichever of them is kept."""
    counts = [count_operations(["concatenate"], layers, mask) for layers in (2, 6)]
    assert counts[0] == counts[1]


@MASKS
def test_a_density_gathers_no_components(mask):
    assert count_operations(["gather"], 4, mask) == 0
