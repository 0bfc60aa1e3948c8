"""The example server: a real process, asked over HTTP with the standard library alone."""

import contextlib
import http.client
import itertools
import json
import re
import runpy
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from processes import ENVIRONMENT, run_python

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

SCRIPT = Path(__file__).parent.parent / "examples" / "serve.py"
ROOT = "/v1/models/density"
PLAIN, CONDITIONAL = f"{ROOT}/versions/1", f"{ROOT}/versions/2"
BODY_LIMIT, SAMPLE_LIMIT = 20_000, 500
TIMEOUT = 1  # seconds
# The server runs the same graph on the same weights; a batch of another size may round otherwise.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

rng = np.random.default_rng(0)
X = rng.normal(size=(5, 2)).round(4).tolist()
C = rng.normal(size=(5, 1)).round(4).tolist()


class Failing(tf.Module):
    """Signatures of an exported model; `forward` fails beyond 100, `sample` takes its time."""

    events = tf.TensorSpec((None, 2), tf.float32)
    draws = (tf.TensorSpec((), tf.int32), tf.TensorSpec((2,), tf.int32))

    @tf.function(input_signature=[events])
    def log_prob(self, x):
        return {"log_prob": tf.reduce_sum(x, -1)}

    @tf.function(input_signature=draws)
    def sample(self, n, seed):
        # As many milliseconds as the first number of the seed.
        now = tf.timestamp()
        end = now + 1e-3 * tf.cast(seed[0], tf.float64)
        tf.while_loop(lambda now: now < end, lambda now: (tf.timestamp(),), (now,))
        return {"x": tf.random.stateless_normal((n, 2), seed)}

    @tf.function(input_signature=[events])
    def forward(self, z):
        far = tf.reduce_max(z) > 100.0
        text = tf.cond(far, lambda: tf.io.read_file("nowhere"), lambda: tf.constant(""))
        return {"x": z + tf.cast(tf.strings.length(text), tf.float32)}

    @tf.function(input_signature=[events])
    def inverse(self, x):
        return {"z": tf.debugging.assert_all_finite(1.0 / x, "received infinite inputs")}


def start(*args, **kwargs):
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return subprocess.Popen(command, env=ENVIRONMENT, **kwargs)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of versions: 1 is a flow, 2 a conditional one, 3 fails where it is told to."""
    folder = tmp_path_factory.mktemp("models") / "density"
    # In a process of its own: what it takes to trace these graphs goes with it.
    script = """
        import pathlib, sys
        import keras
        import numpy as np
        import keras_nf

        for version, condition in (("1", None), ("2", np.zeros((1, 1), "float32"))):
            keras.utils.set_random_seed(0)
            model = keras_nf.FlowModel(keras_nf.maf(event_size=2, layers=2, hidden_units=(8,)))
            model.log_prob(np.zeros((1, 2), "float32"), condition=condition)
            # New layers begin as the identity.
            for weight in model.trainable_weights:
                weight.assign(0.3 * keras.random.normal(weight.shape, seed=len(weight.shape)))
            keras_nf.export_saved_model(model, pathlib.Path(sys.argv[1]) / version)
    """
    run_python(script, folder)
    module = Failing()
    names = ("log_prob", "sample", "forward", "inverse")
    signatures = {name: getattr(module, name).get_concrete_function() for name in names}
    signatures["serving_default"] = signatures["log_prob"]
    tf.saved_model.save(module, str(folder / "3"), signatures)
    return folder


@pytest.fixture(scope="module")
def signatures(models):
    """The SavedModels' own signatures, by version."""
    loaded = {version: tf.saved_model.load(str(models / version)) for version in "12"}

    def run(version, name, **inputs):
        inputs = {
            key: tf.constant(value, tf.int32 if key in ("n", "seed") else tf.float32)
            for key, value in inputs.items()
        }
        (output,) = loaded[version].signatures[name](**inputs).values()
        return output.numpy()

    return run


