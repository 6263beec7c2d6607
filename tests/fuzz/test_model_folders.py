"""A model folder with any content loads or is refused: no traceback, no code that runs, no wait."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mat_ds.artifacts.exported import load_classifier
from mat_ds.errors import UserError
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.tasks.registry import TASKS
from tests.hostile.strangers import stranger

CPU = torch.device("cpu")
NUMBERS = st.integers(-5, 5000) | st.integers() | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")


def load_or_refuse(folder):
    """Loads a folder as training does and as prediction does; both may refuse it."""
    options = ModelConfig(name=str(folder))
    try:
        build_model(options, TASKS["sst2"], build_tokenizer(options, ()), 0, leave_unread=True)
    except UserError as error:
        assert str(folder) in str(error)
    try:
        load_classifier(folder, torch.float32, CPU)
    except UserError as error:
        assert str(folder) in str(error)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return stranger(tmp_path_factory.mktemp("whole") / "model")


def spoilt(whole, file, spoil):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(whole, folder)
        (folder / file).write_bytes(spoil((folder / file).read_bytes()))
        load_or_refuse(folder)


def keys_of(text):
    return sorted(json.loads(text))


@settings(max_examples=40, deadline=10_000, suppress_health_check=list(HealthCheck))
@given(file=st.sampled_from(FILES), which=st.integers(0, 100), value=VALUES)
def test_any_value_of_any_key(whole, file, which, value):
    def spoil(text):
        keys = keys_of(text)
        return json.dumps({**json.loads(text), keys[which % len(keys)]: value}).encode()

    spoilt(whole, file, spoil)


@settings(max_examples=20, deadline=10_000, suppress_health_check=list(HealthCheck))
@given(file=st.sampled_from((*FILES, "model.safetensors")), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_bit_flipped(whole, file, where, bit):
    def spoil(content):
        # Of the weights only the header, since another number is not an error.
        place = int(where * min(len(content), 4000))
        return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]

    spoilt(whole, file, spoil)
