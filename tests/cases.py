"""The table of flows over which the contract suites run: a row per configuration."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

import keras_nf

# A pass rounds some hundred times, by 1e-16 or 6e-8 of the numbers, most of it random in sign; maps
# whose slopes lie between about e^-3 and e^3 stretch that.
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}

# A program of XLA takes seconds, and memory for as long as the process lives.
COMPILED = pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "xla"]
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration of one flow, and what is known of it.

    name: id of the row.
    public: the public name that makes the flow.
    flow: constructor; takes `dtype` and other keyword arguments.
    event_size: size of the event, or the shape of one of several axes, as the base has it.
    weights: number of trainable weights.
    fixed: number of weights that are saved, but not trained.
    conditional: whether it can take a condition.
    condition_size: size of the condition; 0 for a flow without one.
    affine: whether the map is affine, and says so.
    kept: components that come out as they went in.
    idle: trainable weights, by index, on which nothing depends: kernels masked altogether.
    inverse_evaluations, forward_evaluations: how many times a direction evaluates a network;
      `None` where it is sequential.
    base: base distribution on the flow's domain, one of `"normal"`, `"uniform"`.
    data: interval from which valid inputs of the inverse are drawn, for all components or each.
    image: shape of the data, where it is not that of the base.
    """

    name: str
    public: str
    flow: Callable
    event_size: int | tuple
    weights: int = 0
    fixed: int = 0
    conditional: bool = False
    condition_size: int = 0
    affine: bool = False
    kept: tuple = ()
    idle: tuple = ()
    inverse_evaluations: int | None = 0
    forward_evaluations: int | None = 0
    base: str = "normal"
    data: tuple = (-3.0, 3.0)
    image: tuple | None = None

    @property
    def base_shape(self):
        return self.event_size if isinstance(self.event_size, tuple) else (self.event_size,)

    @property
    def data_shape(self):
        return self.image or self.base_shape

    @property
    def event_ndims(self):
        return len(self.base_shape)

    @property
    def size(self):
        """Number of components."""
        return int(np.prod(self.base_shape))

    def shape_from(self, direction):
        """Shape of the events that a direction returns."""
        return self.data_shape if direction == "forward" else self.base_shape


def couple(name, public, *, event_size, network_weights=4, **columns):
    """Row of a coupling, which evaluates one network in either direction."""
    return Case(
        name,
        public,
        event_size=event_size,
        weights=network_weights,
        conditional=True,
        inverse_evaluations=1,
        forward_evaluations=1,
        **columns,
    )


def masked(name, flow, *, public="MaskedAutoregressive", weights=4, **columns):
    """Row of an autoregressive flow whose density evaluates one network."""
    evaluations = {"inverse_evaluations": 1, "forward_evaluations": None}
    return Case(
        name,
        public,
        flow,
        weights=weights,
        conditional=True,
        **{**evaluations, **columns},
    )


def inverse_masked(name, flow, *, weights=4, **columns):
    """Row of an IAF, whose sampling evaluates one network."""
    evaluations = {"inverse_evaluations": None, "forward_evaluations": 1}
    return Case(
        name,
        "InverseAutoregressive",
        flow,
        weights=weights,
        conditional=True,
        **{**evaluations, **columns},
    )


SMALL = {"hidden_units": (8,), "activation": "tanh"}
IMAGES = {"event_ndims": 3, **SMALL}
RESIDUAL = {"hidden_units": (8, 8, 8), "activation": "tanh", "residual": True}


def network(units, dtype):
    """A conditioner of the user's own, of a functional kind that holds further layers."""
    return keras.Sequential(
        [
            keras.layers.Dense(6, "gelu", dtype=dtype),
            keras.layers.LayerNormalization(dtype=dtype),
            keras.layers.Dense(units, dtype=dtype),
        ]
    )


