"""The environment variables by which MLflow's users say where everything goes."""

from __future__ import annotations

import os

TRACKING_URI, EXPERIMENT_NAME, REGISTRY_URI = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI"


def named(variable: str) -> str | None:
    """Value of a variable; None if it is not set, or empty."""
    return os.environ.get(variable) or None
