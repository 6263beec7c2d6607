"""`mat-ds soup`: the average is that of the weights, greedy leaves out what lowers the score, and what has none is refused."""

import json
import shutil
from itertools import islice

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mat_ds.artifacts.finished import read_finished
from mat_ds.errors import UserError
from mat_ds.evaluation.soup import dev_score, make_soup, read_ingredients
from mat_ds.ranks.world import World
from mat_ds.tasks.demo import rows
from tests.support.heads import MAX_LENGTH, adapter_run, finished_run
from tests.support.small_engine import one_rank


def moved(run, shift):
    """The run with all its weights shifted."""
    file = next((run / "model").glob("*.safetensors"))
    save_file({name: value + shift for name, value in load_file(file).items()}, file, {"format": "pt"})
    return run


@pytest.fixture
def three(tmp_path):
    return [moved(finished_run(tmp_path / str(i), "cola"), shift) for i, shift in enumerate((0.0, 1.0, 5.0))]


def bias(model):
    return float(model.state_dict()["classifier.out_proj.bias"][0])


def test_all_runs_are_averaged_and_the_result_loads_with_plain_transformers(three, tmp_path):
    made = make_soup(read_ingredients(three), tmp_path / "soup", False, bias)
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "soup").state_dict()
    each = [AutoModelForSequenceClassification.from_pretrained(run / "model").state_dict() for run in three]
    for name, value in found.items():
        torch.testing.assert_close(
            value.double(), torch.stack([one[name].double() for one in each]).mean(0), rtol=1e-6, atol=1e-7
        )
    assert made.score == pytest.approx(sum(made.scores.values()) / 3) and made.used == tuple(three)
    card, kept = (tmp_path / "soup" / "README.md").read_text(), json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert "uniform average" in card and f"{made.score:.4f}" in card and len(kept["runs"]) == 3


def test_greedily_runs_that_lower_the_score_are_left_out(three, tmp_path):
    start = bias(AutoModelForSequenceClassification.from_pretrained(three[0] / "model"))

    def score(model):  # best at a shift of 0.6; of the runs alone that of 1.0 is nearest, then 0.0
        return -abs(bias(model) - start - 0.6)

    made = make_soup(read_ingredients(three), tmp_path / "soup", True, score)
    assert made.used == (three[1], three[0]) and made.score == pytest.approx(-0.1, abs=1e-4)
    assert "greedily" in (tmp_path / "soup" / "README.md").read_text()


def test_adapters_are_merged_before_they_are_averaged(tmp_path):
    one = adapter_run(tmp_path / "one", tmp_path / "base")
    shutil.copytree(one, tmp_path / "two")
    moved(tmp_path / "two", 0.1)
    make_soup(read_ingredients([one, tmp_path / "two"]), tmp_path / "soup", False, bias)
    name = "roberta.encoder.layer.0.attention.self.query"
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base").state_dict()[f"{name}.weight"].double()
    expected = torch.zeros_like(base)
    for run in (one, tmp_path / "two"):
        held = load_file(run / "model" / "adapter_model.safetensors")
        a, b = (held[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        alpha = json.loads((run / "model" / "adapter_config.json").read_text())["lora_alpha"]
        expected += (base + alpha / len(a) * b @ a) / 2
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "soup").state_dict()[f"{name}.weight"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_what_has_no_average_is_refused(three, tmp_path):
    for other, told in (
        (finished_run(tmp_path / "task", "mnli"), "has the task mnli"),
        (finished_run(tmp_path / "dev", "cola", dev="another"), "other dev examples"),
        (finished_run(tmp_path / "seed", "cola", seed=1), "other random weights"),
        (finished_run(tmp_path / "base", "cola", model={"name": str(tmp_path)}), "was made from"),
        (three[0], "two or more different"),
    ):
        with pytest.raises(UserError, match=told):
            read_ingredients([three[0], other])
    config = json.loads((three[1] / "model" / "config.json").read_text())
    names = {"0": "acceptable", "1": "unacceptable"}
    numbers = {name: int(number) for number, name in names.items()}
    (three[1] / "model" / "config.json").write_text(json.dumps({**config, "id2label": names, "label2id": numbers}))
    with pytest.raises(UserError, match="numbers its labels otherwise"):
        make_soup(read_ingredients(three[:2]), tmp_path / "soup", False, bias)
    assert not (tmp_path / "soup").exists()


def test_the_score_is_that_of_plain_transformers_on_the_dev_split(tmp_path):
    run = finished_run(tmp_path / "run", "demo")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["eval_limit"] = 50
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    model = AutoModelForSequenceClassification.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    examples, counts = list(islice(rows("validation"), 50)), torch.zeros(2, 2, dtype=torch.float64)
    for row in examples:
        inputs = tokenizer(row["sentence"], truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        counts[row["label"], model(**inputs).logits.argmax().item()] += 1
    # Matthews' coefficient of the four counts.
    sides = counts.sum(0).prod() * counts.sum(1).prod()
    expected = (counts[0, 0] * counts[1, 1] - counts[0, 1] * counts[1, 0]) / sides.sqrt()
    with one_rank():
        found = dev_score(read_finished(run), World(), torch.device("cpu"))(model)
    assert found == pytest.approx(expected.item(), abs=1e-6) and sides > 0
