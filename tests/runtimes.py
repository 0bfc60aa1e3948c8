"""Runtimes of exported models: how far they are from the model, and which operations they run.

`python tests/runtimes.py` prints the tables of docs/deploy.md for the runtimes that are installed.
"""

import collections
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import textwrap

import keras
import numpy as np
import tensorflow as tf
from cases import perturb

import keras_nf

EVENT, CONDITION, ROWS = 4, 2, 64
IMAGE = (4, 8, 1)
SMALL = {"layers": 3, "hidden_units": (32, 32)}
FLOWS = {
    "planar": lambda: keras_nf.planar_flow(EVENT, layers=8),
    "NICE": lambda: keras_nf.nice(EVENT, **SMALL),
    "Real NVP": lambda: keras_nf.real_nvp(EVENT, **SMALL),
    "MAF": lambda: keras_nf.maf(EVENT, **SMALL),
    "IAF": lambda: keras_nf.iaf(EVENT, **SMALL),
    "NSF": lambda: keras_nf.nsf(EVENT, **SMALL),
    "Glow": lambda: keras_nf.glow(IMAGE, levels=2, steps=2, hidden_units=(16, 16), seed=0),
    "conditional MAF": lambda: keras_nf.maf(EVENT, **SMALL),
    "conditional residual MAF": lambda: keras_nf.maf(
        EVENT, layers=3, hidden_units=(32, 32, 32), residual=True
    ),
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
    shapes = {"Glow": {"forward": (1, 2, 16), "inverse": IMAGE, "log_prob": IMAGE}}
    shape = shapes.get(flow, {}).get(signature, (EVENT,))
    points = rng.normal(size=(ROWS, *shape)).astype("float32")
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


def answers(runtime, model, path, flow, signature):
    """Return what a runtime and what the model answer."""
    _, run = RUNTIMES[runtime]
    result = run(path, signature, arguments(flow, signature))
    answer = expected(model, flow, signature)
    assert result.shape == answer.shape
    return result, answer


def operations(function):
    """Return the names of the operations of a graph and of all functions that it calls."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {node.op for node in nodes}


def table_of_operations(paths):
    """Return the operations that all signatures share, and a table of where the others are.

    `paths` has the folder of each exported flow.
    """
    flows = [flow for flow in paths if not flow.startswith("conditional")]
    loaded = {flow: tf.saved_model.load(str(paths[flow])).signatures for flow in flows}
    used = {(flow, name): operations(loaded[flow][name]) for flow in flows for name in SIGNATURES}
    common = set.intersection(*used.values())
    rows = collections.defaultdict(list)
    for operation in sorted(set.union(*used.values()) - common):
        where = [[name for name in SIGNATURES if operation in used[flow, name]] for flow in flows]
        rows[tuple(map(shown, where))].append(operation)
    lines = [["operations", *flows], ["---"] * (1 + len(flows))]
    lines += [[quoted(names), *cells] for cells, names in rows.items()]
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([textwrap.fill(quoted(sorted(common)), 120), "", *table])


def shown(signatures):
    return "all" if len(signatures) == len(SIGNATURES) else quoted(signatures) or "-"


def quoted(names):
    return ", ".join(f"`{name}`" for name in names)


def main():
    runtimes = [runtime for runtime in RUNTIMES if is_installed(runtime)]
    paths = {}
    print("| runtime | flow |", " | ".join(f"`{name}`" for name in SIGNATURES), "|")
    print("|---|---|" + "--:|" * len(SIGNATURES))
    with tempfile.TemporaryDirectory() as folder:
        for flow in FLOWS:
            model, path = make(flow), pathlib.Path(folder) / flow
            paths[flow] = path
            keras_nf.export_saved_model(model, path)
            for runtime in runtimes:
                cells = []
                for signature in SIGNATURES:
                    if signature == "sample" and runtime != "TensorFlow":
                        cells.append("-")
                        continue
                    result, answer = answers(runtime, model, path, flow, signature)
                    cells.append(f"{np.max(np.abs(result - answer)):.1e}")
                print(f"| {runtime} | {flow} |", " | ".join(cells), "|", flush=True)
        print()
        print(table_of_operations(paths))


if __name__ == "__main__":
    main()
