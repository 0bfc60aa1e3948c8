"""The pictures of the theory: each script draws one, with few steps where it trains."""

import sys

import matplotlib as mpl
import pytest
import tensorflow as tf
from PIL import Image
from processes import ROOT, load_example

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

DRAWN = [
    "parallelogram",
    "change_of_variables",
    "dependencies",
    "made",
    "jacobians",
    "couplings",
    "couplings --affine",
    "image_couplings",
]
LONG = ["local_volume", "planar_layers", "why_flows --steps 2", "composition --steps 2"]


def check_picture(path):
    with Image.open(path) as image:
        assert image.width > 600
        colors = image.convert("RGB").getcolors(maxcolors=image.width * image.height)
    assert len(colors) > 10
    assert max(colors)[1] == (255, 255, 255) or len(colors) > 1000  # white behind, or densities


def draw(name, options, path, monkeypatch, names=()):
    """Run a script as its command line does, with other values of some of its names."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "gallery")
    monkeypatch.setattr(sys, "argv", [name, *options, "--output", str(path)])
    with mpl.rc_context():
        script = load_example(f"gallery/{name}")
        for key, value in dict(names).items():
            monkeypatch.setattr(script, key, value)
        script.main()
    del sys.modules["style"]
    check_picture(path)


@pytest.mark.parametrize(
    "command", [*DRAWN, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)]
)
def test_script_draws(command, tmp_path, monkeypatch):
    name, *options = command.split()
    draw(name, options, tmp_path / "picture.png", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "few"),
    [
        ("determinant_cost", {"SIZES": [4, 8, 16], "ROWS": 2}),
        ("costs", {"ROWS": 2, "RECIPES": {"NICE": keras_nf.nice}}),
    ],
)
def test_script_measures_and_draws(name, few, tmp_path, monkeypatch):
    # Threads can be set in a fresh process alone.
    for which in ("intra", "inter"):
        setting = f"set_{which}_op_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, setting, lambda count: None)
    draw(name, [], tmp_path / "picture.png", monkeypatch, few)
