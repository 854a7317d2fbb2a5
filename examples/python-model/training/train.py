"""Trains the classifier and writes it: python3 -m training.train DATA MODEL REPORT

The same data give the same bytes on every machine. Three things see to it:
the problem is strictly convex, so there is one answer whatever the path to it;
Newton's method ends within a few units of the last place of that answer; and
what is written is rounded to far fewer decimals than processors disagree in.
"""

import csv
import hashlib
import json
import os
import sys

import numpy as np
from sklearn.model_selection import StratifiedKFold

from winemodel.model import Model

RIDGE = 1.0  # weight of |weights|²/2 in the loss: makes the answer unique
DECIMALS = 6
FOLDS = 5
LEAST_ACCURACY = 0.95  # in cross-validation; below it no model is written


def read(path: str) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray, np.ndarray]:
    """Features, classes, samples and the class index of each sample."""
    with open(path, newline="", encoding="utf-8") as f:
        header, *rows = csv.reader(f)
    classes = tuple(sorted({row[-1] for row in rows}))
    samples = np.array([[float(cell) for cell in row[:-1]] for row in rows])
    labels = np.array([classes.index(row[-1]) for row in rows])
    return tuple(header[:-1]), classes, samples, labels


def fit(features, classes, samples, labels) -> Model:
    """Multinomial logistic regression with a ridge, by Newton's method."""
    mean, scale = samples.mean(axis=0), samples.std(axis=0)
    x = np.column_stack([(samples - mean) / scale, np.ones(len(samples))])
    y = np.eye(len(classes))[labels]
    n, k = x.shape[1], len(classes)

    # Adding a constant to every bias changes no probability. (sum of biases)²/2
    # in the loss makes that direction unique too and costs nothing: the least
    # loss has biases that sum to nought.
    ridge = np.full(n, RIDGE)
    ridge[-1] = 0
    w = np.zeros((n, k))
    for _ in range(100):
        scores = x @ w
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        gradient = x.T @ (p - y) + ridge[:, None] * w
        gradient[-1] += w[-1].sum()
        hessian = np.zeros((k, n, k, n))
        for a in range(k):
            for b in range(k):
                curve = p[:, a] * ((a == b) - p[:, b])
                hessian[a, :, b, :] = (x * curve[:, None]).T @ x
            hessian[a, :, a, :] += np.diag(ridge)
        hessian[:, -1, :, -1] += 1
        step = np.linalg.solve(hessian.reshape(k * n, k * n), gradient.T.reshape(-1)).reshape(k, n).T
        w -= step
        if np.abs(step).max() < 1e-12:
            break
    else:
        raise RuntimeError("training did not converge in 100 steps")

    def short(a):
        return np.round(a, DECIMALS) + 0.0  # never -0.0

    return Model(classes, features, short(mean), short(scale), short(w[:-1]), short(w[-1]))


def accuracy(model: Model, samples, labels) -> float:
    return float((model.probabilities(samples).argmax(axis=1) == labels).mean())


def validate(features, classes, samples, labels) -> list[float]:
    """Accuracy on each fold by a model that has not seen it."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(samples, labels)
    return [
        accuracy(fit(features, classes, samples[seen], labels[seen]), samples[held], labels[held])
        for seen, held in folds
    ]


def main(data: str, model_path: str, report_path: str) -> int:
    table = read(data)
    folds = validate(*table)
    mean = sum(folds) / len(folds)
    with open(data, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    report = {
        "data": {"sha256": digest, "samples": len(table[2])},
        "crossValidation": {"folds": [round(a, 4) for a in folds], "accuracy": round(mean, 4)},
        "least": LEAST_ACCURACY,
    }
    write(report_path, json.dumps(report, indent=1) + "\n")
    print(f"accuracy in {FOLDS}-fold cross-validation: {mean:.4f}")
    if mean < LEAST_ACCURACY:
        print(f"below {LEAST_ACCURACY}: no model written", file=sys.stderr)
        return 1
    write(model_path, fit(*table).to_json())
    return 0


def write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.write(text)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
