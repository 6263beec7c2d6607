"""Mixtures: each split is repeated as often as the task says, in reading, counting, planning and preparing."""

import json
from collections import Counter

import pytest
import torch

from mat_ds.errors import UserError
from mat_ds.planning.extent import assume
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import TrainConfig
from mat_ds.tasks.examples import digest_of, load_task_data, train_splits
from mat_ds.tasks.loader import TrainLoader
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS, TRAINING_EXAMPLES, find_task
from mat_ds.tasks.spec import TaskSpec
from mat_ds.training.announce import _repeated

NLI = "text: [premise, hypothesis]\nlabels: [entailment, neutral, contradiction]\n"


@pytest.fixture
def folder(tmp_path):
    """Two own splits and MNLI, with two, three and four examples; all texts differ."""
    sizes = {"own/small": 2, "own/large": 3, "own/validation": 1, "mnli/train": 4}
    for name, size in sizes.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [{"premise": f"{name} {i}", "hypothesis": "h", "label": i % 3} for i in range(size)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def task(folder, text):
    (folder / "own.yaml").write_text(NLI + text)
    return find_task(str(folder / "own.yaml"))


def load(folder, text, **data):
    return load_task_data(task(folder, text), DataConfig(path=str(folder), **data))


def counts(data):
    return Counter(example.texts[0].split()[0] for example in data.train)


def problem(folder, text):
    with pytest.raises(UserError) as caught:
        task(folder, text)
    return str(caught.value)


def test_a_list_means_each_source_once_and_a_mapping_gives_repeats(folder):
    assert counts(load(folder, "train: small\nalso_train_on: mnli\n")) == {"own/small": 2, "mnli/train": 4}
    once = load(folder, "train: [small, large]\nalso_train_on: [mnli]\n")
    assert counts(once) == {"own/small": 2, "own/large": 3, "mnli/train": 4}
    data = load(folder, "train: {small: 5, large: 1}\nalso_train_on: {mnli: 2}\n")
    assert counts(data) == {"own/small": 10, "own/large": 3, "mnli/train": 8}
    assert len(set(data.train)) == 9, "the examples are the same ones"
    tallies = {name: tally.kept for name, tally in data.tallies.items()}
    assert tallies == {"own/small": 2, "own/large": 3, "mnli/train": 4, "own/validation": 1}, "rows are counted once"
    assert digest_of({"train": data.train}) != digest_of({"train": once.train})


def test_an_added_task_keeps_its_own_repeats(folder, monkeypatch):
    monkeypatch.setitem(TASKS, "mnli", TASKS["mnli"].model_copy(update={"train": {"train": 3}}))
    assert counts(load(folder, "train: [small]\nalso_train_on: {mnli: 2}\n")) == {"own/small": 2, "mnli/train": 24}


@pytest.mark.parametrize("limit", range(1, 26))
def test_a_limit_counts_repeated_examples_and_takes_the_first(folder, limit):
    text = "train: {small: 5, large: 2}\nalso_train_on: {mnli: 2}\n"
    whole = load(folder, text)
    assert load(folder, text, train_limit=limit).train == whole.train[:limit] and len(whole.train) == 24


def test_an_epoch_repeats_each_example_as_the_task_says(folder):
    data = load(folder, "train: {small: 4, large: 2}\nalso_train_on: {mnli: 1}\n")
    rows = {example: i for i, example in enumerate(dict.fromkeys(data.train))}

    def collate(examples, device):
        return {"attention_mask": torch.ones(len(examples), 1)}, torch.tensor([rows[example] for example in examples])

    options = TrainConfig(batch_size=6, micro_batch_size=2)
    for group in (False, True):
        shown = DataConfig(group_by_length=group)
        loader = TrainLoader(
            data.train, collate, options.batch_size, options.micro_batch_size, shown, 0, 0, 1, torch.device("cpu")
        )
        assert loader.steps_per_epoch == 3 and loader.dropped_per_epoch == 0
        seen = Counter(row for step in range(3) for batch in loader.micro_batches(step) for row in batch.labels.tolist())
        assert seen == Counter(rows[example] for example in data.train)


def test_repeats_are_printed_before_training(folder):
    (line,) = _repeated(load(folder, "train: {small: 5, large: 1}\nalso_train_on: [mnli]\n"))
    assert line.split(None, 1) == ["mixture", "5 x own/small, 1 x own/large, 1 x mnli/train"]
    assert not list(_repeated(load(folder, "train: [small, large]\nalso_train_on: [mnli]\n")))


def test_a_plan_counts_the_repeated_examples_of_the_published_mixture():
    rounds, others = {"anli_r1": 10, "anli_r2": 20, "anli_r3": 10}, ("mnli", "snli", "fever_nli")
    shown = sum(TRAINING_EXAMPLES[name] * times for name, times in rounds.items())
    assert {split.removeprefix("train_"): n for _, split, n in train_splits(TASKS["anli_mixture"]) if "_" in split} == {
        name.removeprefix("anli_"): times for name, times in rounds.items()
    }
    total = shown + sum(TRAINING_EXAMPLES[name] for name in others)
    run = load_run_config(None, ["task=anli_mixture", "train.batch_size=32", "train.epochs=1"])
    assert assume(run, TASKS["anli_mixture"], None, 156, None).steps == total // 32
    assert 0.6 < shown / total < 0.7, "ANLI is about two thirds of it"


@pytest.mark.parametrize(
    "spec",
    [
        TASKS["anli_mixture"],
        TASKS["cola"],
        TaskSpec(name="own", text=("a",), labels=("x", "y"), train={"a": 2, "b": 1}, also_train_on=("cola",)),
    ],
)
def test_a_description_with_repeats_is_read_back_unchanged(spec):
    written = spec.model_dump_json()
    assert TaskSpec.model_validate_json(written) == spec
    again = TaskSpec.model_validate_json(written)
    assert list(again.train.items()) == list(spec.train.items()), "in the same order"


def test_the_description_of_a_task_without_repeats_is_a_list_as_before():
    described = TASKS["anli"].model_dump(mode="json")
    assert described["train"] == ["train_r1", "train_r2", "train_r3"] and described["also_train_on"] == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("train: {small: 0}", "greater than or equal to 1"),
        ("train: {small: -3}", "greater than or equal to 1"),
        ("train: {small: 1.5}", "valid integer"),
        ("train: {small: true}", "valid integer"),
        ("train: {small: ten}", "valid integer"),
        ("train: {small: 100000}", "less than or equal to 1000"),
        ("train: {small: null}", "valid integer"),
        ("train: {}", "at least 1"),
        ("train: []", "at least 1"),
        ("train: [small, small]", "listed twice"),
        ("also_train_on: [mnli, mnli]", "listed twice"),
        ("also_train_on: {mnli: 0}", "greater than or equal to 1"),
        ("also_train_on: {cola: 2}", "number of texts"),
        ("also_train_on: {nosuch: 2}", "same labels"),
        ("also_train_on: [anli_mixture]", "mixture itself"),
        ("train: {../../x: 2}", "not allowed as a name"),
        ("also_train_on: {mnli: {a: 1}}", "valid integer"),
        ("name: mnli\nalso_train_on: [mnli]", "the task itself"),
    ],
)
def test_invalid_mixtures_are_refused(folder, text, words):
    assert words in problem(folder, text)
