"""The report of accelerators, where there may be none."""

import re

import numpy as np
import pytest
import tensorflow as tf
from processes import load_example, run_example_alone

FLOWS = {"MAF", "Real NVP", "NSF", "Glow"}


@pytest.fixture(scope="module")
def example():
    return load_example("gpu_report")


def test_errors_are_those_of_the_worst_number(example):
    assert example.error([1.0, -3.0], [1.0, -1.0]) == pytest.approx(2.0 / 2.0)
    # As no bound holds for a NaN, the report counts it among its failures.
    assert not example.error([0.0, np.nan], [0.0, 0.0]) <= 1.0


def test_least_time_is_of_calls_after_the_first(example, monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(example.time, "perf_counter", lambda: next(clock))
    calls = []

    def function(x):
        calls.append(x)
        return tf.constant(0.0)

    assert example.milliseconds(function, 5, seconds=1.0) == 2000.0
    assert calls == [5] * 4


@pytest.mark.long
def test_the_report_runs():
    printed = run_example_alone("gpu_report", "--quick")
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    times = [row for row in rows if re.search(r"^(training step|density|sample) of", row[1])]
    checks = [row for row in rows if re.search(r"^(log p|there and back|weights),", row[1])]
    assert {row[0].strip("| ") for row in times} == FLOWS
    assert {row[0].strip("| ") for row in checks} == FLOWS
    assert len(times) == 5 * len(FLOWS)
    assert all(float(row[2].strip(" |")) > 0.0 for row in times)
    assert len(checks) == 6 * len(FLOWS)
    # Low precision is in use, and two devices round otherwise than one.
    low = [float(row[2]) for row in checks if "mixed" in row[1] or "weights" in row[1]]
    assert min(low) > 0.0
    assert f"{len(checks)} of {len(checks)} checks hold." in printed
