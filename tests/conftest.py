"""Fixtures shared by several test modules: files, a model as on the hub, and trainings without waits."""

import os

# No hub can be reached, and each attempt would wait 23 seconds. Set before any library reads it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Torch's second thread waits in a loop for work that tiny models do not have, and several tests run at once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The processes of xdist say that they have a terminal of 80 columns, in which lines would be broken.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)
# Runs of tests go nowhere but where the tests say.
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)
os.environ.pop("MLFLOW_REGISTRY_URI", None)

import pytest

from tests.support.launch import ROOT, environment
from tests.support.processes import ForkServer

WORDS = "the key near the cabinets is golden and nobody who saw it lifted these lamps by themselves".split()


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # the first process starts the fork server for all processes of xdist
        server = ForkServer(environment())
        config.add_cleanup(server.close)


def pytest_collection_modifyitems(items):
    """The tests that start processes come first, so that the long ones do not run alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("dist") is None)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture
def processes():
    """A list for processes that a test starts. They end with the test, also if it fails."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def sentence(i):
    return " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 2 + 7 * i % 13)) + ("\u2028é\x00" if i % 5 == 0 else ".")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Files of CoLA (with a test split whose labels are hidden), MRPC and STS-B."""
    from tests.tasks.test_bad_rows import lines, write

    folder = tmp_path_factory.mktemp("raw")
    for split, count in (("train", 90), ("validation", 21), ("test", 9)):
        hidden = split == "test"
        cola = [{"sentence": sentence(i), "label": -1 if hidden else i % 2} for i in range(count)]
        pairs = [{"sentence1": sentence(i), "sentence2": sentence(3 * i)} for i in range(count)]
        write(folder, f"cola/{split}.jsonl", lines(*cola))
        write(folder, f"mrpc/{split}.jsonl", lines(*({**pair, "label": i % 2} for i, pair in enumerate(pairs))))
        write(folder, f"stsb/{split}.jsonl", lines(*({**pair, "label": i % 51 / 10} for i, pair in enumerate(pairs))))
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder as the hub has it for somebody/bert: a model without a head, and its tokenizer."""
    from tests.models.test_families import save  # seconds, for transformers

    folder = tmp_path_factory.mktemp("hub") / "bert"
    save(
        folder, "bert", pad_token="<pad>", eos_token="</s>", model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    return folder


@pytest.fixture
def at_once(monkeypatch):
    """For sweeps: they poll often, see no SLURM, and their processes find this package."""
    from mat_ds.sweeps import training

    monkeypatch.setattr(training, "LOOK", 0.05)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def short_leases(monkeypatch):
    """Leases of half a second, in this process."""
    from mat_ds.commands import seeds
    from mat_ds.storage import leases, lock
    from mat_ds.sweeps import worker

    for module in (leases, lock, seeds, worker):
        for name, seconds in (("LEASE_SECONDS", 0.5), ("BEAT_SECONDS", 0.05), ("LOOK", 0.05)):
            monkeypatch.setattr(module, name, seconds, raising=False)
