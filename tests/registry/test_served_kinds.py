"""A registered model of every kind of task answers raw rows as `mat-ds predict` does."""

import json

import numpy as np
import pandas
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import load_model, scoring_server
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mat_ds.artifacts.described import Description, write_description
from mat_ds.evaluation.predictor import load_predictor
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.registry.flavor import save_flavor
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec
from tests.support.members import with_members

MAX_LENGTH = 12
BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
LONG = "a text that is longer than the model reads to its end"
WORDS = ["Anna Smith lives in Oslo".split(), ["New", "York"], ["x"], LONG.split()]
TEXTS = [" ".join(words) for words in WORDS] + ["42", "['a']"]
SPECS = {
    "multi_label": TaskSpec(name="topics", kind="multi_label", text=("body",), labels=("sea", "sky", "sun"), test=()),
    "token_classification": TaskSpec(name="ner", kind="token_classification", text=("words",), labels=BIO, test=()),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Of each kind the model that MLflow loads, and the predictor of the same folder; also the first folder."""
    found = {}
    for name, spec in SPECS.items():
        folder = tmp_path_factory.mktemp(name)
        tokenizer = build_tokenizer(ModelConfig(), TEXTS * 20)
        module = build_model(ModelConfig(), spec, tokenizer, seed=1).module.eval()
        inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
        with torch.no_grad():  # an untrained model answers the same to everything
            last = getattr(module.classifier, "out_proj", module.classifier)
            last.weight *= 20
            last.bias -= module(**inputs).logits.flatten(0, -2).mean(0)
        module.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        write_description(folder / "model", Description(spec, MAX_LENGTH))
        (folder / "model" / "README.md").write_text("# A model\n")
        save_flavor(folder / "model", None, Description(spec, MAX_LENGTH), folder / "saved", Model())
        found[name] = load_model(str(folder / "saved")), load_predictor(name, folder / "model")
        found["folder"] = found.get("folder", folder)
    return found


def posted(model, body, kind="application/json"):
    """The answer of a server with the model to a request."""
    content = body if isinstance(body, str) else json.dumps(body)
    found = scoring_server.invocations(content, kind, model, model.metadata.get_input_schema())
    assert found.status == 200, found.response
    return json.loads(found.response)["predictions"]


def alike(found, expected):
    found = found.to_dict(orient="records") if isinstance(found, pandas.DataFrame) else found
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            assert one[key] == (pytest.approx(value, abs=5e-6) if key == "probabilities" else value)


def test_several_labels_are_answered_as_predict_does(served):
    model, predictor = served["multi_label"]
    expected = predictor.predict(TEXTS)
    assert len({json.dumps(answer["labels"]) for answer in expected}) > 2, "or the test sees nothing"
    table = pandas.DataFrame({"id": range(len(TEXTS)), "body": TEXTS})
    for ask in (TEXTS, table, table.rename(columns={"body": "text"}), table.to_dict(orient="records"), {"body": TEXTS}):
        alike(model.predict(ask), expected)
    alike(posted(model, {"dataframe_records": table.to_dict(orient="records")}), expected)
    alike(posted(model, table.to_csv(index=False), "text/csv"), expected)
    alike(model.predict(TEXTS[0]), expected[:1])


def test_the_mixture_of_several_labels_has_the_mean_of_its_members_probabilities(served, tmp_path):
    folder = with_members(served["folder"], 2)
    members = sorted((folder / "snapshots").iterdir())
    save_flavor(folder / "model", None, Description(SPECS["multi_label"], MAX_LENGTH), tmp_path / "saved", Model(), members)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    with torch.no_grad():
        each = [AutoModelForSequenceClassification.from_pretrained(one)(**inputs).logits.double().sigmoid() for one in members]
    mean = torch.stack(each).mean(0)
    assert (each[0] - mean).abs().max() > 1e-3, "or the test sees nothing"
    found = load_model(str(tmp_path / "saved")).predict(TEXTS, params={"mixture": True}).to_dict(orient="records")
    names = SPECS["multi_label"].labels
    for answer, row in zip(found, mean.tolist(), strict=True):
        assert answer["probabilities"] == pytest.approx(dict(zip(names, row, strict=True)), abs=1e-5)
        assert list(answer["labels"]) == [name for name, share in zip(names, row, strict=True) if share > 0.5]


def test_words_are_answered_as_predict_does(served):
    model, predictor = served["token_classification"]
    expected = predictor.predict(WORDS)
    assert len({tag for answer in expected for tag in answer["tags"]}) > 2 and any(answer["entities"] for answer in expected)
    assert [len(answer["tags"]) for answer in expected] == [len(words) for words in WORDS]
    assert kind_of(SPECS["token_classification"]).unread(predictor.tokenizer, list(predictor._examples(WORDS)), MAX_LENGTH)
    table = pandas.DataFrame({"id": range(len(WORDS)), "words": WORDS})
    in_cells = table.assign(words=[json.dumps(words) for words in WORDS])
    columns = {"words": WORDS, "id": list(range(len(WORDS)))}
    arrays = table.assign(words=[np.array(words, dtype=object) for words in WORDS])
    for ask in (
        WORDS, TEXTS[: len(WORDS)], table, table.rename(columns={"words": "tokens"}), table.to_dict(orient="records"), in_cells,
        columns, arrays,
    ):  # fmt: skip
        alike(model.predict(ask), expected)
    rows = table.to_dict(orient="records")
    for body in ({"dataframe_records": rows}, {"dataframe_split": table.to_dict(orient="split")}):
        alike(posted(model, body), expected)
    alike(posted(model, in_cells.to_csv(index=False), "text/csv"), expected)
    alike(model.predict(TEXTS[0]), expected[:1])
    for wrong in ({"words": [[]]}, {"words": [[1]]}, {"words": [None]}, {"other": [["a"]]}):
        with pytest.raises(MlflowException):
            model.predict(wrong)
