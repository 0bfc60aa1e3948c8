"""What the two frameworks, the package's layers and its import agree on."""

import ast
import fnmatch
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import COMPILED
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import keras_nf

PACKAGE = pathlib.Path(keras_nf.__file__).parent


# Attributes that both frameworks define.

COLLISIONS = [
    "__call__",
    "dtype",
    "name",
    "non_trainable_variables",
    "trainable_variables",
    "variables",
]


def attributes(instance, shared):
    """Names on an instance and its classes, but for those of classes shared with the other."""
    classes = [cls for cls in type(instance).__mro__ if cls not in shared]
    return set(vars(instance)).union(*(vars(cls) for cls in classes))


def collisions():
    layer, bijector = keras.layers.Identity(), tfb.Identity()
    layer(tf.ones((1, 2)))
    bijector.forward_log_det_jacobian(tf.ones((1, 2)), event_ndims=1)
    shared = set(type(layer).__mro__) & set(type(bijector).__mro__)

    class Empty:
        pass

    # Python gives a class its annotations when something first asks for them.
    every_class_has = set(dir(Empty)) | {"__annotations__"}
    return (attributes(layer, shared) & attributes(bijector, shared)) - every_class_has


def test_colliding_attributes_are_the_known_ones():
    new = sorted(collisions() - set(COLLISIONS))
    gone = sorted(set(COLLISIONS) - collisions())
    assert not new, f"Layer and Bijector now both define {new}: settle each in Flow, then add it."
    assert not gone, f"Layer and Bijector no longer both define {gone}: remove each here, in Flow."


@pytest.mark.parametrize("name", COLLISIONS)
def test_flow_settles_every_collision(name):
    own = [vars(cls) for cls in keras_nf.Flow.__mro__ if cls.__module__.startswith("keras_nf.")]
    assert any(name in members for members in own)


# Imports: a module sees only modules of rows above its own.

ROWS = [
    ["increasing.py"],
    ["arguments.py", "config.py", "datasets/*.py", "training.py", "elementwise/*.py"],
    ["convert/arrays.py", "convert/maps.py"],
    ["inputs.py", "layout.py"],
    ["models/alarm.py", "models/replicas.py"],
    ["tables/frames.py", "tables/grid.py", "tables/regions.py"],
    ["tables/columns.py"],
    ["tables/labels.py", "tables/numbers.py"],
    ["tables/preparation.py"],
    ["root.py", "seeds.py", "moments.py"],
    ["models/files.py", "models/*metrics.py", "models/rows.py"],
    ["permutation.py"],
    ["partition.py", "models/pipeline.py"],
    ["networks/masks.py", "networks/masked.py", "networks/stairs.py"],
    ["flow/arguments.py", "flow/batch.py", "flow/cache.py", "flow/univariate.py"],
    ["flow/adaptation.py", "flow/bijector.py", "flow/members.py", "flow/recomputation.py"],
    ["flow/distribution.py", "flow/door.py"],
    ["flow/contract.py", "base.py"],
    ["bases/location_scale.py", "bases/mixture.py", "models/export.py", "twin.py", "round_trip.py"],
    ["networks/mlp.py", "networks/autoregressive.py"],
    ["networks/sequential.py", "networks/conv.py"],
    ["networks/made.py"],
    ["bases/autoregressive_mixture.py"],
    ["flows/*.py"],
    ["convert/networks.py"],
    ["convert/nflows.py", "convert/tfp.py", "convert/zuko.py"],
    ["recipes/layers.py"],
    ["recipes/[!l]*.py"],
    ["models/batches.py", "models/marginals.py"],
    ["models/density.py", "models/density_head.py"],
    ["models/flow_model.py", "models/variational.py"],
    ["plot/figures.py", "diagnostics/check.py", "diagnostics/result.py", "diagnostics/stat*.py"],
    ["plot/[!f]*.py", "diagnostics/subject.py", "diagnostics/weights.py"],
    ["diagnostics/uniform.py", "diagnostics/moments.py"],
    ["diagnostics/regions.py", "diagnostics/classifier.py", "diagnostics/maps.py"],
    ["diagnostics/summary.py", "diagnostics/callbacks.py"],
    ["sklearn/estimator.py"],
    ["sklearn/density.py"],
    ["sklearn/conditional.py"],
]

MODULES = sorted(
    str(path.relative_to(PACKAGE).as_posix())
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)


