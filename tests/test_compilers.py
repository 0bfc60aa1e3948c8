"""Steps for compilers: their operations, shapes and dtypes, for devices that are not at hand too.

What TPUs run is what XLA has kernels for: `OPERATIONS` are those of our steps, each of which the
TPU build of TensorFlow 2.20 (the package `tensorflow-tpu`) registers for the device XLA_TPU_JIT,
with all dtypes of `DTYPES`. That build lowers graphs for TPUs also where there is none, and the
last test of this module does it where that build is installed, as for GPUs where the usual one is.

Other tests compare the numbers of compiled code: of each flow in test_bijector.py, of gradients in
test_sequential.py and test_recomputation.py, of fresh draws in test_sampling.py.
"""

import functools
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import FIRST_OF_RECIPES, RECIPES, perturb
from tensorflow.python.framework import kernels
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

ROWS, DRAWS = 4, 3

OPERATIONS = """
    Abs AddN AddV2 Any AssignAddVariableOp AssignSubVariableOp AssignVariableOp BatchMatMulV2
    BroadcastArgs BroadcastTo Cast ConcatOffset ConcatV2 Const Conv2D Conv2DBackpropFilter
    Conv2DBackpropInput DepthToSpace DivNoNan Exp Fill Floor FloorDiv FloorMod GatherV2 Greater
    GreaterEqual Identity IdentityN InvertPermutation IsFinite IsNan Less LessEqual Log LogicalAnd
    LogicalNot LogicalOr MatMul Maximum Mean Minimum Mul Neg NoOp Pack Pad PartitionedCall Pow Prod
    Range ReadVariableOp RealDiv Reciprocal Relu ReluGrad Reshape ReverseV2 SelectV2 Shape ShapeN
    Sigmoid Sign Slice Softplus SpaceToDepth Split SplitV Sqrt SqrtGrad Square SquaredDifference
    StatefulPartitionedCall StatelessRandomGetKeyCounter StatelessRandomNormalV2
    StatelessRandomUniformFullIntV2 StatelessRandomUniformV2 StatelessWhile StopGradient
    StridedSlice StridedSliceGrad Sub Sum Tanh TanhGrad Tile Transpose Unpack XlaDynamicUpdateSlice
"""

# Numbers, their places and truths; what names a variable has no dtype on a device.
DTYPES = {"float32", "int32", "int64", "bool", "resource"}

# Arguments of the graph, which no kernel computes.
ARGUMENTS = {"Placeholder"}


def of_case(case):
    condition = (None, case.condition_size) if case.condition_size else None
    return of_flow(case.flow, case.data_shape, condition)


def of_flow(make_flow, shape, condition=None):
    def make():
        model = keras_nf.FlowModel(make_flow())
        x = (None, *shape)
        model.build(x if condition is None else {"x": x, "condition": condition})
        return model

    return make


def pixels():
    glow = keras_nf.glow((2, 4, 1), levels=2, steps=1, hidden_units=(8,), seed=5)
    return keras_nf.Chain([glow, keras_nf.Logit(margin=1e-3), keras_nf.Dequantize(16, seed=0)])


def variational():
    def log_prob(x):
        return -0.5 * tf.reduce_sum(x**2, axis=-1)

    return keras_nf.VariationalModel(keras_nf.iaf(3, layers=2, hidden_units=(8,)), log_prob)


def recomputing():
    return keras_nf.real_nvp(4, layers=2, hidden_units=(8,), recompute=True)


# Operations of their own have these, too.
OTHERS = {"recipe-maf-conditional", "recipe-nsf-coupling"}
MODELS = {
    **{
        case.name: of_case(case)
        for case in RECIPES
        if case.name in {*FIRST_OF_RECIPES.values()} | OTHERS
    },
    # Kernels in tiles, and steps in blocks.
    "wide": of_flow(lambda: keras_nf.iaf(5, layers=1, hidden_units=(256, 256)), (5,)),
    "pixels": of_flow(pixels, (2, 4, 1)),
    "recomputing": of_flow(recomputing, (4,)),
    "variational": variational,
}


def models(plain, of=MODELS):
    """Run a test for some models, in a plain run for a few of them."""
    return pytest.mark.parametrize(
        "name",
        [pytest.param(n, marks=[] if n in plain else [pytest.mark.slow]) for n in of],
    )


