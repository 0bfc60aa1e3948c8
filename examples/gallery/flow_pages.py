"""Pictures of the flow pages: what each flow does to the plane, the line or an image.

    python examples/gallery/flow_pages.py
    python examples/gallery/flow_pages.py --only maf

Writes docs/images/flows/NAME.png. Most of the time goes into the fits of real_nvp, maf, iaf, nsf,
chain and dequantize, which `--steps 100` shortens.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
from pathlib import Path

import flow_pages_blocks as blocks
import flow_pages_layers as layers
import flow_pages_line as line
import flow_pages_plane as plane
from style import save

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images" / "flows"
PICTURES = {
    "act_norm": layers.act_norm,
    "batch_normalization": line.batch_normalization,
    "chain": layers.chain,
    "dequantize": line.dequantize,
    "glow": blocks.glow,
    "iaf": plane.iaf,
    "index": layers.index,
    "invert": layers.invert,
    "log": line.log,
    "logit": line.logit,
    "lu_linear": layers.lu_linear,
    "maf": plane.maf,
    "multiscale": blocks.multiscale,
    "nice": plane.nice,
    "nsf": line.nsf,
    "permute": blocks.permute,
    "planar": plane.planar,
    "real_nvp": plane.real_nvp,
    "squeeze": blocks.squeeze,
    "standardize": line.standardize,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PICTURES, help="draw this picture alone")
    parser.add_argument("--steps", type=int, default=3000, help="steps of the fits")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the pictures")
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else PICTURES:
        save(PICTURES[name](arguments.steps), arguments.output / f"{name}.png")


if __name__ == "__main__":
    main()
