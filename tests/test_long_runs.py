"""Long runs: clipped gradients, schedules, means of weights, bad batches, the same run twice."""

import concurrent.futures
import functools
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import COMPILED
from processes import run_python

import keras_nf

EVENT, ROWS, STEPS = 3, 8, 5
# Far from the base, so that gradients are larger than what they are clipped to.
X = np.random.default_rng(0).normal(3.0, 2.0, size=(STEPS * ROWS, EVENT)).astype("float32")
RATE, BOUND, MOMENTUM = 0.05, 0.1, 0.8


def compiled_model(optimizer, jit_compile=False):
    keras.utils.set_random_seed(0)
    model = keras_nf.FlowModel(
        keras_nf.maf(EVENT, layers=2, hidden_units=(8,), activation="tanh", seed=0)
    )
    model.compile(optimizer, jit_compile=jit_compile)
    model.build((None, EVENT))
    return model


def fit(model, x=X, epochs=1, **options):
    return model.fit(x, batch_size=ROWS, epochs=epochs, shuffle=False, verbose=0, **options).history


def is_finite(model):
    return all(np.isfinite(weight).all() for weight in model.get_weights())


def assert_same(weights, expected, **tolerance):
    for weight, value in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, value, **{"rtol": 0.0, "atol": 0.0, **tolerance})


# Options of Keras's optimizers, beside steps by hand.


def norm(gradients):
    return np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))


def clipped_each(gradients):
    return [g * min(1.0, BOUND / norm([g])) if norm([g]) else g for g in gradients]


def clipped_together(gradients):
    return [gradient * min(1.0, BOUND / norm(gradients)) for gradient in gradients]


def clipped_in_value(gradients):
    return [np.clip(gradient, -BOUND, BOUND) for gradient in gradients]


@functools.cache
def steps_by_hand(clip=lambda gradients: gradients, rate=lambda step: RATE, overwrite=None):
    """Return weights, and their means, after steps of plain gradient descent."""
    model = compiled_model("sgd")
    means = None
    for step in range(STEPS):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model(X[step * ROWS : (step + 1) * ROWS]))
        weights = [weight.numpy() for weight in model.trainable_variables]
        gradients = [g.numpy() for g in tape.gradient(loss, model.trainable_variables)]
        moved = [w - rate(step) * g for w, g in zip(weights, clip(gradients), strict=True)]
        # Keras's means begin with the weights after the first step.
        means = moved if means is None else means
        means = [MOMENTUM * m + (1.0 - MOMENTUM) * w for m, w in zip(means, moved, strict=True)]
        if overwrite and (step + 1) % overwrite == 0:
            moved = means
        for weight, value in zip(model.trainable_variables, moved, strict=True):
            weight.assign(value)
    return [weight.numpy() for weight in model.trainable_variables], means


def polynomial(step):
    return RATE * (1.0 - step / STEPS)


CLIPPED = {
    "clipnorm": ({"clipnorm": BOUND}, {"clip": clipped_each}),
    "global_clipnorm": ({"global_clipnorm": BOUND}, {"clip": clipped_together}),
    "clipvalue": ({"clipvalue": BOUND}, {"clip": clipped_in_value}),
    "schedule": (
        {"learning_rate": keras.optimizers.schedules.PolynomialDecay(RATE, STEPS, 0.0)},
        {"rate": polynomial},
    ),
}


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [
        *((name, False) for name in CLIPPED),
        pytest.param("global_clipnorm", True, marks=pytest.mark.slow),
    ],
)
def test_steps(name, jit_compile):
    options, by_hand = CLIPPED[name]
    model = compiled_model(keras.optimizers.SGD(**{"learning_rate": RATE, **options}), jit_compile)
    fit(model)
    weights, _ = steps_by_hand(**by_hand)
    assert_same(model.get_weights(), weights, rtol=1e-5, atol=1e-6)
    others = {"nothing": {}, **{other: row for other, (_, row) in CLIPPED.items() if other != name}}
    for other, row in others.items():
        unlike = zip(weights, steps_by_hand(**row)[0], strict=True)
        assert max(np.max(np.abs(a - b)) for a, b in unlike) > 1e-3, other


def mean_optimizer(**options):
    return keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=MOMENTUM, **options)


def loss_of(weights):
    model = compiled_model("sgd")
    model.set_weights(weights)
    return model.evaluate(X, verbose=0)