@keras.saving.register_keras_serializable("cases")
class MeansOfEarlier(keras_nf.AutoregressiveNetwork):
    """An autoregressive network of the user's own."""

    parameters = 2

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        dense = functools.partial(keras.layers.Dense, dtype=self.dtype_policy)
        self.hidden, self.last = dense(6, "tanh"), dense(self.parameters)
        self.of_condition = dense(6, use_bias=False)

    def call(self, inputs, condition=None):
        size = inputs.shape[-1]
        earlier = ops.pad(inputs[:, :-1], ((0, 0), (1, 0)))
        means = ops.cumsum(earlier, axis=1) / np.arange(1, size + 1)
        h = self.hidden(ops.stack([earlier, means], axis=-1))
        if condition is not None:
            h = h + self.of_condition(condition)[:, None]
        outputs = ops.transpose(self.last(ops.tanh(h)), (0, 2, 1))
        return ops.reshape(outputs, (-1, self.parameters * size))


def scheme(dtype=None, **kwargs):
    network = MeansOfEarlier(dtype=dtype, name="network")
    affine = keras_nf.elementwise.Affine()
    return keras_nf.Autoregressive(affine, conditioner=network, dtype=dtype, **kwargs)


def of(flow, **options):
    """Constructor with options that do not depend on the dtype."""
    return lambda **kwargs: flow(**options, **kwargs)


def with_network(flow, units, **options):
    return lambda dtype=None, **kwargs: flow(
        conditioner=network(units, dtype), dtype=dtype, **options, **kwargs
    )


def chain(*flows):
    return lambda dtype=None, **kwargs: keras_nf.Chain(
        [flow(dtype=dtype) for flow in flows], dtype=dtype, **kwargs
    )


def scales(*flows):
    return lambda dtype=None, **kwargs: keras_nf.Multiscale(
        chain(*flows)(dtype), dtype=dtype, **kwargs
    )


def invert(flow):
    return lambda dtype=None, **kwargs: keras_nf.Invert(flow(dtype=dtype), dtype=dtype, **kwargs)


Scaling, Planar = keras_nf.Scaling, keras_nf.Planar
Additive, AffineCoupling = keras_nf.AdditiveCoupling, keras_nf.AffineCoupling
MAF, IAF = keras_nf.MaskedAutoregressive, keras_nf.InverseAutoregressive
Permute, Standardize = keras_nf.Permute, keras_nf.Standardize
Log, Logit = keras_nf.Log, keras_nf.Logit
SplineCoupling, SplineAutoregressive = keras_nf.SplineCoupling, keras_nf.SplineAutoregressive
# Within the events of the rows, so that some lie beyond it.
SPLINE = {"bins": 4, "bound": 2.0, **SMALL}

