import json

import numpy as np
import pytest

from winemodel import model as wine


def test_predicts_a_known_wine(model, sample):
    [prediction] = model.predict([sample])
    assert prediction["cultivar"] == "barolo"
    assert prediction["probabilities"]["barolo"] > 0.99
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_the_largest_numbers_that_are_allowed_do_not_overflow(model):
    [prediction] = model.predict([dict.fromkeys(model.features, 1e9)])
    assert all(np.isfinite(p) for p in prediction["probabilities"].values())


def test_writing_and_reading_changes_nothing(model):
    assert wine.from_json(model.to_json()).to_json() == model.to_json()


@pytest.mark.parametrize(
    "change, want",
    [
        (lambda s: s.pop("alcohol"), "samples[0].alcohol: want a number"),
        (lambda s: s.update(price=12), "unknown measurement 'price'"),
        (lambda s: s.update(alcohol="13"), "samples[0].alcohol"),
        (lambda s: s.update(alcohol=True), "samples[0].alcohol"),
        (lambda s: s.update(alcohol=float("nan")), "samples[0].alcohol"),
        (lambda s: s.update(alcohol=10**400), "samples[0].alcohol"),
    ],
    ids=["missing", "unknown", "text", "boolean", "nan", "huge"],
)
def test_refuses_a_bad_sample(model, sample, change, want):
    change(sample)
    with pytest.raises(wine.Invalid) as e:
        model.predict([sample])
    assert want in str(e.value)


@pytest.mark.parametrize(
    "samples",
    [None, {}, [], [1], [{}] * (wine.MAX_SAMPLES + 1)],
    ids=["null", "object", "none", "number", "too many"],
)
def test_refuses_what_is_not_a_list_of_samples(model, samples):
    with pytest.raises(wine.Invalid):
        model.predict(samples)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("bias"),
        lambda m: m.update(classes=["one"], bias=[0], weights=[[0]] * 13),
        lambda m: m.update(scale=[0] * 13),
        lambda m: m.update(mean=[0] * 12),
        lambda m: m["weights"][0].__setitem__(0, float("nan")),
        lambda m: m["weights"].__setitem__(0, ["x", "y", "z"]),
    ],
    ids=["no bias", "one class", "no spread", "short mean", "nan weight", "text weight"],
)
def test_refuses_a_bad_model(model, change):
    plain = json.loads(model.to_json())
    change(plain)
    with pytest.raises(wine.Invalid):
        wine.from_json(json.dumps(plain))


def test_refuses_what_is_no_model_at_all():
    for text in ("", "[]", "null"):
        with pytest.raises(wine.Invalid):
            wine.from_json(text)