def row_of(module):
    return [
        row
        for row, patterns in enumerate(ROWS)
        if any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)
    ]


def imported_modules(module):
    """Files of the package that a module imports, also inside functions."""
    tree = ast.parse((PACKAGE / module).read_text())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import, which this test cannot read."
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = {f"{name.replace('.', '/')}.py".removeprefix("keras_nf/") for name in names}
    if any(name.split(".")[0] == "keras_nf" for name in names):
        assert files & set(MODULES), f"{module} imports the package itself, not its modules."
    return files & set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_module_has_one_row(module):
    assert len(row_of(module)) == 1, f"Give {module} a row in ROWS."


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_from_rows_above_alone(module):
    wrong = [other for other in imported_modules(module) if row_of(other) >= row_of(module)]
    assert wrong == []


def test_imports_are_read():
    assert imported_modules("networks/mlp.py") == {"layout.py"}
    assert "flow/contract.py" in imported_modules("flows/planar.py")
    assert "networks/made.py" in imported_modules("flows/autoregressive.py")


# Keras's backend.


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# Stand-ins for Keras: other backends need not be installed.
BACKENDS = {
    "installed": """
        import sys, types
        keras = types.ModuleType("keras")
        keras.backend = types.SimpleNamespace(backend=lambda: "jax")
        sys.modules["keras"] = keras
        import keras_nf
    """,
    "missing": """
        import sys
        sys.modules["jax"] = None
        import keras_nf
    """,
}


@pytest.mark.parametrize("code", BACKENDS.values(), ids=BACKENDS.keys())
def test_another_backend_is_refused_in_one_sentence(code):
    result = run_python(code, KERAS_BACKEND="jax")
    assert result.returncode == 1
    assert "ImportError: keras_nf needs Keras's TensorFlow backend" in result.stderr
    assert "the backend is 'jax'" in result.stderr
    assert "KERAS_BACKEND=tensorflow" in result.stderr


def test_import_leaves_the_global_settings_alone():
    result = run_python(
        """
        import keras, numpy as np, random, tensorflow as tf
        random.seed(0); np.random.seed(0)
        before = keras.config.floatx(), str(keras.config.dtype_policy()), random.getstate()
        state = np.random.get_state()[1].tolist()
        import keras_nf
        after = keras.config.floatx(), str(keras.config.dtype_policy()), random.getstate()
        assert before == after
        assert np.random.get_state()[1].tolist() == state
        assert tf.executing_eagerly()
        # Nothing was computed: TensorFlow would be set up, and take no settings of devices.
        (cpu, *_) = tf.config.list_physical_devices("CPU")
        devices = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, devices)
        """
    )
    assert result.returncode == 0, result.stderr


# What the two frameworks quarrel about.


def test_keras_name_is_the_name_of_the_bijector():
    flow = keras_nf.Scaling(name="my-scaling")
    assert flow.name == "my-scaling"
    assert flow(tfd.MultivariateNormalDiag(tf.zeros(2))).bijector.name == "my-scaling"


def test_default_names_are_unique():
    one, other = keras_nf.Scaling(), keras_nf.Scaling()
    assert one.name != other.name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_a_tensorflow_dtype_and_equals_the_string(dtype):
    flow = keras_nf.Scaling(dtype=dtype)
    assert isinstance(flow.dtype, tf.DType)
    assert flow.dtype == dtype
    assert flow.dtype_policy.name == dtype


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_dtype_of_a_mixed_policy_is_that_of_the_weights(policy):
    flow = keras_nf.Scaling(dtype=policy)
    assert flow.dtype == tf.float32
    assert flow.dtype_policy.name == policy


def test_numbers_of_another_float_dtype_are_cast():
    flow = keras_nf.Scaling(dtype="float32")
    assert flow.forward(np.ones((2, 3), "float64")).dtype == tf.float32


def test_equality_and_hash_are_those_of_the_object():
    one, other = keras_nf.Scaling(name="flow"), keras_nf.Scaling(name="flow")
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_cache_remembers_nothing():
    flow = keras_nf.Scaling()
    x = tf.ones((2, 3))
    y = flow.forward(x)
    flow.log_scale.assign([1.0, 2.0, 3.0])
    np.testing.assert_allclose(flow.forward(x), np.exp([[1.0, 2.0, 3.0]] * 2), rtol=1e-6)
    # With TFP's cache this would be x, whatever the weights.
    np.testing.assert_allclose(flow.inverse(y), np.exp([[-1.0, -2.0, -3.0]] * 2), rtol=1e-6)