CASES = [
    Case("scaling", "Scaling", Scaling, 3, weights=1, affine=True),
    Case("scaling-shift", "Scaling", of(Scaling, use_shift=True), 3, weights=2, affine=True),
    *(
        Case(f"planar-{h}", "Planar", of(Planar, activation=h), 2, weights=3)
        for h in ("tanh", "sigmoid", "arctan", "softplus", "elu")
    ),
    Case("planar-single", "Planar", Planar, 1, weights=3),
    Case("planar-wide", "Planar", Planar, 5, weights=3),
    Case("planar-deep", "Planar", of(Planar, folds=4), 3, weights=3),
    *(
        Case(
            f"planar-amortized-{event_size}",
            "Planar",
            of(Planar, folds=3, amortized=True),
            event_size,
            weights=4,
            conditional=True,
            condition_size=2,
        )
        for event_size in (1, 2, 3)
    ),
    couple(
        "additive-half", "AdditiveCoupling", flow=of(Additive, **SMALL), event_size=2, kept=(0,)
    ),
    couple(
        "additive-swapped",
        "AdditiveCoupling",
        flow=of(Additive, mask="alternating", swap=True, **SMALL),
        event_size=3,
        kept=(1,),
    ),
    couple(
        "additive-conditional",
        "AdditiveCoupling",
        flow=of(Additive, **SMALL),
        event_size=3,
        condition_size=2,
        kept=(0, 1),
    ),
    couple(
        "affine-half", "AffineCoupling", flow=of(AffineCoupling, **SMALL), event_size=2, kept=(0,)
    ),
    couple(
        "affine-alternating",
        "AffineCoupling",
        flow=of(AffineCoupling, mask="alternating", hidden_units=(8, 8)),
        event_size=5,
        network_weights=6,
        kept=(0, 2, 4),
    ),
    couple(
        "affine-random",
        "AffineCoupling",
        flow=of(AffineCoupling, mask="random", seed=5, **SMALL),
        event_size=4,
        # Half of the components; which ones is the seed's.
        kept=tuple(np.flatnonzero(np.random.RandomState(5).permutation([1, 1, 0, 0]))),
    ),
    couple(
        "affine-explicit",
        "AffineCoupling",
        flow=of(AffineCoupling, mask=(False, True, False), **SMALL),
        event_size=3,
        kept=(1,),
    ),
    couple(
        "affine-swapped",
        "AffineCoupling",
        flow=of(AffineCoupling, swap=True, **SMALL),
        event_size=5,
        kept=(3, 4),
    ),
    couple(
        "affine-network",
        "AffineCoupling",
        flow=with_network(AffineCoupling, 4),
        event_size=4,
        network_weights=6,
        kept=(0, 1),
    ),
    couple(
        "affine-unbounded",
        "AffineCoupling",
        flow=of(AffineCoupling, log_scale_bound=None, **SMALL),
        event_size=2,
        kept=(0,),
    ),
    couple(
        "affine-shift-last",
        "AffineCoupling",
        flow=of(AffineCoupling, shift_first=False, **SMALL),
        event_size=2,
        kept=(0,),
    ),
    couple(
        "affine-linear",
        "AffineCoupling",
        flow=of(AffineCoupling, hidden_units=()),
        event_size=3,
        network_weights=2,
        kept=(0, 1),
    ),
    couple(
        "affine-conditional",
        "AffineCoupling",
        flow=of(AffineCoupling, **SMALL),
        event_size=3,
        condition_size=2,
        kept=(0, 1),
    ),
    couple(
        "affine-residual",
        "AffineCoupling",
        flow=of(AffineCoupling, **RESIDUAL),
        event_size=3,
        network_weights=8,
        kept=(0, 1),
    ),
    couple(
        "affine-residual-conditional",
        "AffineCoupling",
        flow=of(AffineCoupling, dropout=0.5, **RESIDUAL),
        event_size=3,
        condition_size=2,
        network_weights=10,
        kept=(0, 1),
    ),
    couple(
        "affine-network-conditional",
        "AffineCoupling",
        flow=with_network(AffineCoupling, 2),
        event_size=2,
        condition_size=3,
        network_weights=6,
        kept=(0,),
    ),
    couple(
        "coupling-scheme",
        "Coupling",
        flow=of(keras_nf.Coupling, elementwise=keras_nf.elementwise.Affine(1.0), **SMALL),
        event_size=3,
        kept=(0, 1),
    ),
    couple(
        "spline-half",
        "SplineCoupling",
        flow=of(SplineCoupling, **SPLINE),
        event_size=3,
        kept=(0, 1),
    ),
    couple(
        "spline-circular",
        "SplineCoupling",
        flow=of(SplineCoupling, circular=True, swap=True, **SPLINE),
        event_size=2,
        kept=(1,),
    ),
    couple(
        "spline-conditional",
        "SplineCoupling",
        flow=of(SplineCoupling, **SPLINE),
        event_size=3,
        condition_size=2,
        kept=(0, 1),
    ),
    couple(
        "affine-channels",
        "AffineCoupling",
        flow=of(AffineCoupling, **IMAGES),
        event_size=(2, 2, 3),
        kept=(0, 1, 3, 4, 6, 7, 9, 10),
    ),
    couple(
        "affine-checkerboard",
        "AffineCoupling",
        flow=of(
            AffineCoupling,
            mask="checkerboard",
            swap=True,
            event_ndims=3,
            hidden_units=(2, 2, 2),
            activation="tanh",
            residual=True,
        ),
        event_size=(2, 3, 2),
        network_weights=10,
        condition_size=2,
        kept=(2, 3, 6, 7, 10, 11),
    ),
    couple(
        "additive-positions",
        "AdditiveCoupling",
        flow=of(
            Additive,
            mask=((True, False), (True, True), (False, False)),
            event_ndims=2,
            activation="tanh",
            hidden_units=(8, 8, 8),
        ),
        event_size=(3, 2),
        network_weights=8,
        kept=(0, 2, 3),
    ),
    Case("squeeze", "Squeeze", keras_nf.Squeeze, (1, 2, 4), image=(2, 4, 1), affine=True),
    Case(
        "multiscale",
        "Multiscale",
        scales(of(AffineCoupling, **IMAGES), keras_nf.Squeeze),
        (1, 1, 12),
        image=(2, 2, 3),
        weights=4,
        conditional=True,
        inverse_evaluations=1,
        forward_evaluations=1,
    ),
    Case(
        "autoregressive-scheme",
        "Autoregressive",
        of(keras_nf.Autoregressive, elementwise=keras_nf.elementwise.Shift(), **SMALL),
        3,
        weights=4,
        conditional=True,
        inverse_evaluations=1,
        forward_evaluations=None,
    ),
    Case(
        "autoregressive-network",
        "Autoregressive",
        scheme,
        3,
        weights=5,
        conditional=True,
        condition_size=2,
        inverse_evaluations=1,
        forward_evaluations=None,
    ),
    masked("maf-sequential", of(MAF, **SMALL), event_size=2),
    masked("maf-reversed", of(MAF, order="reversed", **SMALL), event_size=3),
    masked("maf-random", of(MAF, order="random", seed=5, **SMALL), event_size=4),
    masked("maf-given", of(MAF, order=(2, 0, 3, 1), **SMALL), event_size=4),
    masked("maf-linear", of(MAF, hidden_units=()), event_size=2, weights=2),
    masked("maf-deep", of(MAF, hidden_units=(8, 6, 8)), event_size=3, weights=8),
    # Nothing comes before the only component: the first kernel is masked altogether.
    masked("maf-single", of(MAF, **SMALL), event_size=1, idle=(0,), forward_evaluations=1),
    masked("maf-narrow", of(MAF, hidden_units=(3,), activation="tanh"), event_size=6),
    masked(
        "maf-long", of(MAF, hidden_units=(12, 9), order="random", seed=5), event_size=11, weights=6
    ),
    masked("maf-unbounded", of(MAF, log_scale_bound=None, **SMALL), event_size=2),
    masked("maf-shift-last", of(MAF, shift_first=False, **SMALL), event_size=3),
    masked("maf-conditional", of(MAF, **SMALL), event_size=3, condition_size=2, weights=5),
    masked("maf-residual", of(MAF, order="random", seed=5, **RESIDUAL), event_size=4, weights=8),
    masked(
        "maf-residual-conditional",
        of(MAF, **RESIDUAL),
        event_size=3,
        condition_size=2,
        weights=11,
    ),
    masked(
        "maf-single-conditional",
        of(MAF, **SMALL),
        event_size=1,
        forward_evaluations=1,
        condition_size=2,
        weights=5,
        idle=(0,),
    ),
    masked(
        "maf-linear-conditional",
        of(MAF, hidden_units=()),
        event_size=2,
        condition_size=1,
        weights=3,
    ),
    masked(
        "spline-autoregressive",
        of(SplineAutoregressive, **SPLINE),
        public="SplineAutoregressive",
        event_size=3,
    ),
    masked(
        "spline-single-conditional",
        of(SplineAutoregressive, **SPLINE),
        public="SplineAutoregressive",
        event_size=1,
        forward_evaluations=1,
        condition_size=2,
        weights=5,
        idle=(0,),
    ),
    inverse_masked("iaf-sequential", of(IAF, **SMALL), event_size=2),
    inverse_masked("iaf-random", of(IAF, order="random", seed=5, **SMALL), event_size=4),
    inverse_masked("iaf-deep", of(IAF, hidden_units=(8, 8)), event_size=3, weights=6),
    inverse_masked("iaf-single", of(IAF, **SMALL), event_size=1, idle=(0,), inverse_evaluations=1),
    inverse_masked(
        "iaf-long-conditional",
        of(IAF, hidden_units=(12, 9), activation="tanh", order="reversed"),
        event_size=9,
        condition_size=2,
        weights=7,
    ),
    inverse_masked("iaf-conditional", of(IAF, **SMALL), event_size=3, condition_size=2, weights=5),
    Case("lu-linear", "LULinear", keras_nf.LULinear, 3, weights=2, affine=True),
    Case(
        "lu-linear-random",
        "LULinear",
        of(keras_nf.LULinear, permutation="random", seed=5, use_shift=False),
        6,
        weights=1,
        affine=True,
    ),
    Case("lu-linear-single", "LULinear", keras_nf.LULinear, 1, weights=2, affine=True),
    Case("permute-reversed", "Permute", Permute, 2, affine=True),
    Case("permute-random", "Permute", of(Permute, permutation="random", seed=5), 5, affine=True),
    Case("permute-given", "Permute", of(Permute, permutation=(2, 0, 1)), 3, affine=True),
    Case(
        "permute-every-third",
        "Permute",
        of(Permute, permutation=(0, 3, 1, 4, 2, 5)),
        6,
        kept=(0, 5),
        affine=True,
    ),
    Case("standardize", "Standardize", Standardize, 3, fixed=3, affine=True),
    Case("act-norm", "ActNorm", keras_nf.ActNorm, 3, weights=2, fixed=1, affine=True),
    Case(
        "batch-normalization",
        "BatchNormalization",
        keras_nf.BatchNormalization,
        3,
        weights=2,
        fixed=2,
        affine=True,
    ),
    Case(
        "dequantize", "Dequantize", keras_nf.Dequantize, 2, fixed=1, affine=True, data=(0.0, 255.0)
    ),
    Case("log", "Log", of(Log, low=(-1.0, 2.0, 0.0)), 3, data=((-0.9, 2.1, 0.1), (3.0, 9.0, 8.0))),
    Case("logit", "Logit", Logit, 2, data=(0.01, 0.99)),
    Case("logit-wide", "Logit", of(Logit, low=-2.0, high=3.0, margin=0.05), 2, data=(-2.0, 3.0)),
    Case(
        "logit-intervals",
        "Logit",
        of(Logit, low=(-2.0, 0.0), high=(3.0, 0.5), margin=0.0),
        2,
        data=((-1.99, 0.01), (2.99, 0.49)),
    ),
    Case("logit-inverted", "Invert", invert(Logit), 2, base="uniform"),
    Case("chain-empty", "Chain", chain(), 2, affine=True, kept=(0, 1)),
    Case("chain-single", "Chain", chain(Planar), 2, weights=3),
    Case(
        "chain-nested",
        "Chain",
        chain(
            chain(Scaling, of(AffineCoupling, **SMALL)),
            of(Permute, permutation=(1, 2, 0)),
            chain(chain(), Planar),
            Logit,
        ),
        3,
        weights=8,
        conditional=True,
        inverse_evaluations=1,
        forward_evaluations=1,
        data=(0.05, 0.95),
    ),
    Case(
        "chain-affine",
        "Chain",
        chain(Scaling, Permute, Standardize),
        3,
        weights=1,
        fixed=3,
        affine=True,
    ),
    Case(
        "chain-conditional",
        "Chain",
        chain(of(MAF, **SMALL), Planar, of(AffineCoupling, **SMALL)),
        2,
        weights=12,
        conditional=True,
        condition_size=2,
        inverse_evaluations=2,
        forward_evaluations=None,
    ),
    Case("invert-scaling", "Invert", invert(Scaling), 2, weights=1, affine=True),
    Case("invert-planar", "Invert", invert(Planar), 2, weights=3),
    Case(
        "invert-maf",
        "Invert",
        invert(of(MAF, **SMALL)),
        3,
        weights=4,
        conditional=True,
        inverse_evaluations=None,
        forward_evaluations=1,
    ),
    Case(
        "invert-conditional",
        "Invert",
        invert(of(AffineCoupling, **SMALL)),
        2,
        weights=4,
        conditional=True,
        condition_size=2,
        kept=(0,),
        inverse_evaluations=1,
        forward_evaluations=1,
    ),
    Case(
        "recipe-planar",
        "planar_flow",
        of(keras_nf.planar_flow, event_size=2, layers=3),
        2,
        weights=3,
    ),
    Case(
        "recipe-nice",
        "nice",
        of(keras_nf.nice, event_size=4, layers=3, mask="random", seed=5, **SMALL),
        4,
        weights=13,
        conditional=True,
        inverse_evaluations=3,
        forward_evaluations=3,
    ),
    Case(
        "recipe-real-nvp",
        "real_nvp",
        of(keras_nf.real_nvp, event_size=2, layers=3, **SMALL),
        2,
        weights=12,
        conditional=True,
        inverse_evaluations=3,
        forward_evaluations=3,
    ),
    Case(
        "recipe-real-nvp-conditional",
        "real_nvp",
        of(keras_nf.real_nvp, event_size=3, layers=2, **SMALL),
        3,
        weights=8,
        conditional=True,
        condition_size=2,
        inverse_evaluations=2,
        forward_evaluations=2,
    ),
    Case(
        "recipe-maf",
        "maf",
        of(keras_nf.maf, event_size=2, layers=2, **SMALL),
        2,
        weights=8,
        conditional=True,
        inverse_evaluations=2,
        forward_evaluations=None,
    ),
    Case(
        "recipe-maf-random",
        "maf",
        of(keras_nf.maf, event_size=4, layers=2, order="random", seed=5, **SMALL),
        4,
        weights=8,
        conditional=True,
        inverse_evaluations=2,
        forward_evaluations=None,
    ),
    Case(
        "recipe-maf-conditional",
        "maf",
        of(keras_nf.maf, event_size=3, layers=2, **SMALL),
        3,
        weights=10,
        conditional=True,
        condition_size=1,
        inverse_evaluations=2,
        forward_evaluations=None,
    ),
    Case(
        "recipe-nsf",
        "nsf",
        of(keras_nf.nsf, event_size=3, layers=2, **SPLINE),
        3,
        weights=10,
        conditional=True,
        inverse_evaluations=2,
        forward_evaluations=None,
    ),
    Case(
        "recipe-nsf-coupling",
        "nsf",
        of(keras_nf.nsf, event_size=2, layers=2, coupling=True, **SPLINE),
        2,
        weights=10,
        conditional=True,
        inverse_evaluations=2,
        forward_evaluations=2,
    ),
    Case(
        "recipe-density-head",
        "density_head",
        of(keras_nf.density_head, event_size=3, low=-2.0, high=3.0, bins=4, hidden_units=(8,)),
        3,
        weights=8,
        fixed=3,
        conditional=True,
        inverse_evaluations=2,
        forward_evaluations=None,
        data=(-1.9, 2.9),
    ),
    Case(
        "recipe-glow",
        "glow",
        of(keras_nf.glow, event_shape=(2, 4, 1), levels=2, steps=1, seed=5, **SMALL),
        (1, 2, 4),
        image=(2, 4, 1),
        weights=18,
        fixed=2,
        conditional=True,
        inverse_evaluations=3,
        forward_evaluations=3,
    ),
    Case(
        "recipe-image-real-nvp",
        "image_real_nvp",
        # Few units, and one level: each of these couplings adds the links of nine pixels, and
        # stretches roundings as far as several others.
        of(
            keras_nf.image_real_nvp,
            event_shape=(2, 4, 1),
            levels=1,
            hidden_units=(2,),
            activation="tanh",
        ),
        (2, 4, 1),
        weights=24,
        fixed=4,
        conditional=True,
        condition_size=2,
        inverse_evaluations=4,
        forward_evaluations=4,
    ),
    Case(
        "recipe-iaf",
        "iaf",
        of(keras_nf.iaf, event_size=3, layers=2, **SMALL),
        3,
        weights=8,
        conditional=True,
        inverse_evaluations=None,
        forward_evaluations=2,
    ),
    Case(
        "recipe-iaf-conditional",
        "iaf",
        of(keras_nf.iaf, event_size=2, layers=2, **SMALL),
        2,
        weights=10,
        conditional=True,
        condition_size=2,
        inverse_evaluations=None,
        forward_evaluations=2,
    ),
]


