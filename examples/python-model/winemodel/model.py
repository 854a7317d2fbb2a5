"""The model: a linear classifier over standardised measurements, kept as JSON.

Loading is strict: a Model that exists has matching shapes and finite numbers.
"""

import json
from dataclasses import dataclass

import numpy as np

MAX_SAMPLES = 1000  # of one prediction


class Invalid(ValueError):
    """The caller's samples, or a model file, are not what they should be."""


@dataclass(frozen=True)
class Model:
    classes: tuple[str, ...]
    features: tuple[str, ...]
    mean: np.ndarray  # of each feature, in its own unit
    scale: np.ndarray  # standard deviation of each feature, never 0
    weights: np.ndarray  # features × classes
    bias: np.ndarray  # of each class

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """Softmax over the classes, one row a sample."""
        scores = ((samples - self.mean) / self.scale) @ self.weights + self.bias
        scores -= scores.max(axis=1, keepdims=True)  # exp cannot overflow
        powers = np.exp(scores)
        return powers / powers.sum(axis=1, keepdims=True)

    def read_samples(self, samples: object) -> np.ndarray:
        """Samples as they come in a request: a list of {feature: number}."""
        if not isinstance(samples, list) or not 1 <= len(samples) <= MAX_SAMPLES:
            raise Invalid(f"samples: want a list of 1 to {MAX_SAMPLES} samples")
        rows = np.empty((len(samples), len(self.features)))
        for i, sample in enumerate(samples):
            if not isinstance(sample, dict):
                raise Invalid(f"samples[{i}]: want an object with {len(self.features)} measurements")
            unknown = sorted(set(sample) - set(self.features))
            if unknown:
                raise Invalid(f"samples[{i}]: unknown measurement {unknown[0]!r}; known are {', '.join(self.features)}")
            for j, feature in enumerate(self.features):
                rows[i, j] = _number(sample.get(feature), f"samples[{i}].{feature}")
        return rows

    def predict(self, samples: object) -> list[dict]:
        """The most probable class of each sample, with all probabilities."""
        return [
            {
                "cultivar": self.classes[int(row.argmax())],
                "probabilities": {name: round(float(p), 6) for name, p in zip(self.classes, row)},
            }
            for row in self.probabilities(self.read_samples(samples))
        ]

    def to_json(self) -> str:
        """The same bytes for the same numbers: fixed key order, shortest decimals."""
        plain = {
            "classes": self.classes,
            "features": self.features,
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "weights": self.weights.tolist(),
            "bias": self.bias.tolist(),
        }
        return json.dumps(plain, indent=1) + "\n"


def _number(value: object, where: str) -> float:
    # bool is an int in Python, and a measurement that is not finite or of a
    # size that no wine has would only make the arithmetic warn.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e9:
        raise Invalid(f"{where}: want a number from -1e9 to 1e9")
    return float(value)


def from_json(text: str) -> Model:
    """Reads what to_json wrote."""
    try:
        plain = json.loads(text)
        model = Model(
            classes=tuple(plain["classes"]),
            features=tuple(plain["features"]),
            **{key: np.asarray(plain[key], dtype=float) for key in ("mean", "scale", "weights", "bias")},
        )
    except (ValueError, KeyError, TypeError) as e:
        raise Invalid(f"not a model: {e!r}") from e
    features, classes = len(model.features), len(model.classes)
    shapes = {"mean": (features,), "scale": (features,), "weights": (features, classes), "bias": (classes,)}
    for key, shape in shapes.items():
        numbers = getattr(model, key)
        if numbers.shape != shape or not np.isfinite(numbers).all():
            raise Invalid(f"not a model: {key} is not {shape} finite numbers")
    if classes < 2 or not (model.scale > 0).all():
        raise Invalid("not a model: fewer than two classes, or a scale that is not above 0")
    return model
