"""Serve a flow over HTTP, in the REST form of TensorFlow Serving.

Takes a folder of versions, each a SavedModel written by `keras_nf.export_saved_model`, such as
`density/1` and `density/2`. It needs TensorFlow, Starlette and uvicorn; neither keras_nf nor Keras.

    python examples/serve.py density

The highest version answers, unless a path names one: `/v1/models/density/versions/1:predict`.
These requests suit a flow of two components without a condition:

    curl localhost:8501/v1/models/density:predict -d \
'{"signature_name": "log_prob", "inputs": {"x": [[0.5, -1.0], [2.0, 0.1]]}}'
    curl localhost:8501/v1/models/density:predict -d \
'{"signature_name": "sample", "inputs": {"n": 3, "seed": [0, 1]}}'
    curl localhost:8501/v1/models/density:predict -d \
'{"signature_name": "forward", "inputs": {"z": [[0.0, 0.0]]}}'
    curl localhost:8501/v1/models/density:predict -d \
'{"signature_name": "inverse", "inputs": {"x": [[0.5, -1.0]]}}'
    curl localhost:8501/v1/models/density:predict -d '{"instances": [[0.5, -1.0], [2.0, 0.1]]}'
    curl localhost:8501/v1/models/density
    curl localhost:8501/v1/models/density/metadata
    curl localhost:8501/healthz

A conditional model takes `"condition": [[...], ...]` beside the other inputs; as rows,
`{"instances": [{"x": [...], "condition": [...]}, ...]}`.

Answers are strict JSON: NaN and infinities are written as the strings "NaN", "Infinity" and
"-Infinity", where TensorFlow Serving writes tokens that many parsers refuse. Requests may hold
neither. A client has `--timeout` seconds to send a whole request, and as long to take the answer;
then the connection is closed. There is no authentication and no TLS: outside a trusted network, put
a proxy in front.
"""

import argparse
import asyncio
import json
import os
import re
import reprlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import h11
import numpy as np
import tensorflow as tf
import uvicorn
from absl import logging
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from uvicorn.protocols.http.h11_impl import H11Protocol

SIGNATURES = ("log_prob", "sample", "forward", "inverse", "serving_default")
ENCODE = json.JSONEncoder(allow_nan=False).encode
short = reprlib.repr


class Version(NamedTuple):
    number: int
    signatures: dict[str, Callable]
    metadata: dict[str, Any]


def wrong(expected: str, received: str, advice: str = "") -> HTTPException:
    return HTTPException(400, f"Expected {expected}. Received: {received}. {advice}".strip())


def inputs_of(signature: Callable) -> dict[str, tf.TensorSpec]:
    return dict(sorted(signature.structured_input_signature[1].items()))


def describe(name: str, spec: tf.TensorSpec) -> str:
    if spec.shape.rank == 0:
        return f"{name!r} ({spec.dtype.name})"
    sizes = ", ".join("rows" if size is None else str(size) for size in spec.shape)
    return f"{name!r} ({spec.dtype.name}, lists of shape ({sizes}))"


def to_array(name: str, value: Any, spec: tf.TensorSpec) -> np.ndarray:
    """Convert nested lists to an array of the shape and the dtype of a signature's input."""
    expected = f"the input {describe(name, spec)}"
    level, shape = [value], []
    for size in spec.shape:
        for entry in level:
            if not isinstance(entry, list):
                raise wrong(expected, short(entry), "Give a list in its place.")
        lengths = sorted(set(map(len, level)))
        if len(lengths) > 1:
            given = f"lists of {lengths[0]} and of {lengths[-1]} entries side by side"
            raise wrong(expected, given, "Make them equally long.")
        if lengths[0] == 0 or size not in (None, lengths[0]):
            advice = f"Give {size or 'at least one'}."
            raise wrong(expected, f"a list of {lengths[0]} entries", advice)
        shape += lengths
        level = list(chain.from_iterable(level))
    kind, allowed = ("integers", {int}) if spec.dtype.is_integer else ("numbers", {int, float})
    low, high = float(spec.dtype.min), float(spec.dtype.max)
    for entry in level:
        if type(entry) not in allowed:
            raise wrong(expected, short(entry), f"Give {kind}, nested as the shape says.")
        if not low <= entry <= high:
            raise wrong(expected, short(entry), f"Give {kind} from {low:.8g} to {high:.8g}.")
    return np.array(level, spec.dtype.as_numpy_dtype).reshape(shape)


