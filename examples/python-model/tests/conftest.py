from pathlib import Path

import pytest

from training import train

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def table():
    return train.read(str(ROOT / "data" / "wine.csv"))


@pytest.fixture(scope="session")
def model(table):
    return train.fit(*table)


@pytest.fixture(scope="session")
def model_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.json"
    path.write_text(model.to_json())
    return path


@pytest.fixture
def sample(table, model):
    """The first wine of the data, a Barolo."""
    return dict(zip(model.features, table[2][0].tolist()))
