"""Secrets that a launch over ssh would reveal are named in advance, and releases with known vulnerabilities are excluded."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from mat_ds.doctor.launcher import check_secrets
from mat_ds.doctor.rows import Status
from tests.support.launch import ROOT

# The first releases without their known vulnerabilities.
MENDED = {"filelock": "3.20.3", "jinja2": "3.1.6", "tqdm": "4.66.3"}
CANARY = "canary-5c1f"


@pytest.fixture
def bare(monkeypatch, tmp_path):
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "DS_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_GATEWAY_API_KEY"]
)
def test_a_variable_that_the_launcher_would_print_is_named_without_its_value(name, bare, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h")
    monkeypatch.setenv("HF_TOKEN", CANARY)  # the launcher does not export this one
    assert list(check_secrets()) == []
    monkeypatch.setenv(name, CANARY)
    (row,) = check_secrets()
    assert row.status is Status.WARN and name in row.found and "HF_TOKEN" not in row.found and CANARY not in str(row)


@pytest.mark.parametrize("where", [".", "home"])
def test_variables_in_deepspeed_env_are_checked_too(where, bare, tmp_path, monkeypatch):
    file = tmp_path / where / ".deepspeed_env"
    file.write_text("PATH=/x\nNCCL_DEBUG=INFO\n")
    assert list(check_secrets()) == []
    file.write_bytes(f"PATH=/x\nHF_TOKEN={CANARY}\n\xff\xfe\nWANDB_API_KEY = {CANARY}\n".encode("latin1"))
    (row,) = check_secrets()
    assert "HF_TOKEN" in row.found and "WANDB_API_KEY" in row.found and CANARY not in str(row) and "PATH" not in row.found
    monkeypatch.setenv("DS_ENV_FILE", "other")
    assert list(check_secrets()) == []


def test_no_release_with_a_known_vulnerability_is_allowed():
    listed = (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("]\n")[0]
    needed = {known.name: known for known in map(Requirement, re.findall(r'"(.+?)"', listed))}
    for name, mended in MENDED.items():
        parts = mended.split(".")
        before = Version(".".join([*parts[:-1], str(int(parts[-1]) - 1)]))
        assert mended in needed[name].specifier and before not in needed[name].specifier, name
    for name, version in re.findall(r"(?m)^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text()):
        if requirement := needed.get(name.lower().replace("-", "_"), needed.get(name.lower())):
            assert Version(version) in requirement.specifier, name


def test_security_md_exists_and_is_linked():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for words in ("models", "data", "recipes", "run folders", "network between ranks", "registry", "Reporting"):
        assert words in page, words