def parse(body: bytes) -> dict[str, Any]:
    """Read the JSON object of a request."""

    def refuse(token):
        raise ValueError(f"{token} is no JSON number")

    try:
        request = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise wrong("a JSON object", f"malformed JSON, {error}", "Write strict JSON.") from error
    if not isinstance(request, dict):
        raise wrong("a JSON object", short(request))
    if unknown := sorted(request.keys() - {"signature_name", "inputs", "instances"}):
        raise wrong("the keys 'signature_name' and 'inputs' or 'instances'", short(unknown[0]))
    if ("inputs" in request) == ("instances" in request):
        raise wrong(
            "either 'inputs' or 'instances'",
            "both" if "inputs" in request else "neither",
            "Give one of them.",
        )
    return request


def columns(request: dict, name: str, specs: dict[str, tf.TensorSpec]) -> dict[str, Any]:
    """Return the inputs of a signature by name, from either form of request."""
    expected = f"the inputs of {name!r}: " + ", ".join(describe(*item) for item in specs.items())

    def named(inputs):
        if len(specs) == 1 and not isinstance(inputs, dict):
            return {next(iter(specs)): inputs}
        if not isinstance(inputs, dict):
            raise wrong(expected, short(inputs), "Give an object with a key for each.")
        for key in specs.keys() - inputs.keys():
            raise wrong(expected, f"none named {key!r}", "Add it.")
        for key in inputs.keys() - specs.keys():
            raise wrong(expected, short(key), "Leave it out.")
        return inputs

    if "inputs" in request:
        return named(request["inputs"])
    rows = request["instances"]
    if any(spec.shape.rank == 0 for spec in specs.values()):
        raise wrong(expected, "'instances', but these are no rows", "Send 'inputs'.")
    if not isinstance(rows, list) or not rows:
        raise wrong("'instances' to be a list of at least one row", short(rows))
    rows = [named(row) for row in rows]
    return {key: [row[key] for row in rows] for key in specs}


def answer(version: Version, body: bytes, max_samples: int) -> bytes:
    """Answer a request: all the work that must not hold up other connections."""
    request = parse(body)
    name = request.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in version.signatures:
        raise wrong(f"a signature among {', '.join(SIGNATURES)}", short(name))
    signature = version.signatures[name]
    specs = inputs_of(signature)
    values = columns(request, name, specs)
    arrays = {key: to_array(key, values[key], spec) for key, spec in specs.items()}
    rows = {key: len(arrays[key]) for key, spec in specs.items() if spec.shape[:1] == [None]}
    if len(set(rows.values()) - {1}) > 1:
        raise wrong("as many rows in each input, or one", str(rows))
    if name == "sample":
        n, each = int(arrays["n"]), max(rows.values(), default=1)
        if n < 1 or n * each > max_samples:
            advice = "Draw in several requests, or start with another --max-samples."
            received = f"n = {n} for {each} row(s) of 'condition'" if rows else f"n = {n}"
            raise wrong(f"'n' to make from 1 to {max_samples} draws in all", received, advice)
    try:
        (output,) = signature(**{key: tf.constant(array) for key, array in arrays.items()}).values()
    except tf.errors.InvalidArgumentError as error:
        # A flow made with `validate_args` refuses values that leave the finite numbers.
        reason = error.message.split("[[")[0].strip().splitlines()[-1]
        raise wrong("inputs that the model can take", reason) from error
    return encode("outputs" if "inputs" in request else "predictions", output.numpy())


