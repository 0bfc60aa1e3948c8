"""Write the flows of other libraries that tests/test_convert.py converts, with their densities.

Each .npz in tests/data/convert holds the arrays of one flow, one after the other, with a list of
their names, shapes and dtypes, and the log-densities that the source gives, in float64, at the
points that `points` draws. Weights are float32 numbers, drawn so that none has its first value.

Two environments are needed, since the sources do not share one:

    python tests/data/make_convert_fixtures.py torch    # torch 2.13.0, zuko 1.6.0, nflows 0.14
    python tests/data/make_convert_fixtures.py tfp      # TFP 0.25.0, tf_keras 2.21.0
"""

import json
import os
import pathlib
import sys

import numpy as np

POINTS = 1000
FOLDER = pathlib.Path(__file__).with_name("convert")


def points(size, condition_size=0):
    """Return points, some of them beyond the splines, and their conditions or `None`."""
    # The legacy generator's stream is frozen.
    draws = 1.5 * np.random.RandomState(0).standard_normal((POINTS, size + condition_size))
    return draws[:, :size], draws[:, size:] if condition_size else None


def write(name, log_prob, arrays):
    assert np.isfinite(log_prob).all()
    assert log_prob.shape == (POINTS,)
    FOLDER.mkdir(exist_ok=True)
    listed = [[name, array.shape, array.dtype.str] for name, array in arrays.items()]
    content = b"".join(array.tobytes() for array in arrays.values())
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        log_prob=log_prob,
        listed=np.array(json.dumps(listed)),
        content=np.frombuffer(content, "uint8"),
    )


def read(name):
    """Return the arrays of a flow, by name, and its log-densities."""
    with np.load(FOLDER / f"{name}.npz") as file:
        log_prob, listed = file["log_prob"], json.loads(str(file["listed"]))
        content, start, arrays = file["content"].tobytes(), 0, {}
    for key, shape, dtype in listed:
        array = np.frombuffer(content, dtype, count=int(np.prod(shape)), offset=start)
        arrays[key] = array.reshape(shape)
        start += array.nbytes
    return arrays, log_prob


def perturbed(value, rng):
    """Return a smaller array with noise where it is not masked, as float32 numbers in float64."""
    noise = 0.1 * rng.standard_normal(value.shape)
    linked = (value != 0) if value.ndim == 2 else 1.0
    return (0.7 * value + noise * linked).astype("float32").astype("float64")