def test_variables_are_those_of_keras():
    flow = keras_nf.maf(event_size=2, layers=2, hidden_units=(4,))
    flow.build((None, 2))
    assert len(flow.trainable_variables) == 8
    for own, collected in [
        (flow.weights, flow.variables),
        (flow.trainable_weights, flow.trainable_variables),
        (flow.non_trainable_weights, flow.non_trainable_variables),
    ]:
        assert [id(weight) for weight in own] == [id(variable) for variable in collected]
    flow.trainable = False
    assert flow.trainable_variables == []
    assert len(flow.non_trainable_variables) == 8


def test_batch_shape_has_no_part_in_the_weights():
    flow = keras_nf.Scaling()
    flow.build((None, 3))
    assert flow.experimental_batch_shape() == ()
    assert flow(tfd.MultivariateNormalDiag(tf.zeros(3))).batch_shape == ()


def flows_that_compute_in_build():
    return keras_nf.Chain(
        [
            keras_nf.MaskedAutoregressive(order="random", hidden_units=(4,)),
            keras_nf.Permute("random"),
            keras_nf.AffineCoupling(mask="random", hidden_units=(4,)),
            keras_nf.Planar(),
            keras_nf.Logit(-10.0, 10.0),
            keras_nf.Standardize(),
        ]
    )


@COMPILED
def test_flow_built_by_fit_works_eagerly_afterwards(jit_compile):
    flow = flows_that_compute_in_build()
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    model = keras.Sequential([flow])
    model.compile("sgd", "mse", jit_compile=jit_compile)
    model.fit(x, x, verbose=0)
    z = flow.inverse(flow.forward(x))
    np.testing.assert_allclose(z, x, atol=1e-4)
    assert np.isfinite(flow(tfd.MultivariateNormalDiag(tf.zeros(3))).log_prob(x)).all()


def test_flow_model_built_by_fit_works_eagerly_afterwards():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    model = keras_nf.FlowModel(flows_that_compute_in_build())
    model.adapt(x)
    model.compile("sgd")
    model.fit(x, verbose=0)
    assert np.isfinite(model.log_prob(x)).all()
    assert np.isfinite(model.sample(5, seed=1)).all()


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_first_call_inside_a_function_builds(direction):
    flow = flows_that_compute_in_build()
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    value, log_det = tf.function(getattr(flow, f"{direction}_and_log_det"))(x)
    assert flow.built
    assert len(flow.trainable_variables) == 11
    assert flow.event_size == 3
    expected = getattr(flow, f"{direction}_and_log_det")(x)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_det, expected[1], rtol=1e-5, atol=1e-5)


def test_first_call_through_tfp_builds():
    flow = keras_nf.Scaling()
    dist = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), flow)
    dist.log_prob(tf.zeros((3, 2)))
    assert flow.built
    assert [v is w.value for v, w in zip(dist.trainable_variables, flow.weights)] == [True]


def test_flow_of_a_bijector_is_a_tfp_chain():
    flow = keras_nf.Scaling()
    flow.build((None, 2))
    flow.log_scale.assign([1.0, 2.0])
    inner = tfb.Exp()
    chain = flow(inner)
    # TFP makes another class of a chain whose members are no composite tensors.
    assert type(chain) is type(tfb.Chain([flow]))
    assert [bijector is own for bijector, own in zip(chain.bijectors, [flow, inner])] == [True] * 2
    x = tf.constant([[0.5, -0.5]])
    np.testing.assert_allclose(chain.forward(x), np.exp([[1.5, 1.5]]), rtol=1e-6)
    np.testing.assert_allclose(
        tfb.Exp()(flow).forward(x), np.exp([[0.5 * np.e, -0.5 * np.e**2]]), rtol=1e-6
    )


def test_flow_of_a_flow_is_a_tfp_chain():
    flow = keras_nf.Scaling()
    chain = flow(keras_nf.Permute((1, 0)))
    assert type(chain) is type(tfb.Chain([flow]))
    np.testing.assert_array_equal(chain.forward(tf.constant([[1.0, 2.0]])), [[2.0, 1.0]])


def test_flow_of_a_distribution_is_a_transformed_distribution():
    flow = keras_nf.Scaling()
    base = tfd.MultivariateNormalDiag(tf.zeros(2))
    dist = flow(base)
    assert isinstance(dist, tfd.TransformedDistribution)
    assert dist.bijector is flow
    assert dist.distribution is base
    assert dist.event_shape == (2,)
    assert dist.dtype == tf.float32