def encode(key: str, array: np.ndarray) -> bytes:
    """Write strict JSON, a row at a time, so that other threads get their turn in between."""
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        names = {np.inf: "Infinity", -np.inf: "-Infinity"}
        flat = [x if np.isfinite(x) else names.get(x, "NaN") for x in values.ravel().tolist()]
        values = np.array(flat, object).reshape(values.shape)
    return f'{{"{key}": [{", ".join(map(ENCODE, values.tolist()))}]}}'.encode()


def load(base: Path) -> list[Version]:
    """Load the versions in a folder, the highest first, and run each signature once."""
    if (base / "saved_model.pb").exists():
        raise ValueError(f"{base} is a SavedModel itself: name the folder above it, of versions.")
    found = [path for path in base.glob("*") if path.name.isdecimal() and path.is_dir()]
    if not found:
        raise ValueError(f"{base} holds no version: export a model to {base / '1'} first.")
    # TensorFlow would warn of second derivatives, which are not a part of an export.
    logging.set_verbosity(logging.ERROR)
    versions = []
    for path in sorted(found, key=lambda path: int(path.name), reverse=True):
        try:
            signatures = dict(tf.saved_model.load(str(path)).signatures)
            if missing := [name for name in SIGNATURES if name not in signatures]:
                raise ValueError(f"no signature {missing[0]!r}")
            for signature in signatures.values():
                specs = inputs_of(signature).values()
                signature(**{x.name: tf.ones([n or 1 for n in x.shape], x.dtype) for x in specs})
            versions.append(Version(int(path.name), signatures, metadata(path)))
        except Exception as error:  # TensorFlow raises errors of many kinds for a damaged folder.
            reason, advice = str(error).partition("\n")[0], "keras_nf.export_saved_model writes one"
            raise ValueError(f"{path} holds no SavedModel to serve, {advice}: {reason}") from error
    return versions


def metadata(path: Path) -> dict[str, Any]:
    """Return the definitions of the signatures as TensorFlow Serving writes them."""

    def tensor(info):
        sizes = [{"size": str(dim.size), "name": dim.name} for dim in info.tensor_shape.dim]
        shape = {"dim": sizes, "unknown_rank": info.tensor_shape.unknown_rank}
        dtype = types_pb2.DataType.Name(info.dtype)
        return {"dtype": dtype, "tensor_shape": shape, "name": info.name}

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    return {
        name: {
            "inputs": {key: tensor(info) for key, info in definitions[name].inputs.items()},
            "outputs": {key: tensor(info) for key, info in definitions[name].outputs.items()},
            "method_name": definitions[name].method_name,
        }
        for name in SIGNATURES
    }


def reply(content: dict | bytes, status: int = 200, headers: dict | None = None) -> Response:
    content = content if isinstance(content, bytes) else ENCODE(content).encode()
    return Response(content, status, headers, media_type="application/json")


