import json

import numpy as np
import pytest
from conftest import ROOT
from sklearn.linear_model import LogisticRegression

from training import train


def test_the_same_data_give_the_same_bytes(table, model):
    assert train.fit(*table).to_json() == model.to_json()


def test_the_order_of_the_samples_does_not_matter(table, model):
    features, classes, samples, labels = table
    order = np.random.default_rng(1).permutation(len(labels))
    assert train.fit(features, classes, samples[order], labels[order]).to_json() == model.to_json()


def test_an_independent_trainer_finds_the_same_model(table, model):
    _, _, samples, labels = table
    x = (samples - samples.mean(axis=0)) / samples.std(axis=0)
    other = LogisticRegression(C=1 / train.RIDGE, tol=1e-8, max_iter=10_000).fit(x, labels)
    np.testing.assert_allclose(model.weights.T, other.coef_, atol=1e-3)
    np.testing.assert_allclose(model.probabilities(samples), other.predict_proba(x), atol=1e-3)


def test_training_writes_a_model_and_a_report(tmp_path):
    paths = [str(tmp_path / "out" / "model.json"), str(tmp_path / "report.json")]
    assert train.main(str(ROOT / "data" / "wine.csv"), *paths) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["crossValidation"]["accuracy"] >= 0.95
    assert report["data"]["samples"] == 178
    built = ROOT / "build" / "model.json"
    if built.exists():  # the very file that ships, when it was made before
        assert built.read_bytes() == (tmp_path / "out" / "model.json").read_bytes()


def test_a_bad_model_is_not_written(tmp_path, capsys):
    rows = (ROOT / "data" / "wine.csv").read_text().splitlines()
    shuffled = np.random.default_rng(2).permutation([row.rsplit(",", 1)[1] for row in rows[1:]])
    lines = [rows[0]] + [f"{row.rsplit(',', 1)[0]},{label}" for row, label in zip(rows[1:], shuffled)]
    (tmp_path / "noise.csv").write_text("\n".join(lines) + "\n")
    assert train.main(str(tmp_path / "noise.csv"), str(tmp_path / "model.json"), str(tmp_path / "report.json")) == 1
    assert not (tmp_path / "model.json").exists()
    assert "no model written" in capsys.readouterr().err


def test_a_trainer_that_does_not_converge_says_so(table):
    features, classes, samples, labels = table
    broken = samples.copy()
    broken[0, 0] = np.nan
    with pytest.raises((RuntimeError, np.linalg.LinAlgError)), np.errstate(all="ignore"):
        train.fit(features, classes, broken, labels)
