"""Private names: those of Keras, TensorFlow and TFP are listed, those of other modules not read."""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import textwrap

import keras
import pytest
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from tensorflow.python.distribute import values
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import keras_nf

# A name beside the public class that has it, itself or from a base.
NAMES = [
    (keras.Layer, "_auto_config"),
    (keras.Layer, "_flatten_layers"),
    (keras.Layer, "_get_node_attribute_at_index"),
    (keras.Layer, "_inbound_nodes"),
    (keras.Layer, "_no_dependency"),
    (keras.Layer, "_non_trainable_variables"),
    (keras.Layer, "_post_build"),
    (keras.Layer, "_track_trackable"),
    (keras.Layer, "_trackable_children"),
    (keras.Layer, "_trainable_variables"),
    (keras.Model, "_distribute_strategy"),
    (keras.Model, "_initial_epoch"),
    (keras.Model, "_maybe_symbolic_build"),
    (keras.Model, "_use_cached_eval_dataset"),
    (TFEpochIterator, "_distributed_dataset"),
    (values.PerReplicaSpec, "_value_specs"),
    (keras.Variable, "_value"),
    (keras.Variable, "_trainable"),
    (tfb.Bijector, "_cache"),
    (tfb.Bijector, "_forward"),
    (tfb.Bijector, "_forward_dtype"),
    (tfb.Bijector, "_forward_event_shape"),
    (tfb.Bijector, "_forward_event_shape_tensor"),
    (tfb.Bijector, "_forward_log_det_jacobian"),
    (tfb.Bijector, "_inverse"),
    (tfb.Bijector, "_inverse_event_shape"),
    (tfb.Bijector, "_inverse_event_shape_tensor"),
    (tfb.Bijector, "_inverse_log_det_jacobian"),
    (tfb.Bijector, "_is_increasing"),
    (tfb.Bijector, "_parameter_properties"),
    (tfd.TransformedDistribution, "_batch_shape"),
    (tfd.TransformedDistribution, "_batch_shape_tensor"),
    (tfd.TransformedDistribution, "_call_sample_n"),
    (tfd.TransformedDistribution, "_event_shape"),
    (tfd.TransformedDistribution, "_cdf"),
    (tfd.TransformedDistribution, "_log_prob"),
    (tfd.TransformedDistribution, "_quantile"),
    (tfd.TransformedDistribution, "_parameter_properties"),
    (tfd.TransformedDistribution, "_sample_and_log_prob"),
    (tfd.TransformedDistribution, "_sample_n"),
]

# What is imported from a module that is not public.
IMPORTS = [
    "tensorflow.python.eager.forwardprop_util.pack_tangents",
    "tensorflow.python.eager.record.could_possibly_record",
    "tensorflow.python.eager.record.stop_recording",
]

PACKAGE = pathlib.Path(keras_nf.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
HOSTS = ("keras", "tensorflow", "tensorflow_probability")


def private_names(tree, *kinds):
    """Names with an underscore in nodes of some kinds; strings count, as in `getattr`."""
    parts = {p for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for p in node.values}
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds) and node not in parts]
    fields = ("attr", "name", "arg", "id", "value")
    names = {getattr(node, field, None) for node in nodes for field in fields}
    return {name for name in names if isinstance(name, str) and re.fullmatch(r"_[a-z]\w*", name)}


def definitions(tree):
    """Private names of functions, classes, arguments, and of variables and attributes set."""
    stores = [node for node in ast.walk(tree) if isinstance(getattr(node, "ctx", None), ast.Store)]
    names = [private_names(store, type(store)) for store in stores]
    return private_names(tree, ast.FunctionDef, ast.ClassDef, ast.arg).union(*names)


def private_imports(tree):
    """What is used of modules like `tensorflow.python` and `keras.src`, which are not public."""
    modules, names = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            modules |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            names.add(".".join([modules.get(first, ""), *rest]))
    names = {name for name in names | {*modules.values()} if name.split(".")[0] in HOSTS}
    private = {n for n in names if re.search(r"\.(python|src|_[a-z]\w*|__internal__)(\.|$)", n)}
    return {name for name in private if not any(n.startswith(f"{name}.") for n in private)}


