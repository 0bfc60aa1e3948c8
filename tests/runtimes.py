"""Runtimes of exported models, and how far their answers are from those of the model.

`python tests/runtimes.py` prints the table of docs/deploy.md for the runtimes that are installed.
"""

import importlib.util
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf
from cases import perturb

import keras_nf

EVENT, CONDITION, ROWS = 4, 2, 64
SMALL = {"layers": 3, "hidden_units": (32, 32)}
FLOWS = {
    "planar": lambda: keras_nf.planar_flow(EVENT, layers=8),
    "NICE": lambda: keras_nf.nice(EVENT, **SMALL),
    "Real NVP": lambda: keras_nf.real_nvp(EVENT, **SMALL),
    "MAF": lambda: keras_nf.maf(EVENT, **SMALL),
    "IAF": lambda: keras_nf.iaf(EVENT, **SMALL),
    "conditional MAF": lambda: keras_nf.maf(EVENT, **SMALL),
}
SIGNATURES = ("log_prob", "sample", "forward", "inverse")


def make(flow):
    """Return a model whose weights are those of a trained one in size."""
    keras.utils.set_random_seed(0)
    model = keras_nf.FlowModel(FLOWS[flow]())
    inputs = arguments(flow, "log_prob")
    model.log_prob(inputs["x"], inputs.get("condition"))
    before = [weight.numpy() for weight in model.trainable_variables]
    perturb(model.flow)
    for weight, value in zip(model.trainable_variables, before):
        weight.assign(value + 0.3 * weight)
    return model


def arguments(flow, signature):
    """Return the inputs of a signature as arrays."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(ROWS, EVENT)).astype("float32")
    inputs = {"z": points} if signature == "forward" else {"x": points}
    if signature == "sample":
        inputs = {"n": np.array(ROWS, "int32"), "seed": np.array([1, 2], "int32")}
    if flow.startswith("conditional"):
        inputs["condition"] = rng.normal(size=(ROWS, CONDITION)).astype("float32")
    return inputs


def expected(model, flow, signature):
    """Return the answer of the model itself."""
    inputs = arguments(flow, signature)
    condition = inputs.pop("condition", None)
    if signature == "sample":
        return model.sample(ROWS, condition, seed=(1, 2)).numpy()
    if signature == "log_prob":
        return model.log_prob(inputs["x"], condition).numpy()
    (points,) = inputs.values()
    return getattr(model.flow, signature)(points, condition=condition).numpy()


def run_tensorflow(path, signature, inputs):
    served = tf.saved_model.load(str(path)).signatures[signature]
    (result,) = served(**{name: tf.constant(value) for name, value in inputs.items()}).values()
    return result.numpy()


def run_litert(path, signature, inputs):
    from ai_edge_litert.interpreter import Interpreter

    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=[signature])
    runner = Interpreter(model_content=converter.convert()).get_signature_runner(signature)
    (result,) = runner(**inputs).values()
    return result


def run_onnx(path, signature, inputs):
    import onnxruntime

    target = path / f"{signature}.onnx"
    options = ["--saved-model", path, "--signature_def", signature, "--output", target]
    command = [sys.executable, "-m", "tf2onnx.convert", *options]
    subprocess.run(command, check=True, capture_output=True)
    (result,) = onnxruntime.InferenceSession(target).run(None, inputs)
    return result


# What each needs beside TensorFlow, and what runs a signature.
RUNTIMES = {
    "TensorFlow": ((), run_tensorflow),
    "LiteRT": (("ai_edge_litert",), run_litert),
    "ONNX Runtime": (("tf2onnx", "onnxruntime"), run_onnx),
}


def is_installed(runtime):
    return all(importlib.util.find_spec(name) for name in RUNTIMES[runtime][0])


def difference(runtime, model, path, flow, signature):
    """Return the largest difference from the model, in its units."""
    _, run = RUNTIMES[runtime]
    result = run(path, signature, arguments(flow, signature))
    answer = expected(model, flow, signature)
    assert result.shape == answer.shape
    return float(np.max(np.abs(result - answer)))


def main():
    runtimes = [runtime for runtime in RUNTIMES if is_installed(runtime)]
    print("| runtime | flow |", " | ".join(f"`{name}`" for name in SIGNATURES), "|")
    print("|---|---|" + "--:|" * len(SIGNATURES))
    with tempfile.TemporaryDirectory() as folder:
        for flow in FLOWS:
            model, path = make(flow), pathlib.Path(folder) / flow.replace(" ", "-")
            keras_nf.export_saved_model(model, path)
            for runtime in runtimes:
                cells = []
                for signature in SIGNATURES:
                    if signature == "sample" and runtime != "TensorFlow":
                        cells.append("-")
                        continue
                    cells.append(f"{difference(runtime, model, path, flow, signature):.1e}")
                print(f"| {runtime} | {flow} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
