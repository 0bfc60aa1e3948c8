"""Training that is stopped and goes on: callbacks of Keras, checkpoints of TensorFlow."""

import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import run_python

import keras_nf
from keras_nf import FlowModel

EVENT, BATCHES, EPOCHS = 3, 4, 4
X = np.random.default_rng(0).normal(size=(BATCHES * 8, EVENT)).astype("float32")


def compiled_model(order=(2, 0, 1), seed=0):
    """Return a model with the weights of a seed, not built."""
    keras.utils.set_random_seed(seed)
    standardize = keras_nf.Standardize()
    standardize.adapt(2.0 * X + 1.0)
    chain = [
        keras_nf.Planar(),
        keras_nf.AffineCoupling(hidden_units=(8,), activation="tanh"),
        keras_nf.MaskedAutoregressive(order=order, hidden_units=(8,), activation="tanh"),
        standardize,
    ]
    model = FlowModel(keras_nf.Chain(chain))
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    return model


def built_model(**kwargs):
    model = compiled_model(**kwargs)
    model.build((None, EVENT))
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model, epochs=EPOCHS, batches=BATCHES, **kwargs):
    """Train on the first batches, in their order."""
    return model.fit(
        X[: 8 * batches], batch_size=8, epochs=epochs, shuffle=False, verbose=0, **kwargs
    )


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def assert_same(model, expected, **tolerance):
    """Compare weights and optimizer state, to the last bit unless told."""
    for a, b in zip(state(model), state(expected), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 0.0, "atol": 0.0, **tolerance})


class TestModelCheckpoint:
    def test_best_model(self, tmp_path):
        model, path = compiled_model(), tmp_path / "best.keras"
        checkpoint = keras.callbacks.ModelCheckpoint(path, monitor="val_loss", save_best_only=True)
        # The learning rate explodes, so that the last epoch is not the best.
        schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 if epoch < 2 else 3.0)
        history = fit(model, validation_data=X, callbacks=[schedule, checkpoint])
        losses = history.history["val_loss"]
        assert min(losses) < losses[-1]
        best = keras.models.load_model(path)
        np.testing.assert_allclose(best.evaluate(X, verbose=0), min(losses), rtol=1e-5)

    def test_model_goes_on(self, tmp_path):
        model, path = compiled_model(), tmp_path / "model.keras"
        fit(model, callbacks=[keras.callbacks.ModelCheckpoint(path)])
        loaded = keras.models.load_model(path)
        assert_same(loaded, model)
        fit(model)
        fit(loaded)
        assert_same(loaded, model)

    def test_weights_only(self, tmp_path):
        model, path = compiled_model(), tmp_path / "model.weights.h5"
        fit(model, callbacks=[keras.callbacks.ModelCheckpoint(path, save_weights_only=True)])
        other = built_model(seed=1)
        other.load_weights(path)
        assert_same(other, model)


class TestBackupAndRestore:
    """What is restored: weights, optimizer, and the number of the epoch.

    An epoch that was interrupted begins anew, from the weights of its last backup: the batches
    before that backup are seen twice. Keras does not restore random generators, so that a restarted
    process shuffles data and draws seeds as its script says, not as the interrupted one would have
    done. Other callbacks begin anew, too, and `History` holds the epochs after the restart alone.
    """

    SCRIPT = """
        import os, signal, sys
        sys.path.insert(0, "tests")
        import keras
        import test_checkpoints as run

        class Kill(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch
            def on_train_batch_begin(self, batch, logs=None):
                if (self.epoch, batch) == (2, 2):
                    os.kill(os.getpid(), signal.SIGKILL)

        folder, save_freq = sys.argv[1:]
        save_freq = save_freq if save_freq == "epoch" else int(save_freq)
        backup = keras.callbacks.BackupAndRestore(folder + "/backup", save_freq=save_freq)
        run.fit(run.compiled_model(), callbacks=[backup, Kill()])
    """

    @pytest.mark.parametrize("save_freq", ["epoch", pytest.param(2, marks=pytest.mark.long)])
    def test_killed_process(self, save_freq, tmp_path):
        run_python(self.SCRIPT, tmp_path, save_freq, returncode=-signal.SIGKILL)
        assert (tmp_path / "backup").exists()
        model = self.restart(tmp_path, save_freq=save_freq)
        assert not (tmp_path / "backup").exists()
        expected = compiled_model()
        if save_freq == "epoch":
            fit(expected)
        else:
            # Killed in epoch 2 before batch 2, after the backup that follows batch 1.
            fit(expected, epochs=2)
            fit(expected, epochs=1, batches=2)
            fit(expected, epochs=2)
        assert_same(model, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            model.evaluate(X, verbose=0), expected.evaluate(X, verbose=0), rtol=1e-5
        )

    def interrupted(self, folder, **kwargs):
        """Train until an exception in the third epoch, as an interrupt of the keyboard is."""
        model = compiled_model()
        backup = keras.callbacks.BackupAndRestore(folder / "backup", **kwargs)
        with pytest.raises(KeyboardInterrupt):
            fit(model, callbacks=[backup, Interrupt(epoch=2)])
        return folder / "backup" / "latest.weights.h5"

    def restart(self, folder, model=None, **kwargs):
        model = model or compiled_model(seed=1)
        backup = keras.callbacks.BackupAndRestore(folder / "backup", **kwargs)
        fit(model, callbacks=[backup])
        return model

    @pytest.mark.parametrize("dataset", [False, True], ids=["array", "dataset"])
    def test_model_need_not_be_built(self, dataset, tmp_path):
        self.interrupted(tmp_path)
        model = compiled_model(seed=1)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        data = tf.data.Dataset.from_tensor_slices(X).batch(8) if dataset else X
        options = {} if dataset else {"batch_size": 8}
        model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[backup], **options)
        uninterrupted = compiled_model()
        fit(uninterrupted)
        assert_same(model, uninterrupted, rtol=1e-5, atol=1e-6)

    def test_backup_cut_short(self, tmp_path):
        weights = self.interrupted(tmp_path)
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(OSError, match=r"Unable to.*open file"):
            self.restart(tmp_path)

    def test_backup_cut_short_with_the_one_before(self, tmp_path):
        weights = self.interrupted(tmp_path, double_checkpoint=True)
        weights.write_bytes(weights.read_bytes()[:1000])
        uninterrupted = compiled_model()
        fit(uninterrupted)
        assert_same(self.restart(tmp_path), uninterrupted, rtol=1e-5, atol=1e-6)

    def test_order_that_was_drawn_anew(self, tmp_path):
        """A script that draws its orders without a seed does not go on with another model."""
        self.interrupted(tmp_path)
        with pytest.raises(ValueError, match=r"weights of another model.*seeds"):
            self.restart(tmp_path, compiled_model(order="random", seed=4))


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.last_epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.last_epoch:
            raise KeyboardInterrupt