async def read(request: Request, limit: int) -> bytes:
    """Return the body, but hold no more of it than the limit."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                advice = "Send fewer rows in a request, or start with another --max-body-bytes."
                raise HTTPException(413, f"Expected up to {limit} bytes. Received: more. {advice}")
    except ClientDisconnect as error:
        raise wrong("a whole body", "a part of it") from error
    return bytes(body)


def make_protocol(timeout: int) -> type[H11Protocol]:
    """Return uvicorn's protocol with a clock for each connection.

    uvicorn ends connections that idle between two requests, and waits for ever for the first one,
    for the rest of one, and for an answer to be taken. The clock runs whenever the server waits
    for the client, and what the client sends or takes meanwhile does not set it back.
    """
    late = ENCODE(
        {
            "error": f"Expected a whole request within {timeout} s. Received: a part of it. "
            "Send fewer rows in a request, or start with another --timeout."
        }
    )
    head = (
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(late)}\r\n\r\n"
    )

    class Protocol(H11Protocol):
        clock = None

        def connection_made(self, transport):
            super().connection_made(transport)
            self.app = self.timed(self.app)
            self.start_clock()

        def stop_clock(self):
            if self.clock:
                self.clock.cancel()

        def start_clock(self):
            self.stop_clock()
            self.clock = self.loop.call_later(timeout, self.expire)

        def connection_lost(self, error):
            self.stop_clock()
            super().connection_lost(error)

        def timed(self, app):
            async def run(scope, receive, send):
                async def timed_receive():
                    message = await receive()
                    if not message.get("more_body"):
                        self.stop_clock()
                    return message

                async def timed_send(message):
                    # Before the first part: it waits until earlier answers are taken.
                    if message["type"] == "http.response.start":
                        self.start_clock()
                    await send(message)

                await app(scope, timed_receive, timed_send)

            return run

        def expire(self):
            if self.transport.is_closing() or self.transport.get_write_buffer_size():
                self.transport.abort()
                return
            if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
                self.transport.write((head + late).encode())
            self.start_clock()
            self.transport.close()

    return Protocol


def make_app(name: str, versions: list[Version], arguments: argparse.Namespace) -> Starlette:
    """Return the application: the same paths for the model and for each of its versions."""
    root = f"/v1/models/{name}"
    pool = ThreadPoolExecutor(arguments.threads)

    def page(content):
        async def endpoint(request):
            return reply(content)

        return endpoint

    def model_routes(prefix, version, shown):
        async def predict(request):
            body = await read(request, arguments.max_body_bytes)
            run = asyncio.get_running_loop().run_in_executor
            return reply(await run(pool, answer, version, body, arguments.max_samples))

        fine = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        status = [{"version": str(each.number), **fine} for each in shown]
        spec = {"name": name, "signature_name": "", "version": str(version.number)}
        definitions = {"signature_def": {"signature_def": version.metadata}}
        return [
            Route(f"{prefix}:predict", predict, methods=["POST"]),
            Route(prefix, page({"model_version_status": status})),
            Route(f"{prefix}/metadata", page({"model_spec": spec, "metadata": definitions})),
        ]

    async def refuse(request, error):
        # Not from `request.url`, which older versions of Starlette read out of the Host header.
        path = request.scope["path"]
        numbers = ", ".join(str(version.number) for version in versions)
        details = {
            404: f"Nothing at {path}. The model is at {root}, its versions ({numbers}) at "
            f"{root}/versions/{versions[0].number}; POST a request to {root}:predict.",
            405: f"Expected {(error.headers or {}).get('Allow')} at {path}. "
            f"Received: {request.method}.",
        }
        detail = details.get(error.status_code, error.detail)
        return reply({"error": detail}, error.status_code, error.headers)

    async def fail(request, error):
        # Starlette raises the error again after this answer, and uvicorn logs it.
        return reply({"error": "The server failed at this request; its log says why."}, 500)

    routes = [Route("/healthz", page({"status": "ok"})), *model_routes(root, versions[0], versions)]
    for version in versions:
        routes += model_routes(f"{root}/versions/{version.number}", version, [version])
    app = Starlette(routes=routes, exception_handlers={HTTPException: refuse, Exception: fail})
    # The redirect from a trailing slash names the client's Host header.
    app.router.redirect_slashes = False
    return app


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="folder whose folders 1, 2, ... are SavedModels")
    parser.add_argument("--name", help="name of the model in paths (that of the folder)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8501, help="0 takes a free one")
    parser.add_argument("--max-body-bytes", type=positive, default=4 * 2**20, metavar="BYTES")
    parser.add_argument("--max-samples", type=positive, default=10_000, metavar="DRAWS")
    parser.add_argument("--timeout", type=positive, default=60, metavar="SECONDS")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1)
    arguments = parser.parse_args(argv)
    name = arguments.name or arguments.path.resolve().name
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        parser.error(f"--name takes letters, digits, '_', '.' and '-'. Received: {name!r}.")
    try:
        versions = load(arguments.path)
    except ValueError as error:
        raise SystemExit(f"serve.py: {error}") from None
    app = make_app(name, versions, arguments)
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        http=make_protocol(arguments.timeout),
        ws="none",  # a WebSocket would leave the protocol, and its clock
        proxy_headers=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