# What is the same for every flow, is tested for these: affine and other maps, images and other
# shapes of the data, with and without conditions, and flows that hold others.
KINDS = {
    *("scaling", "planar-tanh", "affine-half", "affine-conditional", "maf-sequential", "logit"),
    *("squeeze", "affine-checkerboard", "multiscale", "chain-conditional", "invert-conditional"),
    *("recipe-real-nvp", "recipe-glow", "recipe-iaf"),
}


def is_kind(case):
    return case.name in KINDS


RECIPES = [case for case in CASES if case.public in keras_nf.recipes.__all__]
FIRST_OF_RECIPES = {case.public: case.name for case in reversed(RECIPES)}


def rows(belongs=lambda case: True, *, variations=True):
    """Run a test over the rows that belong to it.

    A plain run takes the first row of each public name, and of each class the first with a
    condition. The others are marked as slow. Where a test is about what the rows of a class have in
    common, `variations=False` leaves out those that come after the first with as many axes, or all
    of them but for some names.
    """
    cases, seen, marked = [case for case in CASES if belongs(case)], set(), []
    for case in cases:
        kind = case.public, case.condition_size > 0
        is_recipe = not isinstance(getattr(keras_nf, case.public), type)
        marks = [pytest.mark.slow] if kind in seen or (is_recipe and kind[1]) else []
        is_variation = (*kind, case.event_ndims) in seen
        if not is_variation or variations is True or (variations and case.name in variations):
            marked.append(pytest.param(case, id=case.name, marks=marks))
        seen |= {kind, (*kind, case.event_ndims)}
    return pytest.mark.parametrize("case", marked)


