"""A database of MLflow that tests share, because its tables take seconds to create."""

import pytest
from mlflow import MlflowClient


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder of runs with the database."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def client(runs):
    return MlflowClient(f"sqlite:///{runs}/mlflow.db")
