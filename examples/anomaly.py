"""Anomaly detection: a flow learns normal rows, and finds rows unlike them.

    python examples/anomaly.py

Two tables of scikit-learn: tumours, of which the benign ones are normal, and images of digits, of
which one digit is the anomaly. A flow, a Gaussian with a full covariance and an isolation forest
see normal rows alone. Each sets its threshold by normal rows that it was not trained with, for the
share of false alarms of `--false-alarms`, and is then tried on new normal rows and on anomalies.
Prints for each the area under the ROC curve, the share of false alarms and the share of anomalies
found. docs/guides/anomalies.md explains it; a minute or two on a quiet core.

References:
  Fei Tony Liu, Kai Ming Ting, Zhi-Hua Zhou. Isolation Forest. 2008. ICDM.
"""

import argparse
import os
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_nf.sklearn import FlowDensity


class Rows(NamedTuple):
    """Normal rows to train with, to set the threshold by and to test, and anomalies."""

    train: np.ndarray
    held_out: np.ndarray
    normal: np.ndarray
    anomalies: np.ndarray


def cancer(seed):
    """Return measurements of tumours, of which the malignant ones are anomalies."""
    data = load_breast_cancer()
    return _split(data.data[data.target == 1], data.data[data.target == 0], seed)


def digits(seed, anomaly=8):
    """Return images of 8 x 8 pixels, as 64 columns, of which one digit is the anomaly."""
    data = load_digits()
    # Pixels are integers, which have no density: noise of their width makes them real numbers.
    x = data.data + np.random.default_rng(seed).random(data.data.shape)
    return _split(x[data.target != anomaly], x[data.target == anomaly], seed)


SETS = {"cancer": cancer, "digits": digits}
KINDS = ("to train with", "for the threshold", "normal", "anomalies")


def _split(normal, anomalies, seed):
    normal = np.random.default_rng(seed).permutation(normal)
    ends = [int(share * len(normal)) for share in (0.6, 0.8)]
    return Rows(*np.split(normal, ends), anomalies)


def detectors(flow="maf", noise=0.3, epochs=200, seed=0):
    """Return untrained estimators whose `score_samples` is high where rows are normal."""
    return {
        "flow": FlowDensity(flow, noise=noise, epochs=epochs, random_state=seed),
        "Gaussian": make_pipeline(StandardScaler(), GaussianMixture(random_state=seed)),
        "isolation forest": IsolationForest(n_estimators=300, random_state=seed),
    }


def area(detector, rows):
    """Return the probability that an anomaly scores above a normal row: the area under the ROC."""
    scores = [-detector.score_samples(x) for x in (rows.normal, rows.anomalies)]
    return roc_auc_score(np.repeat([0, 1], [len(x) for x in scores]), np.concatenate(scores))


def threshold(detector, rows, false_alarms):
    """Return the log-density below which a row is an alarm, from rows held out."""
    return np.quantile(detector.score_samples(rows.held_out), false_alarms)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--false-alarms", type=float, default=0.05, help="share of normal rows")
    parser.add_argument("--flow", default="maf", help="a recipe of keras_nf")
    parser.add_argument("--noise", type=float, default=0.3, help="in deviations of the columns")
    parser.add_argument("--epochs", type=int, default=200, help="most epochs to train")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    for name in options.sets:
        rows = SETS[name](options.seed)
        print(f"{name}, {rows.train.shape[1]} columns; rows:")
        print(*(f"{len(part)} {kind}" for kind, part in zip(KINDS, rows)), sep=", ")
        print(f"{'detector':<18}{'area':>8}{'false alarms':>14}{'found':>8}")
        estimators = detectors(options.flow, options.noise, options.epochs, options.seed)
        for title, detector in estimators.items():
            detector.fit(rows.train)
            limit = threshold(detector, rows, options.false_alarms)
            shares = [np.mean(detector.score_samples(x) < limit) for x in rows[2:]]
            values = f"{area(detector, rows):>8.3f}{shares[0]:>14.3f}{shares[1]:>8.3f}"
            print(f"{title:<18}{values}", flush=True)


if __name__ == "__main__":
    main()
