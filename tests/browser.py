"""Exported models in a browser: TensorFlow.js, on the page of examples/browser.

`python tests/browser.py` prints the table of docs/deploy.md. It needs the extra `browser` and

- the converter, which wants an environment of its own (docs/deploy.md has the command): the
  executable that `TENSORFLOWJS_CONVERTER` names, or `tensorflowjs_converter` on the path;
- TensorFlow.js: `npm install @tensorflow/tfjs@4.22.0` in examples/browser;
- a browser: the Chromium or Chrome that `CHROMIUM` names, or the one of
  `playwright install chromium`.
"""

import contextlib
import functools
import http.server
import importlib.util
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

import keras
import numpy as np
from cases import perturb

import keras_nf

PAGE = pathlib.Path(__file__).parent.parent / "examples" / "browser"
CONVERTER = os.environ.get("TENSORFLOWJS_CONVERTER") or shutil.which("tensorflowjs_converter")
SMALL = {"layers": 3, "hidden_units": (32, 32)}
FLOWS = {
    "planar": lambda: keras_nf.planar_flow(2, layers=8),
    "NICE": lambda: keras_nf.nice(2, **SMALL),
    "Real NVP": lambda: keras_nf.real_nvp(2, **SMALL),
    "MAF": lambda: keras_nf.maf(2, **SMALL),
    "IAF": lambda: keras_nf.iaf(2, **SMALL),
    "NSF": lambda: keras_nf.nsf(2, **SMALL),
}
SIGNATURES = ("log_prob", "forward", "inverse")
BACKENDS = ("webgl", "cpu")
AXIS = np.linspace(-3, 3, 21, dtype="float32")
POINTS = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 2)


def missing():
    """Return what these tests lack, or an empty string."""
    if importlib.util.find_spec("playwright") is None:
        return "needs the extra `browser`"
    if not CONVERTER:
        return "needs TENSORFLOWJS_CONVERTER, or tensorflowjs_converter on the path"
    if not (PAGE / "node_modules" / "@tensorflow" / "tfjs").exists():
        return f"needs `npm install @tensorflow/tfjs@4.22.0` in {PAGE}"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        if not pathlib.Path(executable(playwright)).exists():
            return "needs CHROMIUM, or `playwright install chromium`"
    return ""


def executable(playwright):
    return os.environ.get("CHROMIUM") or playwright.chromium.executable_path


def make(flow):
    """Return a model whose density fills a good part of the picture and has no symmetry."""
    keras.utils.set_random_seed(0)
    model = keras_nf.FlowModel(FLOWS[flow]())
    model.build((None, 2))
    before = [weight.numpy() for weight in model.trainable_variables]
    perturb(model.flow)
    for weight, value in zip(model.trainable_variables, before):
        weight.assign(value + 0.3 * weight)
    return model


def convert(saved_model, signature, target):
    """Write a signature as a model of TensorFlow.js, by the command of docs/deploy.md.

    The converter takes no path with a space in it.
    """
    options = ["--input_format=tf_saved_model", f"--signature_name={signature}"]
    subprocess.run(
        [CONVERTER, *options, saved_model, target],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
    )


def write_site(model, folder):
    """Export a model to `folder / "saved_model"`, and make the page around it."""
    keras_nf.export_saved_model(model, folder / "saved_model")
    for signature in SIGNATURES:
        convert(folder / "saved_model", signature, folder / "model" / signature)
    for part in ("index.html", "flow.js", "node_modules"):
        (folder / part).symlink_to(PAGE / part)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serve(folder):
    """Serve the files of a folder, and give the address."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def browsers():
    """Give a function that starts headless browsers.

    They draw WebGL in software, so that no graphics card is needed.
    """
    from playwright.sync_api import sync_playwright

    def launch(*options):
        return playwright.chromium.launch(
            executable_path=executable(playwright),
            args=["--use-angle=swiftshader", "--enable-unsafe-swiftshader", *options],
        )

    with sync_playwright() as playwright:
        yield launch


def open_page(chromium, address):
    """Return the page once it has drawn, or failed to, and what it says."""
    page = chromium.new_page()
    page.goto(address)
    status = "document.getElementById('status').textContent"
    page.wait_for_function(f"!{status}.startsWith('Loading')", timeout=120_000)
    return page, page.evaluate(status)


def run(page, backend, signature, points):
    """Return what the page computes for points of shape (rows, 2)."""
    script = """async ([backend, signature, points]) => {
      if (!(await tf.setBackend(backend))) throw new Error(`no backend ${backend}`);
      const model = await tf.loadGraphModel(`model/${signature}/model.json`);
      return Array.from(await call(model, tf.tensor2d(points)));
    }"""
    values = np.array(page.evaluate(script, [backend, signature, points.tolist()]))
    return values if signature == "log_prob" else values.reshape(-1, 2)


def expected(model, signature, points):
    """Return what the model computes for points of shape (rows, 2)."""
    if signature == "log_prob":
        return model.log_prob(points).numpy()
    return getattr(model.flow, signature)(points).numpy()


def main():
    if missing():
        raise SystemExit(missing())
    print("| backend | flow |", " | ".join(f"`{name}`" for name in SIGNATURES), "|")
    print("|---|---|" + "--:|" * len(SIGNATURES))
    with browsers() as launch, tempfile.TemporaryDirectory() as folder:
        chromium = launch()
        for flow in FLOWS:
            model, site = make(flow), pathlib.Path(folder) / flow.replace(" ", "-")
            write_site(model, site)
            with serve(site) as address:
                page, _ = open_page(chromium, address)
                for backend in BACKENDS:
                    cells = [
                        np.abs(run(page, backend, name, POINTS) - expected(model, name, POINTS))
                        for name in SIGNATURES
                    ]
                    cells = " | ".join(f"{cell.max():.1e}" for cell in cells)
                    print(f"| {backend} | {flow} | {cells} |", flush=True)
        print(f"\nChromium {chromium.version}")


if __name__ == "__main__":
    main()
