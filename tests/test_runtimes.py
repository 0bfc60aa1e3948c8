"""Exported models under runtimes that are no TensorFlow, each behind the extra `runtimes`."""

import numpy as np
import pytest
from processes import ROOT
from runtimes import FLOWS, RUNTIMES, answers, arguments, is_installed, make, table_of_operations

import keras_nf

OTHERS = [
    pytest.param(
        runtime,
        marks=pytest.mark.skipif(
            not is_installed(runtime), reason=f"needs {' and '.join(RUNTIMES[runtime][0])}"
        ),
    )
    for runtime in RUNTIMES
    if runtime != "TensorFlow"
]
pytestmark = pytest.mark.runtimes


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    models = {flow: make(flow) for flow in FLOWS}
    for flow, model in models.items():
        keras_nf.export_saved_model(model, folder / flow)
    return {flow: (model, folder / flow) for flow, model in models.items()}


@pytest.mark.parametrize("signature", ["log_prob", "forward", "inverse"])
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("runtime", OTHERS)
def test_signature_of_another_runtime(runtime, flow, signature, exported):
    result, answer = answers(runtime, *exported[flow], flow, signature)
    # Of hundreds of nats, as Glow's log-densities are, float32 has steps of 6e-5.
    rtol = 1e-6 if signature == "log_prob" else 0.0
    np.testing.assert_allclose(result, answer, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("runtime", OTHERS)
def test_random_numbers_are_what_other_runtimes_lack(runtime, exported):
    # docs/deploy.md says so; where this fails, a runtime has learnt to draw samples.
    with pytest.raises(Exception, match="StatelessRandomGetKeyCounter"):
        answers(runtime, *exported["MAF"], "MAF", "sample")


@pytest.mark.long
def test_the_page_has_the_operations(exported):
    """`python tests/runtimes.py` prints its tables."""
    table = table_of_operations({flow: path for flow, (_, path) in exported.items()})
    assert table in (ROOT / "docs" / "deploy.md").read_text()


@pytest.mark.parametrize("flow", ["MAF", "planar"])
@pytest.mark.parametrize("runtime", OTHERS)
def test_export_of_the_density(runtime, flow, exported, tmp_path):
    model, _ = exported[flow]
    x = arguments(flow, "log_prob")["x"]
    if runtime == "LiteRT":
        from ai_edge_litert.interpreter import Interpreter

        model.export(tmp_path / "density.tflite", format="litert", verbose=False)
        interpreter = Interpreter(str(tmp_path / "density.tflite"))
        (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(entry["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], x)
        interpreter.invoke()
        log_prob = interpreter.get_tensor(result["index"])
    else:
        import onnxruntime

        model.export(tmp_path / "density.onnx", format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "density.onnx")
        (log_prob,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(log_prob, model.log_prob(x), rtol=1e-5, atol=1e-5)
