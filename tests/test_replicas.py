"""Training by replicas on one machine: see tests/replicas.py."""

import json

import pytest
from cases import FIRST_OF_RECIPES
from processes import run_program

FIRST = ["recipe-real-nvp", "small batches", "adam", "draws_of_a_variational_model"]
OTHERS = [
    "statistics_of_batches",
    "noise_of_pixels",
    *sorted({*FIRST_OF_RECIPES.values(), "recipe-maf-conditional"} - {*FIRST}),
]


@pytest.mark.parametrize(
    "names", [FIRST, pytest.param(OTHERS, marks=pytest.mark.long)], ids=["first", "others"]
)
def test_two_replicas_train_as_one_device(names):
    errors = json.loads(run_program("replicas", *names))
    assert errors.keys() == {*names}
    assert not any(errors.values()), "\n".join(errors.values())