@COMPILED
def test_fit_ends_with_the_mean_of_weights(jit_compile, tmp_path):
    model, path = compiled_model(mean_optimizer(), jit_compile), tmp_path / "model.keras"
    history = fit(model, validation_data=X)
    weights, means = steps_by_hand()
    assert_same(model.get_weights(), means, rtol=1e-5, atol=1e-6)
    # The losses of `fit` are those on the way; what comes after it are those of the mean.
    np.testing.assert_allclose(history["val_loss"], loss_of(weights), rtol=1e-5)
    np.testing.assert_allclose(model.evaluate(X, verbose=0), loss_of(means), rtol=1e-5)
    assert abs(loss_of(weights) - loss_of(means)) > 0.01
    model.save(path)
    assert_same(keras.models.load_model(path).get_weights(), means, rtol=1e-5, atol=1e-6)


@COMPILED
def test_means_that_replace_the_weights(jit_compile):
    model = compiled_model(mean_optimizer(ema_overwrite_frequency=2), jit_compile)
    history = fit(model, validation_data=X)
    weights, means = steps_by_hand(overwrite=2)
    assert_same(model.get_weights(), means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history["val_loss"], loss_of(weights), rtol=1e-5)


def test_validation_and_files_of_the_mean(tmp_path):
    """What Keras's `SwapEMAWeights` is for, before a checkpoint in the list of callbacks."""
    model = compiled_model(mean_optimizer())
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "mean.keras")
    history = fit(model, validation_data=X, callbacks=[swap, checkpoint])
    _, means = steps_by_hand()
    np.testing.assert_allclose(history["val_loss"], loss_of(means), rtol=1e-5)
    saved = keras.models.load_model(tmp_path / "mean.keras").get_weights()
    for weights in (model.get_weights(), saved):
        assert_same(weights, means, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_goes_on_with_weights_and_means(tmp_path):
    """A file that is written on the way holds both; `fit` ends as if it had never been stopped."""
    path = tmp_path / "way.keras"
    fit(compiled_model(mean_optimizer()), callbacks=[keras.callbacks.ModelCheckpoint(path)])
    loaded, whole = keras.models.load_model(path), compiled_model(mean_optimizer())
    assert_same(loaded.get_weights(), steps_by_hand()[0], rtol=1e-5, atol=1e-6)
    fit(loaded, epochs=2, initial_epoch=1)
    fit(whole, epochs=2)
    assert_same(loaded.get_weights(), whole.get_weights())


# Batches that hold a NaN.


def with_bad_value(value):
    """Return the data with a value in their third batch."""
    bad = X.copy()
    bad[2 * ROWS + 1, 2] = value
    return bad


def skipping_optimizer():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01, global_clipnorm=1.0))


@pytest.mark.parametrize(
    ("value", "jit_compile"),
    [
        *((value, False) for value in (np.nan, np.inf, 1e30)),
        pytest.param(np.nan, True, marks=pytest.mark.slow),
    ],
)
def test_a_bad_batch_can_be_left_out(value, jit_compile):
    """Keras's optimizer that scales losses applies no gradient that is not finite."""
    model = compiled_model(skipping_optimizer(), jit_compile)
    history = fit(model, with_bad_value(value))
    # The epoch says that something was wrong.
    assert not np.isfinite(history["loss"][0])
    without = compiled_model(keras.optimizers.Adam(0.01, global_clipnorm=1.0), jit_compile)
    fit(without, np.delete(X, np.s_[2 * ROWS : 3 * ROWS], axis=0))
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if jit_compile else {}
    assert_same(model.get_weights(), without.get_weights(), **tolerance)
    assert int(model.optimizer.iterations) == STEPS - 1
    history = fit(model)
    np.testing.assert_allclose(history["loss"], fit(without)["loss"], rtol=1e-5)


def test_without_it_all_weights_are_lost():
    model = compiled_model(keras.optimizers.Adam(0.01, global_clipnorm=1.0))
    fit(model, with_bad_value(np.nan))
    assert np.isnan(model.get_weights()[0]).any()


def test_a_hundred_bad_batches_can_be_left_out():
    """Each halves the scale of the loss; some fifteen more, and gradients would get lost in it."""
    model = compiled_model(skipping_optimizer())
    fit(model, np.full((100 * ROWS, EVENT), np.nan, "float32"))
    whole = compiled_model(keras.optimizers.Adam(0.01, global_clipnorm=1.0))
    np.testing.assert_allclose(fit(model)["loss"], fit(whole)["loss"], rtol=1e-6)
    assert_same(model.get_weights(), whole.get_weights())