every_model = models({*FIRST_OF_RECIPES.values(), "wide", "pixels"})
every_step = pytest.mark.parametrize("step", ["train", "density", "sample"])


def test_every_recipe_is_here():
    assert {*FIRST_OF_RECIPES} == {*keras_nf.recipes.__all__}


def make_model(name, optimizer="adam", **options):
    """Return a model for training, with weights that make no flow the identity."""
    model = MODELS[name]()
    perturb(model.flow)
    model.compile(optimizer, **options)
    model.optimizer.build(model.trainable_variables)
    return model


def inputs_of(model, make=tf.TensorSpec):
    """Return what steps take, or its specs: data, and a condition where the model has one."""
    x, size = make((ROWS, *model.flow.data_shape)), model.flow.condition_size
    return (x, make((ROWS, size))) if size else (x,)


def joined(x, condition=None):
    return x if condition is None else {"x": x, "condition": condition}


def functions_of(model):
    """Return each step as a function of tensors, and the specs of these."""
    inputs, seed = inputs_of(model), tf.TensorSpec([2], tf.int32)
    steps = {
        "train": (lambda *inputs: model.train_step((joined(*inputs),)), inputs),
        "density": (lambda *inputs: model.log_prob(*inputs), inputs),
        "sample": (lambda seed, *c: model.sample(DRAWS, *c, seed=seed), (seed, *inputs[1:])),
        "draw": (lambda *c: model.sample(DRAWS, *c), inputs[1:]),
    }
    if isinstance(model, keras_nf.VariationalModel):
        # Each row is a draw to be made.
        steps["train"] = model.train_step, (tf.TensorSpec((ROWS, 4), tf.int32),)
    return steps


def trace(model, step, **options):
    function, specs = functions_of(model)[step]
    function = tf.function(function, autograph=False, **options)
    return function, function.get_concrete_function(*specs), specs


def nodes_of(graph):
    """Return the nodes of a graph, and those of all functions that it calls."""
    definition = graph.graph.as_graph_def()
    library = {function.signature.name: function for function in definition.library.function}
    nodes, waiting = [], [definition.node]
    while waiting:
        for node in waiting.pop():
            nodes.append(node)
            called = [
                f.name for value in node.attr.values() for f in (value.func, *value.list.func)
            ]
            waiting += [library.pop(name).node_def for name in called if name in library]
    return nodes


@functools.cache
def compiled(name, step):
    """Return the nodes of a step, and its program as XLA takes it, a text."""
    function, graph, specs = trace(make_model(name), step, jit_compile=True)
    return nodes_of(graph), function.experimental_get_compiler_ir(*specs)(stage="hlo")


def dtypes_of(node):
    kinds = [kind for value in node.attr.values() for kind in (value.type, *value.list.type)]
    return {tf.as_dtype(kind).name for kind in kinds if kind}


def fits(node, kernel):
    """Return whether a kernel has all dtypes of a node."""
    for constraint in kernel.constraint:
        value = node.attr[constraint.name]
        if not {*value.list.type} | ({value.type} - {0}) <= {*constraint.allowed_values.list.type}:
            return False
    return True


@functools.cache
def kernels_of(operation):
    return kernels.get_registered_kernels_for_op(operation).kernel


@every_model
@every_step
def test_operations_are_those_of_compilers(name, step, with_xla):
    """With dtypes for which XLA has kernels, on each kind of device for which it is installed."""
    nodes, _ = compiled(name, step)
    assert {node.op for node in nodes} <= {*OPERATIONS.split()} | ARGUMENTS
    assert {dtype for node in nodes for dtype in dtypes_of(node)} <= DTYPES
    for device in ("XLA_CPU_JIT", "XLA_GPU_JIT"):
        for node in nodes:
            own = [k for k in kernels_of(node.op) if k.device_type == device]
            is_served = any(fits(node, kernel) for kernel in own)
            assert is_served or node.op in ARGUMENTS, (device, node.op, node.name)


def assert_static(program):
    """Check that XLA knows all sizes, and that nothing leaves the device or has 64 bits."""
    assert "f32[" in program
    # XLA writes <=5 for a size of which it knows a bound alone.
    for other in ("<=", "f64[", "custom-call", "infeed", "outfeed", " send(", " recv("):
        assert other not in program, other


