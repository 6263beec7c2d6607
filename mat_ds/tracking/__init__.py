"""Sends a run's numbers to MLflow. Only this room and `registry` import MLflow."""

import os
import sys

# MLflow reads these when it is imported: no telemetry, and no messages about its database.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
# MLflow's progress bar for files, only on a terminal.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", str(sys.stderr.isatty()).lower())
