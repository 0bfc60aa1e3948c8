"""Training by several workers, processes of their own on this machine: see tests/workers.py."""

import contextlib
import pathlib
import signal

import keras
import numpy as np
import pytest
import workers

import keras_nf


def run(count, folder, plan, *, seconds=300):
    codes, printed = workers.finish(workers.start(count, folder, plan), seconds)
    assert codes == [0] * count, "\n\n".join(printed)
    return results_of(count, folder)


def results_of(count, folder):
    return [dict(np.load(folder / f"worker_{i}.npz")) for i in range(count)]


def train_alone(folder, **options):
    folder.mkdir()
    return workers.train(contextlib.nullcontext(), folder, **options)


def assert_equal(results, expected, names):
    for name in names:
        np.testing.assert_allclose(results[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "plan"),
    [
        pytest.param(2, "train", marks=pytest.mark.slow),
        pytest.param(3, "mended", marks=pytest.mark.long),
    ],
)
def test_workers_train_as_one_process(tmp_path, count, plan):
    folder = tmp_path / "workers"
    folder.mkdir()
    results = run(count, folder, plan)
    expected = train_alone(tmp_path / "alone")
    for one in results:
        # What is reported after a batch is a mean over the workers, whatever their rows.
        assert_equal(one, expected, expected.keys() - {"batches"})
        assert len(one["batches"]) == len(expected["batches"])
        np.testing.assert_allclose(one["batches"], expected["batches"], atol=0.3)
        assert "models whose flows differ" in str(one["different"])
        assert "Received: steps_per_execution=2" in str(one["several"])
    shared = [name for name in results[0] if name.startswith(("weight", "varied", "bound"))]
    assert len(shared) > 12
    for one in results[1:]:
        for name in shared:
            np.testing.assert_array_equal(one[name], results[0][name])
    # The chief's files are whole.
    loaded = keras.models.load_model(folder / "model.keras")
    np.testing.assert_allclose(loaded.log_prob(workers.X), expected["log_prob"], rtol=1e-5)
    assert (folder / "export" / "saved_model.pb").exists()
    (pictures,) = folder.glob("pictures_*")
    assert len(list(pictures.iterdir())) == workers.EPOCHS
    assert not list(folder.glob(".*"))


@pytest.mark.long
def test_workers_go_on_from_a_backup(tmp_path):
    folder = tmp_path / "workers"
    folder.mkdir()
    codes, printed = workers.finish(workers.start(2, folder, "kill"), 300)
    assert codes[1] == -signal.SIGKILL
    # The other one ends with an error, in bounded time.
    assert codes[0] == 1
    assert "unhealthy" in printed[0] or "unavailable" in printed[0].lower()
    assert not list(folder.glob("*.npz"))
    expected = train_alone(tmp_path / "alone", shuffle=False)
    for one in run(2, folder, "resume"):
        assert len(one["batches"]) == 3
        assert_equal(one, expected, [name for name in expected if name.startswith("weight")])


@pytest.mark.long
def test_a_worker_that_never_comes_is_given_up(tmp_path):
    codes, printed = workers.finish(workers.start(2, tmp_path, "alone", missing=[1]), 100)
    assert codes == [1]
    assert "Timeout" in printed[0]


def test_files_are_written_by_the_chief_alone(tmp_path, monkeypatch):
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2))
    model.build((None, 2))
    monkeypatch.setattr("keras_nf.models.replicas.is_chief", lambda strategy: False)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    model.export(tmp_path / "export")
    keras_nf.export_saved_model(model, tmp_path / "other")
    assert list(pathlib.Path(tmp_path).iterdir()) == []