@every_model
@every_step
def test_programs_are_static_and_stay_on_the_device(name, step, with_xla):
    assert_static(compiled(name, step)[1])


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *(("pixels", step) for step in ("train", "density", "sample", "draw")),
        *(
            pytest.param(name, "draw", marks=pytest.mark.slow)
            for name in MODELS
            if name not in OTHERS | {"pixels"}
        ),
    ],
)
def test_graphs_hold_nothing_that_python_drew(name, step):
    """Nor anything else that differs from one time that a step is traced to the next."""
    model, descriptions = make_model(name), []
    for _ in range(2):
        nodes = nodes_of(trace(model, step)[1])
        values = [(node.op, node.attr["value"].tensor.SerializeToString()) for node in nodes]
        descriptions.append(values)
    assert descriptions[0] == descriptions[1]


@models({"recipe-real-nvp", "pixels"})
def test_draws_follow_the_seed(name):
    model = make_model(name)
    function, _, (_, *specs) = trace(model, "sample")
    condition = [tf.ones(spec.shape) for spec in specs]
    first, second, again = (function(tf.constant([0, s]), *condition) for s in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    events = np.reshape([first, second], (-1, np.prod(model.flow.data_shape)))
    assert len(np.unique(events, axis=0)) == len(events)


@models(
    {"recipe-real-nvp"}, of=["recipe-real-nvp", "recipe-maf", "recipe-glow", "recipe-nsf", "wide"]
)
def test_compiled_training_is_that_of_a_graph(name, with_xla):
    """Where no noise is drawn: XLA has generators of its own."""
    rng, changes = np.random.default_rng(0), []
    x, *condition = inputs_of(make_model(name), rng.standard_normal)
    for jit_compile in (False, True):
        model = make_model(name, keras.optimizers.SGD(0.01), jit_compile=jit_compile)
        before = model.get_weights()
        model.fit(joined(x, *condition), batch_size=ROWS, verbose=0)
        changes.append([b - a for a, b in zip(before, model.get_weights())])
    # Roundings of numbers of size one, beside steps of some hundredths.
    largest = max(np.abs(change).max() for change in changes[0])
    assert largest > 1e-3
    for actual, expected in zip(changes[1], changes[0]):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * largest)


def with_gradients(model):
    def function(*inputs):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model.log_prob(*inputs))
        return loss, tape.gradient(loss, model.trainable_variables)

    return function, inputs_of(model)


def program_for_accelerators(name, step):
    """Return a program with numbers in place of the weights, which have no device there."""
    model = make_model(name)
    function, specs = {**functions_of(model), "gradients": with_gradients(model)}[step]
    graph = tf.function(function, autograph=False).get_concrete_function(*specs)
    frozen = convert_variables_to_constants_v2(graph, lower_control_flow=False)
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in frozen.inputs]
    lowered = tf.function(lambda *a: frozen(*a), jit_compile=True, autograph=False)
    is_for_tpus = any(kernel.device_type == "XLA_TPU_JIT" for kernel in kernels_of("MatMul"))
    platform = "TPU" if is_for_tpus else "GPU"
    return lowered.experimental_get_compiler_ir(*specs)(stage="hlo", platform_name=platform)


@models({"recipe-real-nvp"})
@pytest.mark.parametrize("step", ["sample", "gradients"])
def test_programs_for_accelerators(name, step, with_xla):
    assert_static(program_for_accelerators(name, step))


@pytest.mark.parametrize(
    "name", ["recipe-nsf", pytest.param("recipe-glow", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("is_short", [False, True])
def test_products_have_the_precision_that_tensorflow_is_told(name, is_short, with_xla):
    """Linear layers and knots of splines are products too."""
    default = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(is_short)
    try:
        program = program_for_accelerators(name, "density")
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(default)
    products = re.findall(r".* (?:dot|convolution)\(.*", program)
    highest = [line for line in products if "operand_precision={highest,highest}" in line]
    assert products
    assert len(highest) == (0 if is_short else len(products))


def test_one_place_knows_of_devices():
    """And one more puts arrays into the memory of the host."""
    package = pathlib.Path(keras_nf.__file__).parent
    names = re.compile(r"list_(logical|physical)_devices|device_type|tf\.device\(|cpu_count")
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if names.search(path.read_text())
    }
    assert found == {"layout.py", "models/pipeline.py"}