@pytest.mark.parametrize("steps_per_execution", [1, STEPS])
def test_a_run_stops_and_goes_on_from_its_last_good_weights(steps_per_execution, tmp_path):
    path = tmp_path / "good.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path, monitor="loss", save_best_only=True)
    callbacks = [keras.callbacks.TerminateOnNaN(), checkpoint]
    optimizer = keras.optimizers.Adam(0.01)
    model = compiled_model(optimizer)
    model.compile(optimizer, jit_compile=False, steps_per_execution=steps_per_execution)
    epochs = [X, X, with_bad_value(np.nan), X, X]
    batches = tf.data.Dataset.from_tensor_slices(np.concatenate(epochs)).batch(ROWS)
    history = model.fit(
        batches, epochs=5, steps_per_epoch=STEPS, verbose=0, callbacks=callbacks
    ).history
    assert len(history["loss"]) == 3
    assert np.isnan(history["loss"][-1])
    assert not is_finite(model)
    good, whole = keras.models.load_model(path), compiled_model(keras.optimizers.Adam(0.01))
    assert is_finite(good)
    assert int(good.optimizer.iterations) == 2 * STEPS
    fit(good, epochs=5, initial_epoch=2)
    fit(whole, epochs=5)
    assert_same(good.get_weights(), whole.get_weights(), rtol=1e-5, atol=1e-6)


def test_a_backup_takes_what_was_lost(tmp_path):
    """Why `BackupAndRestore` is not for this: it saves after the run was stopped."""
    backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    model = compiled_model(keras.optimizers.Adam(0.01))
    fit(model, with_bad_value(np.nan), callbacks=[keras.callbacks.TerminateOnNaN(), backup])
    other = compiled_model(keras.optimizers.Adam(0.01))
    other.load_weights(tmp_path / "latest.weights.h5")
    assert not is_finite(other)


# The same run twice.


DETERMINISTIC = """
    import hashlib, itertools, json, sys
    import keras
    import numpy as np
    import tensorflow as tf
    import keras_nf

    seeds, jit_compile, *names = sys.argv[1:]
    jit_compile = jit_compile == "xla"
    small = {"layers": 2, "hidden_units": (8,)}
    recipes = {
        "planar": lambda: keras_nf.planar_flow(4, layers=2),
        "maf": lambda: keras_nf.maf(4, order="random", dropout=0.1, residual=True,
                                    layers=2, hidden_units=(8, 8, 8)),
        "nsf": lambda: keras_nf.nsf(4, bins=4, **small),
        "image-real-nvp": lambda: keras_nf.image_real_nvp((4, 4, 1), hidden_units=(4,)),
    }
    if not jit_compile:
        # Keras does without XLA where this is on.
        tf.config.experimental.enable_op_determinism()
    for name, seed in itertools.product(names, seeds):
        keras.utils.set_random_seed(int(seed))
        shape = (4, 4, 1) if name == "image-real-nvp" else (4,)
        x = np.random.default_rng(0).normal(size=(70, *shape)).astype("float32")
        model = keras_nf.FlowModel(keras_nf.Chain([recipes[name](), keras_nf.ActNorm()]))
        model.adapt(x)
        model.compile("adam", jit_compile=jit_compile)
        assert model.jit_compile == jit_compile
        model.fit(x, epochs=3, batch_size=16, verbose=0)
        weights = b"".join(weight.tobytes() for weight in model.get_weights())
        print(json.dumps([name + seed, hashlib.sha256(weights).hexdigest()]))
"""


@pytest.mark.parametrize(
    ("jit_compile", "names"),
    [
        ("graph", ["maf"]),
        # Searches for roots and bins, and images that batches normalize.
        pytest.param("graph", ["planar", "nsf", "image-real-nvp"], marks=pytest.mark.long),
        # Dropout draws by other operations.
        pytest.param("xla", ["maf"], marks=pytest.mark.long),
    ],
    ids=["maf", "graph", "xla"],
)
def test_two_processes_train_the_same_weights(jit_compile, names):
    """To the last bit: first weights, order of rows, dropout and steps."""

    def hashes(seeds):
        lines = run_python(DETERMINISTIC, seeds, jit_compile, *names).splitlines()
        return dict(map(json.loads, lines))

    # The second seed shows that a hash tells of it.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(hashes, ["01" if names == ["maf"] else "0", "0"])
    assert set(second) == {f"{name}0" for name in names}
    assert {name: first.pop(name) for name in second} == second
    assert not {*first.values()} & {*second.values()}


FLAT = """
    import sys
    import keras
    import numpy as np
    import keras_nf

    class Memory(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with open("/proc/self/statm") as file:
                print(int(file.read().split()[1]) * 4096 / 1e6)

    keras.utils.set_random_seed(0)
    model = keras_nf.FlowModel(keras_nf.maf(3, layers=2, hidden_units=(8,)))
    model.compile("adam", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(8000, 3)).astype("float32")
    model.fit(x, batch_size=8, epochs=10, validation_data=x[:80], verbose=0, callbacks=[Memory()])
    assert int(model.optimizer.iterations) == 10_000
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_thousand_steps_take_no_more_memory_than_one_thousand():
    """Within 5 MB of some 700: a thousand bytes for each step would be another 9 MB."""
    memory = [float(line) for line in run_python(FLAT).splitlines()]
    assert len(memory) == 10
    assert memory[-1] - memory[0] < 5.0
