"""One model in eight threads: densities, draws and evaluations, beside each other and training."""

import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from cases import perturb

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

THREADS, EVENT = 8, 4
RNG = np.random.default_rng(0)
# Of different sizes, so that threads meet in the making of graphs, too, and of different losses.
DATA = [i * RNG.normal(size=(25 * i, EVENT)).astype("float32") for i in (1, 2, 3, 4)]
SMALL = {"layers": 2, "hidden_units": (8,), "activation": "tanh"}
RECIPES = {
    "planar": lambda: keras_nf.planar_flow(EVENT, layers=2),
    "real-nvp": lambda: keras_nf.real_nvp(EVENT, **SMALL),
    "maf": lambda: keras_nf.maf(EVENT, **SMALL),
    "iaf": lambda: keras_nf.iaf(EVENT, **SMALL),
    "nsf": lambda: keras_nf.nsf(EVENT, bins=4, **SMALL),
}
OPERATIONS = {
    "log_prob": lambda model, i: model.log_prob(DATA[i]),
    "sample": lambda model, i: model.sample(5 + 6 * i, seed=i),
    "predict": lambda model, i: model.predict(DATA[i], batch_size=40, verbose=0),
    "evaluate": lambda model, i: model.evaluate(DATA[i], batch_size=40, verbose=0),
    "test_on_batch": lambda model, i: model.test_on_batch(DATA[i]),
}
# Rows round by how many others there are in their batch.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def compiled_model(recipe=RECIPES["maf"], seed=0, **options):
    """Return a model with the weights of a seed, not built."""
    keras.utils.set_random_seed(seed)
    model = keras_nf.FlowModel(recipe())
    # Losses of a training that changes nothing are those of the weights as they are.
    model.compile(keras.optimizers.SGD(0.0), **options)
    return model


def built_model(**options):
    model = compiled_model(**options)
    model.build((None, EVENT))
    perturb(model.flow)
    return model


def results_of(model, jobs):
    """Return what threads make of all jobs, in eight of them at a time."""

    def run(job):
        operation, i = job
        return np.asarray(OPERATIONS[operation](model, i))

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, jobs))


def jobs_of(operations, repetitions):
    jobs = [(name, i) for name in operations for i in range(len(DATA))] * repetitions
    return [jobs[i] for i in np.random.default_rng(1).permutation(len(jobs))]


@pytest.fixture(scope="module")
def expected(without_xla):
    """What each operation gives in a single thread."""
    model = built_model()
    return {job: np.asarray(OPERATIONS[job[0]](model, job[1])) for job in jobs_of(OPERATIONS, 1)}


def assert_right(results, jobs, expected):
    for job, result in zip(jobs, results, strict=True):
        np.testing.assert_allclose(result, expected[job], **TOLERANCE, err_msg=str(job))


def test_mixed_operations(expected):
    losses = [float(expected["evaluate", i]) for i in range(len(DATA))]
    assert np.min(np.diff(np.sort(losses))) > 0.1
    jobs = jobs_of(OPERATIONS, 5)
    assert_right(results_of(built_model(), jobs), jobs, expected)


def test_beside_training(expected):
    """A training that changes no weights: its losses and all else are as without the other."""
    model, jobs = built_model(), jobs_of(OPERATIONS, 1)
    with ThreadPoolExecutor(1) as trainer:
        training = trainer.submit(
            model.fit, DATA[3], validation_data=DATA[0], batch_size=10, epochs=10, verbose=0
        )
        results = results_of(model, jobs)
        history = training.result().history
    assert_right(results, jobs, expected)
    np.testing.assert_allclose(history["loss"], expected["evaluate", 3], **TOLERANCE)
    np.testing.assert_allclose(history["val_loss"], expected["evaluate", 0], **TOLERANCE)


def test_densities_do_not_wait_for_training():
    """A server goes on while its model trains: only what reports losses waits."""
    model, entered, answered = built_model(), threading.Event(), threading.Event()

    class Wait(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            entered.set()
            self.is_answered = answered.wait(60.0)

    wait = Wait()
    with ThreadPoolExecutor(2) as pool:
        training = pool.submit(model.fit, DATA[0], callbacks=[wait], verbose=0)
        assert entered.wait(60.0)
        evaluation = pool.submit(OPERATIONS["evaluate"], model, 1)
        for name in ("log_prob", "sample", "predict"):
            OPERATIONS[name](model, 0)
        assert not evaluation.done()
        answered.set()
        training.result()
        assert wait.is_answered
        np.testing.assert_allclose(evaluation.result(), OPERATIONS["evaluate"](model, 1), rtol=1e-6)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(recipe, id=name, marks=[] if name == "nsf" else pytest.mark.long)
        for name, recipe in RECIPES.items()
    ],
)
def test_first_use(recipe):
    """Each operation twice, all at once, in a model that nobody has built or traced."""
    names = ("log_prob", "sample", "predict", "evaluate")
    alone = compiled_model(recipe)
    expected = {name: np.asarray(OPERATIONS[name](alone, 0)) for name in names}
    model, start = compiled_model(recipe), threading.Barrier(THREADS)

    def run(name):
        start.wait()
        return np.asarray(OPERATIONS[name](model, 0))

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(run, names * 2))
    assert len(model.weights) == len(alone.weights)
    for name, result in zip(names * 2, results, strict=True):
        np.testing.assert_allclose(result, expected[name], **TOLERANCE, err_msg=name)


def test_first_use_beside_training():
    model, start = compiled_model(), threading.Barrier(THREADS)
    expected = compiled_model().log_prob(DATA[0])

    def run(i):
        start.wait()
        if i % 2:
            return model.fit(DATA[0], epochs=2, verbose=0).history["loss"]
        return np.asarray(model.log_prob(DATA[0]))

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(run, range(THREADS)))
    assert len(model.weights) == len(compiled_model().flow.flows) * 4
    for i, result in enumerate(results):
        value = -np.mean(expected) if i % 2 else expected
        np.testing.assert_allclose(result, value, **TOLERANCE)


def test_draws_without_a_seed_differ():
    model = built_model()
    with ThreadPoolExecutor(THREADS) as pool:
        draws = list(pool.map(lambda _: model.sample(1).numpy().tobytes(), range(32)))
    assert len(set(draws)) == len(draws)


@pytest.mark.slow
def test_first_use_of_compiled_code(with_xla):
    alone, model = compiled_model(jit_compile=True), compiled_model(jit_compile=True)
    jobs = [(name, 0) for name in ("log_prob", "sample", "predict", "evaluate")] * 4
    expected = {job: np.asarray(OPERATIONS[job[0]](alone, job[1])) for job in jobs[:4]}
    assert_right(results_of(model, jobs), jobs, expected)


def test_variational_evaluations():
    target = keras_nf.VariationalModel(
        keras_nf.iaf(EVENT, **SMALL), lambda x: -0.5 * keras.ops.sum((x - 1.0) ** 2, axis=-1)
    )
    target.compile()

    def evaluate(seed):
        return target.evaluate(batch_size=16, steps=3, seed=seed, verbose=0)

    seeds = [i % 4 for i in range(24)]
    alone = [evaluate(seed) for seed in range(4)]
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(evaluate, seeds))
    np.testing.assert_allclose(results, [alone[seed] for seed in seeds], rtol=1e-5)
