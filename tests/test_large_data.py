"""Data larger than memory: the shards of the example, what streams of them, and at what memory."""

import os
import re

import keras
import numpy as np
import pytest
from processes import load_example, run_example, run_example_alone

SUFFIXES = pytest.mark.parametrize("suffix", [".npy", ".tfrecord"])
SMALL = ["--layers", "1", "--units", "8", "--buffer", "4096", "--shards", "4"]


@pytest.fixture(scope="module")
def example():
    return load_example("large_data")


@SUFFIXES
def test_an_epoch_has_each_row_once(example, suffix, tmp_path):
    rows, shards, batch_size = 2 * example.CHUNK + 7, 5, 101
    x = np.arange(3 * rows, dtype="float64").reshape(rows, 3)
    np.savez(tmp_path / "data.npz", train=x)
    example.write_shards(*example.read_rows(tmp_path / "data.npz"), tmp_path, shards, suffix)
    if suffix == ".npy":
        for index in range(shards):
            shard = np.load(tmp_path / f"rows-{index:03}.npy", mmap_mode="r")
            np.testing.assert_array_equal(shard, x[index::shards])
    batches = example.stream(tmp_path, suffix, 3, batch_size, 4096, seed=0)
    batches = batches.take(2 * rows // batch_size).as_numpy_iterator()
    streamed = np.concatenate(list(batches))
    epoch, rest = np.split(streamed, [rows])
    np.testing.assert_array_equal(epoch[np.argsort(epoch[:, 0])], x)
    assert len(np.unique(rest[:, 0])) == len(rest)
    # The mean distance of two places in a random order is a third of the rows.
    assert np.abs(np.diff(epoch[:, 0] / 3)).mean() > 1000
    assert not np.array_equal(epoch[: len(rest)], rest)


def test_drawn_rows_have_the_entropy_that_is_printed(example):
    (rows, size), chunks = example.draw_rows(20000, 5, seed=0)
    x = np.concatenate(list(chunks))
    assert x.shape == (rows, size)
    z = x.copy()
    z[:, 1::2] = 2.0 * (x[:, 1::2] - x[:, :4:2] ** 2 + 1.0)
    log_prob = -0.5 * np.sum(z**2 + np.log(2.0 * np.pi), axis=1) + 2 * np.log(2.0)
    error = log_prob.std() / np.sqrt(rows)
    assert abs(-log_prob.mean() - example.entropy(size)) < 4.0 * error


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["tfrecord", pytest.param("npy", marks=pytest.mark.long)])
def test_the_example_learns_what_it_streams(format_, tmp_path):
    options = ["--rows", 20000, "--features", 2, "--format", format_, "--batch-size", 128]
    training = ["--epochs", 3, "--learning-rate", 3e-3, "--buffer", 4096]
    output = run_example("large_data", *options, "--out", tmp_path, *training)
    losses = [float(loss) for loss in re.findall(r"loss: ([\d.]+)", output)]
    (entropy,) = re.findall(r"([\d.]+) nats is the loss of the true", output)
    assert float(entropy) - 0.02 < losses[-1] < float(entropy) + 0.05
    (rate,) = re.findall(r"([\d,]+) rows per second", output)
    assert int(rate.replace(",", "")) > 1000
    x = np.load(tmp_path / "rows-000.npy") if format_ == "npy" else np.zeros((5, 2), "float32")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert model.log_prob(x).shape == (len(x),)
    # What is written is not written again.
    times = {path: os.path.getmtime(path) for path in tmp_path.glob("rows-*")}
    run_example("large_data", "--format", format_, "--out", tmp_path, "--epochs", 0)
    assert times == {path: os.path.getmtime(path) for path in tmp_path.glob("rows-*")}


@pytest.mark.long
@pytest.mark.parametrize("format_", ["npy", "tfrecord"])
def test_memory_does_not_grow_with_the_data(format_, tmp_path):
    """Four times as many bytes, 205 MB instead of 51: the peak of a process stays within 20 MB."""
    peaks = {}
    for rows in (100_000, 400_000):
        options = ["--features", 128, "--format", format_, "--out", tmp_path / str(rows), *SMALL]
        # Writing is no part of what is measured.
        run_example("large_data", "--rows", rows, *options, "--epochs", 0)
        output = run_example_alone("large_data", *options)
        first, last = re.findall(r"(\d+) MB after the first steps, (\d+) MB at the end", output)[0]
        peaks[rows] = int(last)
        assert int(last) - int(first) < 30
    assert abs(peaks[400_000] - peaks[100_000]) < 20


def test_workers_do_not_write_shards(tmp_path):
    cluster = '{"cluster": {"worker": ["127.0.0.1:0"]}, "task": {"type": "worker", "index": 0}}'
    message = run_example_alone("large_data", "--out", tmp_path, returncode=1, TF_CONFIG=cluster)
    assert "Write them before, without TF_CONFIG" in message


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(SystemExit, match="Expected an npz file with an array `train`"):
        run_example("large_data", "--data", tmp_path / "none.npz", "--out", tmp_path)
