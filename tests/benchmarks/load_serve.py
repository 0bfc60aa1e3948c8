"""How many requests a second examples/serve.py answers, and how fast.

python examples/serve.py density
python tests/benchmarks/load_serve.py http://127.0.0.1:8501/v1/models/density

Needs the standard library alone. Each connection stays open and sends its next request when it has
the answer to the last, with the signatures in turn. The client takes its share of the processors
where it runs on the machine of the server.
"""

import argparse
import http.client
import json
import math
import random
import threading
import time
from itertools import chain
from urllib.parse import urlsplit

NAMES = ("log_prob", "sample", "forward", "inverse")


def tensor(info, rows):
    """Return numbers of the shape that the metadata tells."""
    sizes = [int(dim["size"]) for dim in info["tensor_shape"]["dim"]]
    if info["dtype"] == "DT_INT32":
        return [random.getrandbits(31) for _ in range(sizes[0])] if sizes else rows
    return [[round(random.gauss(0.0, 1.0), 6) for _ in range(sizes[1])] for _ in range(rows)]


def make_bodies(url, names, rows):
    """Return a few requests for each signature."""
    connection = http.client.HTTPConnection(url.netloc, timeout=60.0)
    connection.request("GET", f"{url.path}/metadata")
    definitions = json.load(connection.getresponse())["metadata"]["signature_def"]["signature_def"]
    connection.close()

    def body(name):
        inputs = {key: tensor(info, rows) for key, info in definitions[name]["inputs"].items()}
        if name == "sample" and "condition" in inputs:
            inputs["n"] = 1  # for each of the rows
        return json.dumps({"signature_name": name, "inputs": inputs})

    return {name: [body(name) for _ in range(20)] for name in names}


def work(url, bodies, offset, deadline, seconds_of, errors):
    """Send one request after the other until the time is over."""
    connection = http.client.HTTPConnection(url.netloc, timeout=60.0)
    names = list(bodies)
    turn = offset
    while time.perf_counter() < deadline:
        name = names[turn % len(names)]
        turn += 1
        began = time.perf_counter()
        try:
            connection.request("POST", f"{url.path}:predict", random.choice(bodies[name]))
            response = connection.getresponse()
            response.read()
            failed = response.status != 200
        except (OSError, http.client.HTTPException):
            connection.close()
            failed = True
        seconds_of[name].append(time.perf_counter() - began)
        errors[name].append(failed)
    connection.close()


def percentile(ordered, share):
    """Return the smallest value that is not below this share of all."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def report(seconds_of, errors, elapsed):
    print(
        f"{'signature':<10}{'requests/s':>11}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'errors':>8}"
    )
    every = {name: (times, errors[name]) for name, times in seconds_of.items()}
    every["all"] = (list(chain(*seconds_of.values())), list(chain(*errors.values())))
    for name, (times, failed) in every.items():
        if not times:
            continue
        ordered = sorted(times)
        shown = "".join(f"{1e3 * percentile(ordered, p):9.1f}" for p in (0.50, 0.95, 0.99))
        print(f"{name:<10}{len(times) / elapsed:11.1f}{shown}{sum(failed):8}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "url", type=urlsplit, help="such as http://127.0.0.1:8501/v1/models/density"
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rows", type=int, default=8, help="rows, or draws, of a request")
    parser.add_argument("--signatures", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    arguments = parser.parse_args()
    bodies = make_bodies(arguments.url, arguments.signatures, arguments.rows)
    seconds_of = {name: [] for name in bodies}
    errors = {name: [] for name in bodies}
    began = time.perf_counter()
    deadline = began + arguments.seconds
    threads = [
        threading.Thread(
            target=work, args=(arguments.url, bodies, offset, deadline, seconds_of, errors)
        )
        for offset in range(arguments.connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report(seconds_of, errors, time.perf_counter() - began)


if __name__ == "__main__":
    main()
