"""Small, valid model folders, for tests that damage them in one place."""

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tests.support.heads import finished_run

MARKER = "ran.txt"


@cache
def _whole():
    folder = Path(mkdtemp()) / "run"
    finished_run(folder, "sst2")
    (folder / "model" / "mat_ds.json").unlink()
    return folder / "model"


def stranger(folder):
    """A sentiment classifier of single sentences, as written by `save_pretrained`."""
    return shutil.copytree(_whole(), folder)


def edit(path, **changes):
    """Changes keys of a JSON file; None removes a key."""
    written = json.loads(path.read_text()) if path.exists() else {}
    written |= changes
    path.write_text(json.dumps({key: value for key, value in written.items() if value is not None}))
    return path


def with_code(folder, file="config.json", model_type="sparkle", **auto_map):
    """Adds code to the model folder that writes a marker if it runs, and lets the configuration ask for it."""
    (folder / "sparkle.py").write_text(
        f"from pathlib import Path\nPath({str(folder.parent / MARKER)!r}).write_text('ran')\n"
        "from transformers import RobertaConfig, RobertaForSequenceClassification, PreTrainedTokenizerFast\n"
        "class SparkleConfig(RobertaConfig):\n    model_type = 'sparkle'\n"
        "class SparkleModel(RobertaForSequenceClassification):\n    config_class = SparkleConfig\n"
        "class SparkleTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    edit(folder / file, auto_map=auto_map, **({"model_type": model_type} if file == "config.json" else {}))
    return folder


def adapters(folder):
    """Adapters for a classifier of single sentences, next to the base that they name."""
    from tests.support.heads import adapter_run

    return adapter_run(folder / "run", folder / "base") / "model"
