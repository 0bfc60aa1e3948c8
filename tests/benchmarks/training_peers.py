"""Flows of other libraries in the study of training, at the size of `keras_nf.maf`."""

import numpy as np
import torch

__all__ = ["PEERS", "TorchFlow"]


def _zuko_flow(flow):
    return flow.parameters(), lambda x, condition: flow(condition).log_prob(x)


def zuko_maf(size, condition_size):
    from zuko.flows import MAF

    return _zuko_flow(MAF(size, condition_size, transforms=5, hidden_features=(128, 128)))


def zuko_nsf(size, condition_size):
    from zuko.flows import NSF

    return _zuko_flow(NSF(size, condition_size, transforms=5, hidden_features=(128, 128)))


def nflows_maf(size, condition_size):
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import (
        CompositeTransform,
        MaskedAffineAutoregressiveTransform,
        ReversePermutation,
    )

    options = {"num_blocks": 2, "use_residual_blocks": False}
    context = {"context_features": condition_size or None}
    layers = []
    for _ in range(5):
        layers.append(ReversePermutation(size))
        layers.append(MaskedAffineAutoregressiveTransform(size, 128, **context, **options))
    flow = Flow(CompositeTransform(layers), StandardNormal([size]))
    return flow.parameters(), lambda x, condition: flow.log_prob(x, condition)


PEERS = {"zuko_maf": zuko_maf, "zuko_nsf": zuko_nsf, "nflows_maf": nflows_maf}


class TorchFlow:
    """A flow that is made anew for each run and trained by a plain loop."""

    def __init__(self, peer, options, size, condition_size):
        self._make = PEERS[peer]
        self._sizes = size, condition_size

    def train(self, data, batches, learning_rate, seed, checks):
        """Return the held-out log-density after each of so many equal parts of the batches."""
        torch.manual_seed(seed)
        parameters, log_prob = self._make(*self._sizes)
        # The epsilon of Keras.
        optimizer = torch.optim.Adam(parameters, learning_rate, eps=1e-7)
        train, test = (
            [None if a is None else torch.from_numpy(a) for a in pair]
            for pair in ((data.train, data.train_condition), (data.test, data.test_condition))
        )
        results = []
        for part in np.split(batches, checks):
            for rows in part:
                optimizer.zero_grad()
                loss = -log_prob(*[None if a is None else a[rows] for a in train]).mean()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                results.append(float(log_prob(*test).mean()))
        return results