def torch_flows():
    import torch
    import zuko
    from nflows import distributions, flows, transforms
    from nflows.nn.nets import ResidualNet

    torch.manual_seed(0)
    rng = np.random.RandomState(1)

    def nsf(size, layer):
        """A linear layer before each layer, and one more, as in the neural spline flows' paper."""

        def linear():
            parts = [transforms.RandomPermutation(size), transforms.LULinear(size)]
            return transforms.CompositeTransform(parts)

        steps = [transforms.CompositeTransform([linear(), layer(i)]) for i in range(2)]
        chain = transforms.CompositeTransform([*steps, linear()])
        return flows.Flow(chain, distributions.StandardNormal([size]))

    def autoregressive_splines(size):
        def layer(_):
            return transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                size,
                10,
                num_bins=5,
                tails="linear",
                tail_bound=3.0,
                use_residual_blocks=False,
            )

        return nsf(size, layer)

    def spline_couplings(size, condition_size=None):
        def network(inputs, outputs):
            return ResidualNet(inputs, outputs, 8, context_features=condition_size)

        def layer(i):
            return transforms.PiecewiseRationalQuadraticCouplingTransform(
                mask=[(i + j) % 2 for j in range(size)],
                transform_net_create_fn=network,
                num_bins=5,
                tails="linear",
                tail_bound=3.0,
                min_bin_width=1e-2,
                min_bin_height=2e-2,
                min_derivative=3e-2,
            )

        return nsf(size, layer)

    def nflows_maf(size, **options):
        return flows.MaskedAutoregressiveFlow(size, 10, 2, 2, **options)

    zuko_maf, zuko_nsf = zuko.flows.MAF, zuko.flows.NSF
    makers = {
        "zuko_maf": lambda: (zuko_maf(4, hidden_features=(12, 10)), 4, 0),
        "zuko_maf_context": lambda: (
            zuko_maf(
                3, 2, transforms=2, randperm=True, hidden_features=(12,), activation=torch.nn.ELU
            ),
            3,
            2,
        ),
        "zuko_nsf": lambda: (zuko_nsf(3, bins=5, transforms=2, hidden_features=(12, 12)), 3, 0),
        "zuko_nsf_coupling": lambda: (
            zuko_nsf(
                5,
                2,
                bins=4,
                slope=1e-2,
                transforms=2,
                randperm=True,
                passes=2,
                hidden_features=(8, 10),
            ),
            5,
            2,
        ),
        "nflows_maf": lambda: (
            nflows_maf(
                4,
                use_residual_blocks=False,
                use_random_masks=True,
                use_random_permutations=True,
                activation=torch.tanh,
            ),
            4,
            0,
        ),
        "nflows_maf_residual": lambda: (nflows_maf(4), 4, 0),
        "nflows_rq_nsf": lambda: (autoregressive_splines(3), 3, 0),
        "nflows_rq_nsf_coupling": lambda: (spline_couplings(4), 4, 0),
        "nflows_rq_nsf_coupling_context": lambda: (spline_couplings(3, 2), 3, 2),
    }
    for name, make in makers.items():
        flow, size, condition_size = make()
        flow = flow.double().eval()
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.copy_(torch.from_numpy(perturbed(parameter.numpy(), rng)))
            x, c = points(size, condition_size)
            x, c = torch.from_numpy(x), c if c is None else torch.from_numpy(c)
            log_prob = flow(c).log_prob(x) if name.startswith("zuko") else flow.log_prob(x, c)
        arrays = {key: value.numpy() for key, value in flow.state_dict().items()}
        floats = {key: value.astype("f4") for key, value in arrays.items() if value.dtype == "f8"}
        write(name, log_prob.numpy(), {**arrays, **floats})


def tfp_flows():
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    tf_keras.backend.set_floatx("float64")
    tfb, tfd = tfp.bijectors, tfp.distributions
    rng = np.random.RandomState(1)

    def write_tfp(name, size, condition_size, bijector, variables):
        base = tfd.Sample(tfd.Normal(tf.zeros((), "float64"), 1.0), size)
        flow = tfd.TransformedDistribution(base, bijector)
        x, c = points(size, condition_size)
        options = {} if c is None else {"bijector_kwargs": {"conditional_input": c}}
        flow.log_prob(x, **options)
        weights = variables()
        for variable in weights:
            variable.assign(perturbed(variable.numpy(), rng))
        arrays = {str(i): variable.numpy().astype("f4") for i, variable in enumerate(weights)}
        write(name, flow.log_prob(x, **options).numpy(), arrays)

    def maf(name, size, condition_size, **options):
        network = tfb.AutoregressiveNetwork(
            params=2, event_shape=[size], hidden_units=[14, 12], **options
        )
        bijector = tfb.MaskedAutoregressiveFlow(network)
        write_tfp(name, size, condition_size, bijector, lambda: network.weights)

    maf("tfp_maf", 4, 0, activation="relu", input_order="right-to-left")
    maf(
        "tfp_maf_conditional",
        3,
        2,
        activation="tanh",
        input_order=[2, 3, 1],
        conditional=True,
        conditional_event_shape=[2],
        conditional_input_layers="first_layer",
    )
    for name, num_masked, shift_only in [
        ("tfp_real_nvp", 2, False),
        ("tfp_real_nvp_last_masked", -2, True),
    ]:
        template = tfb.real_nvp_default_template([16, 12], shift_only=shift_only)
        bijector = tfb.RealNVP(num_masked, shift_and_log_scale_fn=template)
        write_tfp(name, 5, 0, bijector, lambda template=template: template.variables)


if __name__ == "__main__":
    {"torch": torch_flows, "tfp": tfp_flows}[sys.argv[1]]()