def test_fit_that_was_interrupted_leaves_a_usable_model(tmp_path):
    model, expected = built_model(), built_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=[Interrupt(epoch=2)])
    fit(expected, epochs=2)
    assert_same(model, expected)
    np.testing.assert_array_equal(model.log_prob(X), expected.log_prob(X))
    np.testing.assert_array_equal(model.sample(3, seed=0), expected.sample(3, seed=0))
    model.save(tmp_path / "model.keras")
    fit(model, epochs=1)
    fit(expected, epochs=1)
    assert_same(model, expected)


class TestTensorFlowCheckpoint:
    @pytest.fixture(scope="class")
    def model(self):
        model = compiled_model()
        fit(model)
        return model

    def checkpoint(self, model):
        return tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    def test_round_trip(self, model, tmp_path):
        path = self.checkpoint(model).save(tmp_path / "checkpoint")
        other = built_model(seed=1)
        self.checkpoint(other).restore(path).assert_consumed()
        assert_same(other, model)

    def test_model_alone(self, model, tmp_path):
        path = self.checkpoint(model).save(tmp_path / "checkpoint")
        other = built_model(seed=1)
        status = tf.train.Checkpoint(model=other).restore(path)
        status.expect_partial().assert_existing_objects_matched()
        np.testing.assert_array_equal(other.log_prob(X), model.log_prob(X))

    def test_manager(self, model, tmp_path):
        other = built_model(seed=1)
        manager = tf.train.CheckpointManager(self.checkpoint(other), tmp_path, max_to_keep=2)
        first = state(other)
        for _ in range(3):
            manager.save()
            fit(other, epochs=1)
        assert len(manager.checkpoints) == 2
        last = built_model(seed=2)
        self.checkpoint(last).restore(manager.latest_checkpoint).assert_consumed()
        assert int(last.optimizer.iterations) == 2 * BATCHES
        assert not np.array_equal(state(last)[0], first[0])

    def test_model_that_is_built_later(self, model, tmp_path):
        """Values wait for their variables; until then `assert_consumed` says what is missing."""
        path = tf.train.Checkpoint(model=FlowModel(model.flow)).save(tmp_path / "checkpoint")
        other = FlowModel(compiled_model(seed=1).flow)
        status = tf.train.Checkpoint(model=other).restore(path)
        with pytest.raises(AssertionError, match="variable_0"):
            status.assert_consumed()
        other.build((None, EVENT))
        status.assert_consumed()
        np.testing.assert_array_equal(other.log_prob(X), model.log_prob(X))

    def test_model_and_optimizer_that_are_built_by_fit(self, model, tmp_path):
        path = self.checkpoint(model).save(tmp_path / "checkpoint")
        other, expected = compiled_model(seed=1), built_model(seed=1)
        # The optimizer's second list of its variables is one that `assert_consumed` misses here.
        self.checkpoint(other).restore(path).expect_partial()
        self.checkpoint(expected).restore(path).assert_consumed()
        fit(other, epochs=1)
        fit(expected, epochs=1)
        assert_same(other, expected)

    def test_other_flows(self, model, tmp_path):
        path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
        other = FlowModel(keras_nf.Chain([keras_nf.Planar(), keras_nf.Scaling()]))
        other.build((None, EVENT))
        with pytest.raises((AssertionError, ValueError)):
            tf.train.Checkpoint(model=other).restore(path).assert_consumed()
