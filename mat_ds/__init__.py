"""mat_ds: mixed-strategy adversarial fine-tuning of language models on DeepSpeed ZeRO."""

import os

__version__ = "0.1.0"

# Libraries that tell their makers of being used read these when they are imported, which is after this.
for _variable, _value in (("DO_NOT_TRACK", "1"), ("MLFLOW_DISABLE_TELEMETRY", "true")):
    os.environ.setdefault(_variable, _value)