def test_flow_of_a_tensor_is_a_layer_call():
    flow = keras_nf.Permute((1, 0))
    np.testing.assert_array_equal(flow(tf.constant([[1.0, 2.0]])), [[2.0, 1.0]])
    assert isinstance(flow(keras.Input((2,))), keras.KerasTensor)


def test_symbolic_tensor_reaches_a_method_that_uses_tensorflow():
    class Cube(keras_nf.Flow):
        def _forward_and_log_det(self, x, condition=None):
            return tf.pow(x, 3.0), tf.reduce_sum(tf.math.log(3.0 * tf.square(x)), axis=-1)

        def _inverse_and_log_det(self, y, condition=None):
            x = tf.sign(y) * tf.pow(tf.abs(y), 1.0 / 3.0)
            return x, -tf.reduce_sum(tf.math.log(3.0 * tf.square(x)), axis=-1)

    inputs = keras.Input((2,))
    model = keras.Model(inputs, Cube()(inputs))
    np.testing.assert_allclose(model(np.array([[2.0, 3.0]], "float32")), [[8.0, 27.0]], rtol=1e-6)


# The door.


def calls_within(function):
    """Names of the package's functions that a call runs, in order."""
    names = []

    def note(frame, event, argument):
        if event == "call" and str(PACKAGE) in frame.f_code.co_filename:
            names.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("depth", [1, 3])
def test_arguments_are_prepared_once(direction, depth):
    flow = keras_nf.AffineCoupling(hidden_units=(8,))
    for _ in range(depth):
        flow = keras_nf.Chain([flow, keras_nf.Invert(keras_nf.Planar(amortized=True))])
    x, condition = np.ones((5, 2), "float32"), np.ones((5, 3), "float32")
    method = getattr(flow, f"{direction}_and_log_det")
    method(x, condition)
    names = calls_within(lambda: method(x, condition))
    assert [names.count(name) for name in ("to_events", "to_condition", "broadcast_batch")] == [
        1
    ] * 3
    # What comes back is checked for each flow.
    assert names.count("check_result") == 1 + 3 * depth


def test_a_density_of_a_chain_makes_few_calls():
    flow = keras_nf.Chain([keras_nf.AffineCoupling(hidden_units=(8,))])
    x = np.ones((5, 2), "float32")
    flow.inverse_and_log_det(x)
    assert len(calls_within(lambda: flow.inverse_and_log_det(x))) < 110


def test_public_directions_are_not_to_be_overridden():
    with pytest.raises(
        TypeError, match="Mine must implement `_inverse_and_log_det`, with an under"
    ):

        class Mine(keras_nf.Flow):
            def inverse_and_log_det(self, y, condition=None):
                return y, y[..., 0]


MEMBERS = {
    "size": (lambda: keras_nf.Scaling(), ((None, 3),), "inputs of shape"),
    "condition": (
        lambda: keras_nf.AffineCoupling(hidden_units=(4,)),
        ((None, 2), (None, 3)),
        "was built with a condition of size 3",
    ),
}


@pytest.mark.parametrize("hold", [lambda flow: keras_nf.Chain([flow]), keras_nf.Invert])
@pytest.mark.parametrize(("member", "shapes", "message"), MEMBERS.values(), ids=MEMBERS)
def test_built_members_of_other_sizes_are_refused(hold, member, shapes, message):
    flow = member()
    flow.build(*shapes)
    with pytest.raises(ValueError, match=f"{flow.name}.*{message}"):
        hold(flow)(np.ones((5, 2), "float32"))


@pytest.mark.parametrize(
    "hold",
    [lambda f: keras_nf.Chain([f], dtype="float64"), lambda f: keras_nf.Invert(f, dtype="float64")],
)
def test_members_of_another_dtype_are_refused(hold):
    with pytest.raises(ValueError, match=r"float64, but Scaling '.*' float32"):
        hold(keras_nf.Scaling(dtype="float32"))


def test_a_member_checks_its_own_arguments():
    chain = keras_nf.Chain(
        [keras_nf.Scaling(), keras_nf.Scaling(validate_args=True, name="strict")]
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="'strict' received NaN"):
        chain.forward(np.array([[np.nan, 1.0]], "float32"))