@contextlib.contextmanager
def running(models, log, *options):
    """The port of a running server, and the file that it logs to."""
    with log.open("w") as output:
        process = start(models, "--port", 0, *options, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120.0
            while not (found := re.search(r"running on http://127.0.0.1:(\d+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield int(found[1]), log
        finally:
            process.terminate()
            try:
                process.wait(30.0)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    limits = ("--max-body-bytes", BODY_LIMIT, "--max-samples", SAMPLE_LIMIT, "--threads", 2)
    with running(models, log, *limits) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def hasty(models, tmp_path_factory):
    """A server with little patience, and answers too large for the buffers of a connection."""
    log = tmp_path_factory.mktemp("hasty") / "log"
    options = ("--timeout", TIMEOUT, "--max-samples", 10**6, "--threads", 1)
    with running(models, log, *options) as running_server:
        yield running_server
        assert "Traceback" not in log.read_text()
        # Nor do connections that wait keep it from stopping, for which `running` waits.
        connections = [socket.create_connection(("127.0.0.1", running_server[0])) for _ in PARTS]
        for connection, part in zip(connections, PARTS.values()):
            connection.sendall(part.encode())
        assert ask(running_server, "GET", "/healthz")[0] == 200


@contextlib.contextmanager
def connect(server):
    connection = http.client.HTTPConnection("127.0.0.1", server[0], timeout=60.0)
    with contextlib.closing(connection):
        yield connection


def exchange(connection, method, path, body=None):
    """Send a request; return the status and the object of a strict JSON answer."""
    if isinstance(body, dict | list):
        body = json.dumps(body)
    connection.request(method, path, body)
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "application/json"

    def refuse(token):
        raise AssertionError(f"{token} is no JSON")

    return response.status, json.loads(response.read(), parse_constant=refuse)


def ask(server, method, path, body=None):
    with connect(server) as connection:
        return exchange(connection, method, path, body)


def predict(server, body, prefix=PLAIN):
    status, content = ask(server, "POST", f"{prefix}:predict", body)
    assert status == 200, content
    (key,) = content
    assert key == ("outputs" if "inputs" in body else "predictions")
    return np.array(content[key])


DENSITIES = [("log_prob", "x"), ("forward", "z"), ("inverse", "x")]
densities = pytest.mark.parametrize(("name", "key"), DENSITIES)


@densities
def test_columns(server, signatures, name, key):
    answer = predict(server, {"signature_name": name, "inputs": {key: X}})
    np.testing.assert_allclose(answer, signatures("1", name, **{key: X}), **TOLERANCE)


@densities
def test_rows(server, signatures, name, key):
    answer = predict(server, {"signature_name": name, "instances": [{key: x} for x in X]})
    np.testing.assert_allclose(answer, signatures("1", name, **{key: X}), **TOLERANCE)


@densities
@pytest.mark.parametrize("form", ["inputs", "instances"])
def test_a_single_input_needs_no_name(server, signatures, name, key, form):
    answer = predict(server, {"signature_name": name, form: X})
    np.testing.assert_allclose(answer, signatures("1", name, **{key: X}), **TOLERANCE)


@densities
def test_columns_with_a_condition(server, signatures, name, key):
    inputs = {key: X, "condition": C}
    answer = predict(server, {"signature_name": name, "inputs": inputs}, CONDITIONAL)
    np.testing.assert_allclose(answer, signatures("2", name, **inputs), **TOLERANCE)


@densities
def test_rows_with_a_condition(server, signatures, name, key):
    rows = [{key: x, "condition": c} for x, c in zip(X, C)]
    answer = predict(server, {"signature_name": name, "instances": rows}, CONDITIONAL)
    expected = signatures("2", name, **{key: X, "condition": C})
    np.testing.assert_allclose(answer, expected, **TOLERANCE)


@densities
def test_one_condition_for_all_rows(server, signatures, name, key):
    inputs = {key: X, "condition": C[:1]}
    answer = predict(server, {"signature_name": name, "inputs": inputs}, CONDITIONAL)
    expected = signatures("2", name, **{key: X, "condition": C[:1] * len(X)})
    np.testing.assert_allclose(answer, expected, **TOLERANCE)


def test_the_condition_counts(server):
    bodies = [{"inputs": {"x": X, "condition": c}} for c in (C, C[::-1])]
    first, second = (predict(server, body, CONDITIONAL) for body in bodies)
    assert np.abs(first - second).max() > 1e-3


def test_density_is_the_default_signature(server, signatures):
    answer = predict(server, {"instances": X})
    np.testing.assert_allclose(answer, signatures("1", "log_prob", x=X), **TOLERANCE)


def test_integers_pass_for_numbers(server, signatures):
    answer = predict(server, {"instances": [[1, -2]]})
    np.testing.assert_allclose(answer, signatures("1", "log_prob", x=[[1, -2]]), **TOLERANCE)


@pytest.mark.parametrize(("version", "given"), [("1", {}), ("2", {"condition": C})])
def test_samples(server, signatures, version, given):
    inputs = {"n": 7, "seed": [3, 4], **given}
    body = {"signature_name": "sample", "inputs": inputs}
    answer = predict(server, body, f"{ROOT}/versions/{version}")
    np.testing.assert_allclose(answer, signatures(version, "sample", **inputs), **TOLERANCE)


@pytest.mark.parametrize("seed", [[3, 5], [-1, 2**31 - 1]])
def test_another_seed_gives_other_samples(server, seed):
    bodies = [{"signature_name": "sample", "inputs": {"n": 7, "seed": s}} for s in ([3, 4], seed)]
    first, second = (predict(server, body) for body in bodies)
    assert not np.isclose(first, second).any()


def test_as_many_samples_as_allowed(server):
    body = {"signature_name": "sample", "inputs": {"n": SAMPLE_LIMIT, "seed": [0, 0]}}
    assert predict(server, body).shape == (SAMPLE_LIMIT, 2)


def test_infinite_answers_are_strict_json(server):
    _, content = ask(server, "POST", f"{PLAIN}:predict", {"instances": [[1e30, 0.0], [0.0, 0.0]]})
    low, fine = content["predictions"]
    assert low == "-Infinity"
    assert isinstance(fine, float)


SAMPLE = {"signature_name": "sample"}
# Body, prefix of the path, words of the message in their order.
REFUSED = {
    "empty": ("", PLAIN, "Expected a JSON object", "malformed JSON"),
    "malformed": ('{"inputs": [', PLAIN, "malformed JSON", "strict JSON"),
    "not-unicode": (b'{"inputs": "\xff"}', PLAIN, "malformed JSON"),
    "deep": ("[" * 15_000, PLAIN, "malformed JSON"),
    "long-integer": ('{"inputs": ' + "1" * 10_000 + "}", PLAIN, "malformed JSON"),
    "nan": ('{"inputs": [[NaN, 0]]}', PLAIN, "NaN is no JSON number"),
    "infinity": ('{"inputs": [[-Infinity, 0]]}', PLAIN, "-Infinity is no JSON number"),
    "overflow": ('{"inputs": [[1e999, 0]]}', PLAIN, "'x'", "inf", "from -3.4028235e+38"),
    "overflow-float32": ({"inputs": [[1e39, 0]]}, PLAIN, "'x'", "1e+39", "to 3.4028235e+38"),
    "overflow-integer": ({"inputs": [[10**400, 0]]}, PLAIN, "'x'", "Give numbers from"),
    "no-object": ([1, 2], PLAIN, "Expected a JSON object", "[1, 2]"),
    "no-inputs": ({"signature_name": "log_prob"}, PLAIN, "'inputs' or 'instances'", "neither"),
    "both-forms": ({"inputs": X, "instances": X}, PLAIN, "'inputs' or 'instances'", "both"),
    "unknown-key": ({"signature": "sample", "inputs": X}, PLAIN, "'signature_name'", "'signature'"),
    "lone-surrogate": ('{"\\ud800": 1}', PLAIN, "'signature_name'", "ud800"),
    "signature": (
        {"signature_name": "density", "inputs": X},
        PLAIN,
        "Expected a signature among log_prob, sample, forward, inverse",
        "'density'",
    ),
    "signature-list": ({"signature_name": [], "inputs": X}, PLAIN, "a signature among", "[]"),
    "other-input": ({"inputs": {"z": X}}, PLAIN, "'x' (float32, lists", "none named 'x'"),
    "more-inputs": ({"inputs": {"x": X, "condition": C}}, PLAIN, "'x'", "'condition'", "Leave"),
    "no-condition": ({"inputs": {"x": X}}, CONDITIONAL, "(rows, 1)", "none named 'condition'"),
    "bare-value": ({"inputs": X}, CONDITIONAL, "'condition'", "'x'", "an object with a key"),
    "bare-row": ({"instances": X}, CONDITIONAL, "'condition'", "'x'", "an object with a key"),
    "row-without": ({"instances": [{"x": [0, 0]}]}, CONDITIONAL, "none named 'condition'"),
    "rows-differ": (
        {"inputs": {"x": X, "condition": C[:2]}},
        CONDITIONAL,
        "as many rows in each input",
        "'condition': 2, 'x': 5",
    ),
    "no-rows": ({"instances": []}, PLAIN, "at least one row", "[]"),
    "rows-object": ({"instances": {"x": X}}, PLAIN, "a list of at least one row", "{'x'"),
    "no-columns": ({"inputs": []}, PLAIN, "(rows, 2)", "a list of 0 entries", "at least one"),
    "scalar": ({"inputs": 1.0}, PLAIN, "(rows, 2)", "1.0", "Give a list"),
    "vector": ({"inputs": [1.0, 2.0]}, PLAIN, "(rows, 2)", "1.0", "Give a list"),
    "too-deep": ({"inputs": [[[1.0], [2.0]]]}, PLAIN, "(rows, 2)", "[1.0]", "nested as the shape"),
    "size": ({"inputs": [[1.0, 2.0, 3.0]]}, PLAIN, "(rows, 2)", "a list of 3 entries", "Give 2"),
    "ragged": ({"inputs": [[1.0, 2.0], [1.0]]}, PLAIN, "(rows, 2)", "of 1 and of 2", "equally"),
    "ragged-rows": ({"instances": [[1.0], [1.0, 2.0]]}, PLAIN, "of 1 and of 2", "equally long"),
    "string": ({"inputs": [["1.0", 2.0]]}, PLAIN, "(rows, 2)", "'1.0'", "Give numbers"),
    "boolean": ({"inputs": [[True, 2.0]]}, PLAIN, "(rows, 2)", "True", "Give numbers"),
    "null": ({"inputs": [[None, 2.0]]}, PLAIN, "(rows, 2)", "None", "Give numbers"),
    "object": ({"inputs": [[{}, 2.0]]}, PLAIN, "(rows, 2)", "{}", "Give numbers"),
    "n-negative": ({**SAMPLE, "inputs": {"n": -1, "seed": [0, 0]}}, PLAIN, "'n'", "n = -1"),
    "n-zero": ({**SAMPLE, "inputs": {"n": 0, "seed": [0, 0]}}, PLAIN, "'n'", "from 1", "n = 0"),
    "n-fraction": (
        {**SAMPLE, "inputs": {"n": 3.0, "seed": [0, 0]}},
        PLAIN,
        "'n' (int32)",
        "3.0",
        "Give integers",
    ),
    "n-boolean": ({**SAMPLE, "inputs": {"n": True, "seed": [0, 0]}}, PLAIN, "'n'", "True"),
    "n-string": ({**SAMPLE, "inputs": {"n": "3", "seed": [0, 0]}}, PLAIN, "'n'", "'3'"),
    "n-list": ({**SAMPLE, "inputs": {"n": [3], "seed": [0, 0]}}, PLAIN, "'n'", "[3]"),
    "n-above": (
        {**SAMPLE, "inputs": {"n": SAMPLE_LIMIT + 1, "seed": [0, 0]}},
        PLAIN,
        f"1 to {SAMPLE_LIMIT}",
        f"n = {SAMPLE_LIMIT + 1}",
        "--max-samples",
    ),
    "n-above-int32": ({**SAMPLE, "inputs": {"n": 2**31, "seed": [0, 0]}}, PLAIN, "'n'", "Give"),
    "n-above-by-rows": (
        {**SAMPLE, "inputs": {"n": 101, "seed": [0, 0], "condition": C}},
        CONDITIONAL,
        f"1 to {SAMPLE_LIMIT}",
        "n = 101 for 5 row(s)",
        "--max-samples",
    ),
    "seed-scalar": ({**SAMPLE, "inputs": {"n": 1, "seed": 0}}, PLAIN, "'seed'", "shape (2)", "0"),
    "seed-one": ({**SAMPLE, "inputs": {"n": 1, "seed": [0]}}, PLAIN, "'seed'", "1 entries", "2"),
    "seed-fraction": ({**SAMPLE, "inputs": {"n": 1, "seed": [0, 0.5]}}, PLAIN, "'seed'", "0.5"),
    "seed-large": ({**SAMPLE, "inputs": {"n": 1, "seed": [0, 2**31]}}, PLAIN, "'seed'", "21474"),
    "seed-missing": ({**SAMPLE, "inputs": {"n": 1}}, PLAIN, "'n'", "'seed'", "none named 'seed'"),
    "sample-rows": ({**SAMPLE, "instances": [{"n": 1, "seed": [0, 0]}]}, PLAIN, "Send 'inputs'"),
    "model-refuses": (
        {"signature_name": "inverse", "inputs": [[0.0, 1.0]]},
        f"{ROOT}/versions/3",
        "inputs that the model can take",
        "received infinite inputs",
    ),
}


@pytest.mark.parametrize(
    ("body", "prefix", "words"), [(r[0], r[1], r[2:]) for r in REFUSED.values()], ids=REFUSED
)
def test_bad_requests(server, body, prefix, words):
    status, content = ask(server, "POST", f"{prefix}:predict", body)
    assert status == 400
    assert list(content) == ["error"]
    assert re.search("(?s)" + ".*".join(map(re.escape, words)), content["error"]), content


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/other:predict"),
        ("POST", f"{ROOT}/versions/9:predict"),
        ("POST", f"{ROOT}:classify"),
        ("GET", "/v1/models/other"),
        ("GET", f"{ROOT}/versions/9"),
        ("GET", f"{ROOT}/versions/x/metadata"),
        ("GET", "/"),
        ("GET", f"{ROOT}/"),
        ("GET", f"{PLAIN}/"),
        ("GET", f"{ROOT}/metadata/"),
        ("GET", f"//{ROOT}"),
        ("GET", "/healthz/"),
        ("POST", f"{ROOT}:predict/"),
    ],
)
def test_unknown_models_versions_and_paths(server, method, path):
    status, content = ask(server, method, path, "{}" if method == "POST" else None)
    assert status == 404
    assert content["error"].startswith(f"Nothing at {path}. The model is at {ROOT}, its versions")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", f"{ROOT}:predict", "POST"),
        ("PUT", f"{PLAIN}:predict", "POST"),
        ("POST", f"{ROOT}/metadata", "GET"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_wrong_methods(server, method, path, allowed):
    status, content = ask(server, method, path)
    assert status == 405
    assert allowed in content["error"]
    assert content["error"].endswith(f"at {path}. Received: {method}.")


@pytest.mark.parametrize(
    "path", [ROOT, f"{ROOT}/", f"{PLAIN}:predict", "/healthz/", "//other.org/"]
)
@pytest.mark.parametrize("host", ["mark.org", "mark.org/mark?mark#", "[mark", 'x"mark'])
def test_headers_of_a_client_are_not_repeated(server, path, host):
    marked = ("X-Forwarded-Host", "X-Forwarded-For", "X-Forwarded-Proto", "Referer", "Origin")
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: mark" for name in marked]
    with raw(server) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        _, received = read_to_the_end(connection)
    status = int(received.split()[1])
    assert status == {ROOT: 200, f"{PLAIN}:predict": 405}.get(path, 404)
    assert b"mark" not in received
    assert b"location" not in received.lower()


def chunks(size):
    return iter([b" " * 1000] * (size // 1000))


# An iterator has no length, so that it goes in chunks.
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_body_above_the_limit(server, chunked):
    with connect(server) as connection:
        size = 50 * BODY_LIMIT
        body = chunks(size) if chunked else b" " * size
        status, content = exchange(connection, "POST", f"{PLAIN}:predict", body)
        assert status == 413
        assert f"up to {BODY_LIMIT} bytes" in content["error"]
        assert "--max-body-bytes" in content["error"]
        # The connection serves the next request.
        assert exchange(connection, "GET", "/healthz") == (200, {"status": "ok"})


def test_chunked_body_below_the_limit(server, signatures):
    body = json.dumps({"inputs": X}).encode()
    _, content = ask(server, "POST", f"{PLAIN}:predict", iter([body[:7], body[7:]]))
    np.testing.assert_allclose(content["outputs"], signatures("1", "log_prob", x=X), **TOLERANCE)


def test_body_that_never_comes(server):
    with socket.create_connection(("127.0.0.1", server[0])) as connection:
        head = f"POST {PLAIN}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf"
        connection.sendall(head.encode())
    for _ in range(20):
        assert ask(server, "GET", "/healthz")[0] == 200
    assert "ClientDisconnect" not in server[1].read_text()


PREDICT = f"POST {PLAIN}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: "
LATE = f"Expected a whole request within {TIMEOUT} s. Received: a part of it."


@contextlib.contextmanager
def raw(server, receive_buffer=None):
    with socket.socket() as connection:
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(10.0 * TIMEOUT)
        connection.connect(("127.0.0.1", server[0]))
        yield connection


def read_to_the_end(connection):
    """Return the seconds until the server ends the connection, and what it sends till then."""
    began, received = time.monotonic(), b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(2**16):
            received += data
    return time.monotonic() - began, received


def drip(connection, text, deadline):
    """Send a byte at a time until the server ends the connection or the deadline is over."""
    with contextlib.suppress(ConnectionError):
        for character in itertools.cycle(text):
            connection.sendall(character.encode())
            time.sleep(0.1)
            if time.monotonic() > deadline:
                raise AssertionError("the server never ended the connection")


def check_late(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in head
    assert json.loads(body)["error"].startswith(LATE)


def test_connection_without_a_request_ends(hasty):
    with raw(hasty) as connection:
        seconds, received = read_to_the_end(connection)
    assert received == b""
    assert 0.5 * TIMEOUT < seconds < 3.0 * TIMEOUT


PARTS = {
    "line": f"GET {ROOT}",
    "head": PREDICT + "9\r\nX-Other: ",
    "body": PREDICT + "99\r\n\r\n{",
    "chunk": PREDICT.replace("Content-Length: ", "Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"),
}
parts = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)


@parts
def test_part_of_a_request_ends(hasty, part):
    with raw(hasty) as connection:
        connection.sendall(part.encode())
        seconds, received = read_to_the_end(connection)
    assert 0.5 * TIMEOUT < seconds < 3.0 * TIMEOUT
    check_late(received)


@parts
def test_part_of_a_later_request_ends(hasty, part):
    with raw(hasty) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + part.encode())
        _, received = read_to_the_end(connection)
    first, _, rest = received.partition(b'{"status": "ok"}')
    assert first.startswith(b"HTTP/1.1 200 ")
    check_late(rest)


# The whole request has a deadline: bytes that come one by one do not put it off.
@pytest.mark.parametrize(
    ("part", "rest"),
    [
        ("GET /", "healthz"),
        ("GET /healthz HTTP/1.1\r\n", "X-Other: y\r\n"),
        (PREDICT + "9999\r\n\r\n", " "),
        # Answered before its body has come, which is then thrown away.
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", " "),
    ],
    ids=["line", "head", "body", "unread-body"],
)
def test_request_that_drips_ends(hasty, part, rest):
    with raw(hasty) as connection:
        began = time.monotonic()
        connection.sendall(part.encode())
        drip(connection, rest, began + 5.0 * TIMEOUT)
        assert time.monotonic() - began > 0.5 * TIMEOUT


@pytest.mark.parametrize(
    ("draws", "times", "piece"),
    [
        (400_000, 1, 0),
        pytest.param(400_000, 1, 100, marks=pytest.mark.long),
        pytest.param(40_000, 12, 0, marks=pytest.mark.long),
    ],
    ids=["one", "one-slowly", "many"],
)
def test_answer_that_is_not_taken_ends(hasty, draws, times, piece):
    body = json.dumps({**SAMPLE, "inputs": {"n": draws, "seed": [0, 0]}})
    with raw(hasty, receive_buffer=4096) as connection:
        connection.sendall(f"{PREDICT}{len(body)}\r\n\r\n{body}".encode() * times)
        received = len(connection.recv(1))
        end = time.monotonic() + 3.0 * TIMEOUT
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                received += len(connection.recv(piece))
                time.sleep(0.1)
        received += len(read_to_the_end(connection)[1])
    # A draw has more than 20 bytes. What was in the buffers of the connection comes.
    assert received < 0.8 * 20 * draws * times


def test_the_work_of_the_server_takes_its_time(hasty):
    body = {**SAMPLE, "inputs": {"n": 1, "seed": [2000 * TIMEOUT, 0]}}
    with connect(hasty) as connection:
        for _ in range(2):
            began = time.monotonic()
            status, content = exchange(connection, "POST", f"{ROOT}/versions/3:predict", body)
            assert status == 200
            assert np.shape(content["outputs"]) == (1, 2)
            assert time.monotonic() - began > 2.0 * TIMEOUT


def test_failure_inside_the_server(server):
    body = {"signature_name": "forward", "inputs": [[1000.0, 0.0]]}
    with connect(server) as connection:
        status, content = exchange(connection, "POST", f"{ROOT}/versions/3:predict", body)
    assert status == 500
    assert content == {"error": "The server failed at this request; its log says why."}
    # uvicorn writes to the log once the answer is out.
    deadline = time.monotonic() + 10.0
    while "nowhere" not in server[1].read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_health(server):
    assert ask(server, "GET", "/healthz") == (200, {"status": "ok"})


def test_status(server):
    status, content = ask(server, "GET", ROOT)
    assert status == 200
    fine = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    expected = [{"version": version, **fine} for version in ("3", "2", "1")]
    assert content == {"model_version_status": expected}


def test_status_of_a_version(server):
    _, content = ask(server, "GET", PLAIN)
    assert [each["version"] for each in content["model_version_status"]] == ["1"]


def test_metadata(server):
    status, content = ask(server, "GET", f"{CONDITIONAL}/metadata")
    assert status == 200
    assert content["model_spec"] == {"name": "density", "signature_name": "", "version": "2"}
    definitions = content["metadata"]["signature_def"]["signature_def"]
    assert definitions.keys() == {"log_prob", "sample", "forward", "inverse", "serving_default"}
    sample = definitions["sample"]
    assert sample["method_name"] == "tensorflow/serving/predict"
    sizes = {
        key: (info["dtype"], [dim["size"] for dim in info["tensor_shape"]["dim"]])
        for key, info in (*sample["inputs"].items(), *sample["outputs"].items())
    }
    assert sizes == {
        "n": ("DT_INT32", []),
        "seed": ("DT_INT32", ["2"]),
        "condition": ("DT_FLOAT", ["-1", "1"]),
        "x": ("DT_FLOAT", ["-1", "-1", "2"]),
    }


def test_the_highest_version_is_the_default(server):
    answer = predict(server, {"inputs": X}, ROOT)
    np.testing.assert_allclose(answer, np.sum(X, -1), **TOLERANCE)
    _, content = ask(server, "GET", f"{ROOT}/metadata")
    assert content["model_spec"]["version"] == "3"


def test_other_connections_are_answered_while_the_model_works(server):
    # Bodies as large as allowed, from more connections than the pool has threads.
    body = {"signature_name": "forward", "inputs": [[0.5, -0.5]] * 1500}
    with ThreadPoolExecutor(8) as pool, connect(server) as connection:
        jobs = [pool.submit(predict, server, body) for _ in range(40)]
        times = []
        while not all(job.done() for job in jobs):
            began = time.monotonic()
            assert exchange(connection, "GET", "/healthz")[0] == 200
            times.append(time.monotonic() - began)
        assert all(job.result().shape == (1500, 2) for job in jobs)
    assert len(times) > 1
    assert np.median(times) < 0.5


def test_load(server, signatures):
    """64 connections that stay open, each with requests of every signature and many sizes."""
    connections, rounds = 64, 4
    rows = np.random.default_rng(1).normal(size=(32, 2)).round(3)
    conditions = rows[:, :1].tolist()
    expected = {
        (version, name): signatures(version, name, **{key: rows, **given})
        for name, key in DENSITIES
        for version, given in (("1", {}), ("2", {"condition": conditions}))
    }
    draws = {n: signatures("1", "sample", n=n, seed=[n, 1]) for n in range(1, 33)}

    def work(number):
        generator = np.random.default_rng(number)
        with connect(server) as connection:
            for _ in range(rounds):
                for (version, name), answers in expected.items():
                    first, last = np.sort(generator.choice(33, 2, replace=False))
                    inputs = {dict(DENSITIES)[name]: rows[first:last].tolist()}
                    if version == "2":
                        inputs["condition"] = conditions[first:last]
                    body = {"signature_name": name, "inputs": inputs}
                    path = f"{ROOT}/versions/{version}:predict"
                    status, content = exchange(connection, "POST", path, body)
                    assert status == 200, content
                    np.testing.assert_allclose(content["outputs"], answers[first:last], **TOLERANCE)
                n = int(generator.integers(1, 33))
                body = {**SAMPLE, "inputs": {"n": n, "seed": [n, 1]}}
                status, content = exchange(connection, "POST", f"{PLAIN}:predict", body)
                assert status == 200, content
                np.testing.assert_allclose(content["outputs"], draws[n], **TOLERANCE)

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(work, range(connections)))


def no_folder(models, folder):
    return folder / "absent", "holds no version"


def no_version(models, folder):
    return folder, "holds no version"


def no_saved_model(models, folder):
    (folder / "1").mkdir()
    return folder, "holds no SavedModel to serve"


def no_variables(models, folder):
    (folder / "1").mkdir()
    (folder / "1" / "saved_model.pb").write_bytes((models / "1" / "saved_model.pb").read_bytes())
    return folder, "holds no SavedModel to serve"


def no_signatures(models, folder):
    tf.saved_model.save(tf.Module(), str(folder / "1"))
    return folder, "no signature 'log_prob'"


def a_version(models, folder):
    return models / "1", "name the folder above it"


@pytest.mark.parametrize(
    "case", [no_folder, no_version, no_saved_model, no_variables, no_signatures, a_version]
)
def test_start_without_a_model(models, tmp_path, case):
    path, words = case(models, tmp_path)
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(SystemExit, match=re.escape(words)) as stop:
        main([str(path)])
    assert stop.value.code.startswith(f"serve.py: {path}")
    assert "\n" not in stop.value.code


def refusal(*args):
    """Return the exit code of a server that does not start, and what it says."""
    process = start(*args, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate(timeout=120.0)
    assert "Traceback" not in errors
    return process.returncode, errors


def test_start_without_a_model_in_a_process(models, tmp_path):
    path, words = no_variables(models, tmp_path)
    code, errors = refusal(path)
    assert code == 1
    assert words in errors.splitlines()[-1]


@pytest.mark.long
def test_start_at_a_port_in_use(models, server):
    code, errors = refusal(models, "--port", server[0])
    assert code in (1, 3)  # depending on the version of uvicorn
    assert f"('127.0.0.1', {server[0]}): address already in use" in errors


@pytest.mark.parametrize(
    "option", ["--name=a/b", "--threads=0", "--max-samples=x", "--max-body-bytes=-1"]
)
def test_start_with_a_bad_option(models, option, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(SystemExit) as stop:
        main([str(models), option])
    assert stop.value.code == 2
    assert option.split("=")[0] in capsys.readouterr().err


def test_the_server_needs_tensorflow_alone(models):
    script = """
        import runpy, sys
        sys.modules.update(dict.fromkeys(["keras", "keras_nf", "tensorflow_probability"]))
        serve = runpy.run_path(sys.argv[1])
        serve["load"](serve["Path"](sys.argv[2]))
    """
    run_python(script, SCRIPT, models)
