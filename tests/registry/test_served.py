"""A registered model finds the text column by its name, in every input format of MLflow."""

import json

import numpy as np
import pandas
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import load_model, scoring_server

from mat_ds.artifacts.calibrated import write_temperature
from mat_ds.artifacts.described import Description
from mat_ds.registry.flavor import save_flavor
from mat_ds.tasks.registry import TASKS
from tests.support.heads import MAX_LENGTH, finished_run

TEXTS = ["The key is golden.", "42", "Nobody saw the keys near the cabinets."]
OTHERS = ["A key.", "No key is golden.", "['a']"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models loaded by MLflow: one for single sentences and one for pairs."""
    found = {}
    for task in ("cola", "stsb"):
        folder = tmp_path_factory.mktemp(task)
        finished_run(folder / "run", task)
        if task == "cola":
            write_temperature(folder / "run" / "model", {"temperature": 2.5, "fitted_on": ["validation"], "examples": 2})
        save_flavor(folder / "run" / "model", None, Description(TASKS[task], MAX_LENGTH), folder / "saved", Model())
        found[task] = load_model(str(folder / "saved"))
    return found


def posted(model, body, kind="application/json"):
    """The answer of a server with the model to a request."""
    content = body if isinstance(body, str) else json.dumps(body)
    found = scoring_server.invocations(content, kind, model, model.metadata.get_input_schema())
    return json.loads(found.response)["predictions"] if found.status == 200 else found.response


def csv(table):
    return table.to_csv(index=False)


def alike(found, expected):
    found = found.to_dict(orient="records") if isinstance(found, pandas.DataFrame) else found
    assert len(found) == len(expected), found
    for one, other in zip(found, expected.to_dict(orient="records"), strict=True):
        assert one.get("label") == other.get("label")
        if (score := other.get("score")) is not None:
            assert one["score"] == pytest.approx(score, rel=2e-6)
        assert one.get("probabilities") == pytest.approx(other.get("probabilities"), abs=1e-6)


def refused(ask, *told):
    with pytest.raises(MlflowException) as error:
        ask()
    assert all(word in str(error.value) for word in told), error.value


def test_a_request_may_ask_for_calibrated_probabilities(models):
    plain, calibrated = (models["cola"].predict(TEXTS, params={"calibrated": asked}) for asked in (False, True))
    assert plain.equals(models["cola"].predict(TEXTS))
    for row, other in zip(plain["probabilities"], calibrated["probabilities"], strict=True):
        rooted = {
            name: share ** (1 / 2.5) for name, share in row.items()
        }  # softmax(z / T) is proportional to softmax(z)^(1 / T)
        assert other == pytest.approx({name: share / sum(rooted.values()) for name, share in rooted.items()}, abs=1e-6)
    assert plain["label"].tolist() == calibrated["label"].tolist()


def test_a_text_column_is_found_by_name_and_needs_none_if_it_is_the_only_column(models):
    model = models["cola"]
    expected = pandas.concat([model.predict([text]) for text in TEXTS], ignore_index=True)
    assert len({json.dumps(row) for row in expected["probabilities"]}) == 3
    for name in ("sentence", "text"):
        table = pandas.DataFrame({"id": ["one", "two", "three"], name: TEXTS, "label": [0, 1, 0]})
        for ask in (
            table,
            table[[name]],
            table[[name, "id"]],
            {name: TEXTS},
            {"id": [1, 2, 3], name: TEXTS},
            table.to_dict(orient="records"),
            {name: np.array(TEXTS)},
        ):
            alike(model.predict(ask), expected)
        rows = table.to_dict(orient="records")
        for body in (
            {"dataframe_split": table.to_dict(orient="split")},
            {"inputs": {"id": [1, 2, 3], name: TEXTS}},
            {"dataframe_records": rows},
            {"instances": rows},
        ):
            alike(posted(model, body), expected)
        alike(posted(model, csv(table), "text/csv"), expected)
    for ask in (TEXTS, np.array(TEXTS), pandas.Series(TEXTS), pandas.DataFrame(TEXTS)):
        alike(model.predict(ask), expected)
    alike(model.predict(TEXTS[0]), expected[:1])
    alike(model.predict({"text": TEXTS[0]}), expected[:1])
    for body in ({"inputs": TEXTS}, {"instances": TEXTS}):
        alike(posted(model, body), expected)


def test_a_table_without_a_text_column_or_with_two_is_refused(models):
    model = models["cola"]
    named = pandas.DataFrame({"id": ["a", "b"], "review": ["good", "bad"]})
    for ask in (named, named[["id"]], named[["review"]], {"id": ["a"]}, [{"id": "a"}], named.set_axis([0, 1], axis=1)):
        refused(lambda ask=ask: model.predict(ask), "sentence")
    for body in ({"dataframe_split": named.to_dict(orient="split")}, {"dataframe_records": named.to_dict(orient="records")}):
        refused(lambda body=body: posted(model, body), "'id', 'review'")
    refused(lambda: posted(model, csv(named), "text/csv"), "'id', 'review'")
    refused(lambda: model.predict(pandas.DataFrame({"text": ["a"], "sentence": ["b"]})), "more than one")
    refused(lambda: model.predict(pandas.DataFrame([["a", "b"]], columns=["sentence", "sentence"])), "more than one")
    for wrong in (None, 3, 0.5, ["a"]):
        refused(lambda wrong=wrong: model.predict({"sentence": [["a"], wrong][1:]}), "is not a text")
        refused(lambda wrong=wrong: model.predict(["a", wrong]), "row 1")


def test_the_columns_of_a_pair_are_found_by_name_and_never_by_position(models):
    model = models["stsb"]
    pair = pandas.DataFrame({"text": TEXTS, "text_pair": OTHERS})
    expected = pandas.concat([model.predict(pair[i : i + 1]) for i in range(3)], ignore_index=True)
    swapped = model.predict(pandas.DataFrame({"text": OTHERS, "text_pair": TEXTS}))
    assert abs(expected["score"] - swapped["score"]).max() > 1e-4, "or the test sees nothing"
    own = pair.set_axis(["sentence1", "sentence2"], axis=1)
    for table in (pair, own, own[["sentence2", "sentence1"]].assign(id="x"), pair.assign(sentence1="left over")):
        alike(model.predict(table), expected)
        alike(model.predict(table.to_dict(orient="records")), expected)
        alike(posted(model, {"dataframe_split": table.to_dict(orient="split")}), expected)
        alike(posted(model, csv(table), "text/csv"), expected)
    for ask in (own[["sentence1"]], TEXTS, [TEXTS[:2]], pair.set_axis(["text", "sentence2"], axis=1), pair.join(own)):
        refused(lambda ask=ask: model.predict(ask), "sentence1, sentence2")
