"""A registered model answers with its snapshots as `mat-ds predict --mixture` does, without the run and its adapters' base."""

import json
import shutil

import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import load_model

import mat_ds
from mat_ds.artifacts.described import Description
from mat_ds.artifacts.finished import read_finished
from mat_ds.artifacts.members import ABSTENTION, listed
from mat_ds.registry.flavor import save_flavor, whole_model
from mat_ds.storage.disk import write_json
from mat_ds.tasks.registry import TASKS
from tests.support.heads import MAX_LENGTH, adapter_run
from tests.support.members import with_members

TEXTS = ["The key is golden.", "42", "Nobody saw the keys near the cabinets."]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What `mat-ds predict` answers, and the folder of the registered model, after the run has gone."""
    folder = tmp_path_factory.mktemp("saved")
    run = with_members(adapter_run(folder / "run", folder / "base"), 2)
    sure = sorted(answer["confidence"] for answer in mat_ds.load(run, uncertainty=True).predict(TEXTS))
    steps = [{"coverage": c, "confidence": t, "risk": r} for c, t, r in ((0.5, sum(sure[1:]) / 2, 0.1), (1.0, 0.0, 0.4))]
    write_json(run / "snapshots" / ABSTENTION, {"steps": steps})
    expected = {risk: mat_ds.load(run, uncertainty=True, abstain=risk).predict(TEXTS) for risk in (0.2, 0.5)}
    finished = read_finished(run)
    source, adapter = whole_model(finished, folder / "whole")
    members = list(listed(finished.folder.snapshots).values())
    save_flavor(source, adapter, Description(TASKS["cola"], MAX_LENGTH), folder / "model", Model(), members)
    for gone in ("run", "base", "whole"):
        shutil.rmtree(folder / gone)
    return expected, folder / "model"


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() and (one["label"], one["abstains"]) == (other["label"], other["abstains"])
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
        for name in ("confidence", "entropy", "mutual_information"):
            assert one[name] == pytest.approx(other[name], abs=1e-5)


def test_mixture_uncertainty_and_abstention_are_those_of_predict(saved):
    expected, folder = saved
    model = load_model(str(folder))
    for risk, answers in expected.items():
        found = model.predict(TEXTS, params={"uncertainty": True, "abstain": risk})
        same(json.loads(found.to_json(orient="records", double_precision=15)), answers)
        same(mat_ds.load(folder / "model", uncertainty=True, abstain=risk).predict(TEXTS), answers)
    assert {answer["abstains"] for answer in expected[0.2]} == {True, False}, "or the test sees nothing"
    alone, mixed = model.predict(TEXTS), model.predict(TEXTS, params={"mixture": True})
    assert list(alone.columns) == list(mixed.columns) and not alone.equals(mixed)
    with pytest.raises(MlflowException, match=r"the least that one promises is 0\.100"):
        model.predict(TEXTS, params={"abstain": 0.05})


def test_members_of_adapters_hold_only_what_differs(saved):
    from safetensors import safe_open

    with safe_open(next((saved[1] / "snapshots").glob("*/model.safetensors")), "pt") as file:
        names = set(file.keys())
    assert names and all("query" in name or "value" in name or "classifier" in name for name in names)