def has_weights(case):
    return case.weights > 0


def has_condition(case):
    return case.condition_size > 0


def random(*key):
    """Generator of numbers for one purpose."""
    return np.random.default_rng([sum(map(ord, str(part))) for part in key])


def perturb(flow, seed=0):
    """Replace every weight by numbers of the seed, so that a fresh flow is no identity."""
    rng = random("weights", seed)
    for weight in flow.trainable_variables:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    for weight in flow.non_trainable_variables:
        weight.assign(np.exp(0.5 * rng.standard_normal(weight.shape)))
    return flow


def build(case, dtype="float64", **kwargs):
    """Return a fresh flow that has its weights."""
    flow = case.flow(dtype=dtype, **kwargs)
    condition_shape = (None, case.condition_size) if case.condition_size else None
    flow.build((None, *case.base_shape), condition_shape)
    return flow


def make(case, dtype="float64", seed=0, **kwargs):
    """Return a built flow whose weights are numbers of the seed."""
    return perturb(build(case, dtype, **kwargs), seed)


def base_points(case, *batch, dtype="float64", seed=0):
    """Draw valid inputs of the forward direction."""
    rng = random("base", seed)
    shape = (*batch, *case.base_shape)
    draws = {"normal": rng.standard_normal, "uniform": lambda size: rng.uniform(0.02, 0.98, size)}
    return tf.constant(draws[case.base](shape), dtype)


def data_points(case, *batch, dtype="float64", seed=0):
    """Draw valid inputs of the inverse direction."""
    rng = random("data", seed)
    return tf.constant(rng.uniform(*case.data, (*batch, *case.data_shape)), dtype)


def conditions(case, *batch, dtype="float64", seed=0):
    """Draw the keyword arguments that carry a condition: none where the row has none."""
    if not case.condition_size:
        return {}
    rng = random("condition", seed)
    return {"condition": tf.constant(rng.standard_normal((*batch, case.condition_size)), dtype)}


def base_distribution(case, dtype="float64"):
    zeros = tf.zeros(case.base_shape, dtype)
    marginals = {"normal": tfd.Normal, "uniform": tfd.Uniform}
    return tfd.Independent(marginals[case.base](zeros, tf.ones_like(zeros)), case.event_ndims)


def assert_close(actual, expected, dtype="float64", factor=1.0):
    """Compare numbers with the tolerance of their dtype, or a multiple of it."""
    tolerance = factor * TOLERANCE[dtype]
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