def source_of(cls):
    return ast.parse(textwrap.dedent(inspect.getsource(cls)))


@functools.cache
def names_of_hosts(cls):
    """Private names in the part of a class that Keras, TensorFlow or TFP define."""
    hosts = [base for base in cls.__mro__ if base.__module__.split(".")[0] in HOSTS]
    return set().union(*(private_names(source_of(base), ast.AST) for base in hosts))


def classes_of(path):
    name = ".".join(["keras_nf", *pathlib.PurePath(path).with_suffix("").parts])
    module = importlib.import_module(name.removesuffix(".__init__"))
    return [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == name]


def members_of_others(tree):
    """Private names that are read of other objects than `self`, `cls` and `super()`."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    others = [a for a in attributes if ast.unparse(a.value) not in ("self", "cls", "super()")]
    return {a.attr for a in others if re.fullmatch(r"_[a-z]\w*", a.attr)}


TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
DEFINED = {name: definitions(tree) for name, tree in TREES.items()}
OURS = set().union(*DEFINED.values())
LISTED = {name for _, name in NAMES}


@pytest.mark.parametrize(("owner", "name"), NAMES, ids=lambda x: getattr(x, "__name__", x))
def test_name_exists(owner, name):
    assert name in names_of_hosts(owner), f"{owner} has no {name} in the installed release."


@pytest.mark.parametrize("name", IMPORTS)
def test_import_exists(name):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


@functools.cache
def names_in_use():
    in_use = [private_names(tree, ast.AST) | private_imports(tree) for tree in TREES.values()]
    return set().union(*in_use)


@pytest.mark.parametrize("name", [*sorted(LISTED), *IMPORTS])
def test_listed_name_is_in_use(name):
    assert name in names_in_use(), f"Take {name} out of the list."


@pytest.mark.parametrize("path", SOURCES)
def test_foreign_names_are_listed(path):
    assert private_names(TREES[path], ast.AST) - OURS - LISTED == set()


@pytest.mark.parametrize("path", SOURCES)
def test_overridden_names_are_listed(path):
    for cls in classes_of(path):
        assert definitions(source_of(cls)) & names_of_hosts(cls) - LISTED == set(), cls


# What a flow and those that hold it share; see `Door`.
SHARED = {"_run"}


@pytest.mark.parametrize("path", SOURCES)
def test_module_leaves_private_members_of_others_alone(path):
    others = set().union(*(names for name, names in DEFINED.items() if name != path))
    used = members_of_others(TREES[path]) - DEFINED[path]
    assert used & others <= SHARED


@pytest.mark.parametrize("path", SOURCES)
def test_private_imports_are_listed(path):
    assert private_imports(TREES[path]) - {*IMPORTS} == set()


def test_names_are_read():
    tree = ast.parse(
        "import keras.src.ops as o\n"
        "from tensorflow.python.eager import record, context as c\n"
        "o.add(f(_a=x._b, y=getattr(x, '_c')))\n"
        "record.g(tf.__internal__)\n"
        "def _d(self, _e):\n"
        "    self._f = _g = 0\n"
    )
    assert private_names(tree, ast.AST) == {"_a", "_b", "_c", "_d", "_e", "_f", "_g"}
    assert definitions(tree) == {"_d", "_e", "_f", "_g"}
    tree_of_others = ast.parse("a._b(self._c, super()._d, cls._e, x.y._f)")
    assert members_of_others(tree_of_others) == {"_b", "_f"}
    assert private_imports(tree) == {
        "keras.src.ops.add",
        "tensorflow.python.eager.context",
        "tensorflow.python.eager.record.g",
    }


def test_classes_are_read():
    assert "_forward" in definitions(source_of(keras_nf.Flow.__mro__[2]))
    assert {"_forward_dtype", "_post_build"} <= names_of_hosts(keras_nf.Flow)
    assert keras_nf.Planar in classes_of("flows/planar.py")
