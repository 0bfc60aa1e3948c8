"""The flows of the benchmarks in raw TFP, with Keras 2 networks, as TFP documents them."""

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

tfb, tfd = tfp.bijectors, tfp.distributions


def maf(size, *, layers, hidden_units, invert=False):
    """Masked autoregressive flow whose order is reversed from layer to layer."""
    flows = []
    for _ in range(layers):
        network = tfb.AutoregressiveNetwork(
            params=2, event_shape=[size], hidden_units=list(hidden_units), activation="relu"
        )
        flow = tfb.MaskedAutoregressiveFlow(network)
        flows.append(tfb.Invert(flow) if invert else flow)
    return _density(flows, size)


def iaf(size, *, layers, hidden_units):
    """Inverse autoregressive flow: inverted masked autoregressive layers."""
    return maf(size, layers=layers, hidden_units=hidden_units, invert=True)


def real_nvp(size, *, layers, hidden_units):
    """Affine couplings of halves, reversed from layer to layer."""
    kept = size // 2
    networks = [_Network(size - kept, hidden_units) for _ in range(layers)]
    flows = [tfb.RealNVP(kept, shift_and_log_scale_fn=network) for network in networks]
    return _density(flows, size)


def nsf(size, *, layers, hidden_units):
    """Spline couplings of halves, reversed from layer to layer."""
    kept = size // 2
    networks = [_Splines(size - kept, hidden_units) for _ in range(layers)]
    flows = [tfb.RealNVP(kept, bijector_fn=network) for network in networks]
    return _density(flows, size)


def make_train_step(distribution, *, jit_compile):
    """Return a compiled step of maximum likelihood, which takes a batch and returns its loss."""

    def loss(x):
        return -tf.reduce_mean(distribution.log_prob(x))

    return make_step(loss, distribution.trainable_variables, jit_compile=jit_compile)


def make_step(loss, variables, *, jit_compile):
    """Return a compiled step of Adam on a loss, which takes the arguments of the loss."""
    optimizer = tf_keras.optimizers.Adam(1e-3)
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(*args):
        with tf.GradientTape() as tape:
            value = loss(*args)
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables))
        return value

    return step


def _density(flows, size):
    bijectors = flows[:1]
    for flow in flows[1:]:
        bijectors += [tfb.Permute(list(range(size))[::-1]), flow]
    base = tfd.MultivariateNormalDiag(loc=[0.0] * size)
    distribution = tfd.TransformedDistribution(base, tfb.Chain(bijectors))
    # The networks make their variables in the first call.
    distribution.log_prob([[0.0] * size])
    return distribution


class _Splines(tf.Module):
    """Rational-quadratic splines of a coupling, of eight bins on (-5, 5), from one network."""

    def __init__(self, units, hidden_units):
        super().__init__()
        hidden = [tf_keras.layers.Dense(width, "relu") for width in hidden_units]
        self._layers = tf_keras.Sequential([*hidden, tf_keras.layers.Dense(23 * units)])

    def __call__(self, kept, units, **kwargs):
        raw = tf.reshape(self._layers(kept), (*kept.shape[:-1], units, 23))
        widths, heights, slopes = tf.split(raw, [8, 8, 7], axis=-1)
        # As in TFP's documentation: no bin is narrower than 0.01.
        widths, heights = (tf.math.softmax(a) * (10.0 - 8 * 1e-2) + 1e-2 for a in (widths, heights))
        slopes = tf.math.softplus(slopes) + 1e-2
        return tfb.RationalQuadraticSpline(widths, heights, slopes, range_min=-5.0)


class _Network(tf.Module):
    """Shift and log-scale of a coupling; a module, for TFP finds no variables in a closure."""

    def __init__(self, units, hidden_units):
        super().__init__()
        hidden = [tf_keras.layers.Dense(width, "relu") for width in hidden_units]
        self._layers = tf_keras.Sequential([*hidden, tf_keras.layers.Dense(2 * units)])

    def __call__(self, kept, units, **kwargs):
        return tf.split(self._layers(kept), 2, axis=-1)
