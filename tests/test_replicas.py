"""Training by replicas on one machine, here two logical devices, beside training on one device."""

import pytest
from processes import run_python

PROGRAM = """
    import contextlib, pathlib, sys, tempfile
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    sys.path.append("tests")
    import keras, numpy as np
    import keras_nf
    from cases import CASES

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    rng = np.random.default_rng(0)

    def data_of(case, rows):
        x = rng.uniform(0.1, 0.9, size=(rows, *case.data_shape)).astype("float32")
        condition = rng.normal(size=(rows, case.condition_size)).astype("float32")
        return {"x": x, "condition": condition} if case.condition_size else x

    def train(case, data, batch_size, scope):
        keras.utils.set_random_seed(1)
        with scope:
            model = keras_nf.FlowModel(case.flow())
            model.compile(keras.optimizers.SGD(1e-2, momentum=0.9), jit_compile=False)
        if not model.flow.adapted:
            model.adapt(data)
        options = {"batch_size": batch_size, "validation_data": data, "verbose": 0}
        return model, model.fit(data, epochs=2, **options).history

    def compare(case, rows, batch_size):
        data = data_of(case, rows)
        two, losses = train(case, data, batch_size, strategy.scope())
        one, expected = train(case, data, batch_size, contextlib.nullcontext())
        close = {"rtol": 1e-5, "atol": 1e-5}
        for a, b in zip(two.get_weights(), one.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, **close)
        for name in expected:
            np.testing.assert_allclose(losses[name], expected[name], **close)
        condition = data["condition"][:3] if case.condition_size else None
        for ask in (
            lambda model: model.evaluate(data, verbose=0),
            lambda model: model.predict(data, batch_size=batch_size, verbose=0),
            lambda model: model.sample(4, condition=condition, seed=2),
        ):
            np.testing.assert_allclose(ask(two), ask(one), rtol=1e-4, atol=1e-4)
        return two, data

    def write(two, data):
        folder = pathlib.Path(tempfile.mkdtemp())
        two.save(folder / "model.keras")
        two.export(folder / "export")
        x = data["x"] if isinstance(data, dict) else data
        loaded = keras.models.load_model(folder / "model.keras")
        served = tf.saved_model.load(str(folder / "export")).signatures["log_prob"]
        expected, close = two.predict(data, verbose=0), {"rtol": 1e-4, "atol": 1e-4}
        np.testing.assert_allclose(loaded.predict(data, verbose=0), expected, **close)
        if x is data:
            np.testing.assert_allclose(served(x=tf.constant(x))["log_prob"], expected, **close)
"""

RUN = """
    recipes = [case for case in CASES if case.public in keras_nf.recipes.__all__]
    for case in recipes:
        is_first = case.name == "recipe-real-nvp"
        if is_first or {every}:
            # No replica of images may be without rows.
            trained = compare(case, 34 if case.event_ndims > 1 else 33, 32)
            if is_first:
                compare(case, 7, 3)
            elif case.event_ndims > 1:
                try:
                    train(case, data_of(case, 33), 32, strategy.scope())
                except tf.errors.InvalidArgumentError as error:
                    assert "A replica got no rows" in str(error), error
                else:
                    raise AssertionError("Expected an error.")
            write(*trained)
            print(case.name)
"""


@pytest.mark.parametrize(
    ("every", "count"), [(False, 1), pytest.param(True, 12, marks=pytest.mark.slow)]
)
def test_two_replicas_train_as_one_device(every, count):
    names = run_python(PROGRAM + RUN.format(every=every)).split()
    assert len(names) >= count
