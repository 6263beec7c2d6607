"""Where the numbers of a run go, and the registry of its model. The only place that knows MLflow."""

import os
import sys

# MLflow reads them when it is imported: it would report to its makers what is done with it, and tell users of its database.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
# And this when it moves files: a bar is for eyes.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", str(sys.stderr.isatty()).lower())
