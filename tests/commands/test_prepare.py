"""`mat-ds prepare`: training on its folder equals training on the files, and later changes of the inputs are named."""

import json
import shlex
import shutil
import socket

import datasets
import pytest
import torch

from mat_ds.cli import main
from mat_ds.commands.prepare import save_model
from mat_ds.errors import ExitCode, UserError
from mat_ds.models.build import build_model, build_tokenizer, longest_input
from mat_ds.models.options import ModelConfig
from mat_ds.models.unread import value_of
from mat_ds.ranks.world import World
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator, TrainLoader
from mat_ds.tasks.manifest import describe_tokenizer
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.stored import store_examples, stored_examples
from tests.conftest import sentence
from tests.models.test_families import save
from tests.support import run_folders
from tests.support.families import DECODERS, FAMILIES
from tests.support.printed_examples import check
from tests.tasks.test_bad_rows import lines, write

ZERO2 = ("--ds_config", "zero2")
pytestmark = pytest.mark.usefixtures("offline")

CPU, COMMIT = torch.device("cpu"), "0123456789" * 4
BATCH = ("train.batch_size=16", "train.micro_batch_size=4")


@pytest.fixture
def from_hub(monkeypatch, hub, raw):
    """Lets transformers and datasets load somebody/bert and nyu-mll/glue as from a hub; records what was loaded."""
    from mat_ds.models import pretrained

    asked = []
    for loader in (pretrained.AutoConfig, pretrained.AutoTokenizer, pretrained.transformers.AutoModelForSequenceClassification):

        def from_pretrained(name, *args, original=loader.from_pretrained, revision=None, **options):
            asked.append(f"{name}@{revision}" if revision else name)
            return original(str(hub) if name == "somebody/bert" else name, *args, **options)

        monkeypatch.setattr(loader, "from_pretrained", from_pretrained)

    def load_dataset(name, config, split, revision):
        asked.append(name if revision is None else f"{name}@{revision}")
        found = datasets.Dataset.from_json(str(raw / config / f"{split}.jsonl"))
        found.info.download_checksums = {f"hf://datasets/{name}@{COMMIT}/x.parquet": None}
        return found

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config, revision: ["train", "validation", "test"])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def prepare(*arguments):
    assert main(["prepare", *map(str, arguments)]) == ExitCode.OK


def told(capsys, *arguments):
    """The error of a `mat-ds prepare` that must fail."""
    assert main(["prepare", *map(str, arguments)]) == ExitCode.USER_ERROR
    return capsys.readouterr().err


def run(*options, world=World()):  # noqa: B008
    return run_folders.prepare([*ZERO2, *BATCH, *map(str, options)], world)


def problems(*options, **more):
    with pytest.raises(UserError) as caught:
        run(*options, **more)
    return {problem.key: problem for problem in caught.value.problems}


def batches(setup, steps):
    """Inputs and labels of every micro-batch of a few steps, and of each evaluation split."""
    options, data, collate = setup.options.run, setup.data.examples, setup.data.collate
    loader = TrainLoader(
        data.train, collate, options.train.batch_size, options.train.micro_batch_size, options.data, options.seed, 0, 1, CPU
    )
    found = [(batch.inputs, batch.labels) for step in range(steps) for batch in loader.micro_batches(step)]
    splits = [*data.dev.values(), *data.test.values()]
    return found + [collate([examples[i] for i in range(len(examples))], CPU) for examples in splits]


def same(one, other, steps=14):
    """Whether the inputs of two runs, before ranks connect, are equal to the last bit."""
    for (inputs, labels), (others, other_labels) in zip(batches(one, steps), batches(other, steps), strict=True):
        assert list(inputs) == list(others) and torch.equal(labels, other_labels) and labels.dtype == other_labels.dtype
        for name, value in inputs.items():
            assert torch.equal(value, others[name]) and value.dtype == others[name].dtype
    assert one.data.max_length == other.data.max_length
    assert one.start.data_digest == other.start.data_digest and one.start.weights_digest == other.start.weights_digest
    return True


@pytest.mark.parametrize("task", ["cola", "mrpc", "stsb"])
def test_a_run_on_prepared_data_equals_the_run_on_the_files(task, raw, hub, tmp_path):
    options = (f"task={task}", "data.max_length=16", f"model.name={hub}", "model.dropout=0.1")
    prepare(tmp_path / "out", *options, f"data.path={raw}", "data.train_limit=3", "data.eval_limit=2")
    tokens = run(*options, f"data.path={tmp_path}/out").data.examples.train[1].tokens
    assert set(tokens) == {"input_ids", "token_type_ids"} and len(tokens["input_ids"]) <= 16
    for more in ((), ("seed=3", "data.group_by_length=true"), ("data.train_limit=37", "data.eval_limit=5", "data.augment={}")):
        assert same(run(*options, f"data.path={raw}", *more), run(*options, f"data.path={tmp_path}/out", *more))


def test_the_hubs_model_is_saved_without_the_head_that_each_seed_initialises(from_hub, hub, tmp_path, capsys):
    from safetensors.torch import load_file

    options = ("task=cola", "model.name=somebody/bert", "data.max_length=12")
    prepare(tmp_path / "out", *options)
    assert {"somebody/bert", "nyu-mll/glue"} <= set(from_hub)
    words = check(shlex.split(capsys.readouterr().out.splitlines()[-1]))
    assert words[:2] == [*ZERO2] and f"model.name={tmp_path}/out/model" in words
    weights = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert weights and not any("classifier" in name for name in weights)
    for seed in (0, 1):
        source = run(*options, f"seed={seed}")
        from_hub.clear()
        stored = run(*words[2:], f"seed={seed}")
        assert same(source, stored) and stored.model.fresh == source.model.fresh == ["classifier.bias", "classifier.weight"]
        assert not {"somebody/bert", "nyu-mll/glue"} & set(from_hub)


def test_the_demo_can_be_prepared_and_trained_on_by_any_number_of_ranks(tmp_path, capsys):
    prepare(tmp_path / "out", "seed=4")
    words = check(shlex.split(capsys.readouterr().out.splitlines()[-1]))
    demo = ("train.batch_size=64", "train.micro_batch_size=4")
    found = run(*words[2:], *demo, world=World(0, 16, 0, 8))
    assert len(found.data.examples.train) == 12000 and same(run("seed=4", *demo), run(*words[2:], *demo))
    refused = problems("seed=4", *demo, world=World(0, 16, 0, 8))
    assert "each of 16 ranks" in refused["data.path"].reason and "mat-ds prepare <folder>" in refused["data.path"].fix


def test_more_than_eight_ranks_must_use_prepared_data(raw, hub):
    options = ("task=cola", f"data.path={raw}", f"model.name={hub}", "train.batch_size=72", "train.micro_batch_size=1")
    assert len(run(*options, world=World(0, 8, 0, 8)).data.examples.train) == 90
    found = problems(*options, world=World(0, 9, 0, 8))
    assert set(found) == {"data.path"} and "each of 9 ranks would read and tokenise all of it" in found["data.path"].reason


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_tokens_are_padded_like_tokenised_texts_for_every_family(family, tmp_path):
    tokens = {"eos_token": "</s>"} if family in DECODERS else {"eos_token": "</s>", "pad_token": "<pad>"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    options = save(tmp_path / "model", family, padding_side="left", model_input_names=names, **tokens)
    write(tmp_path, "raw/mnli/train.jsonl", lines(*({"premise": sentence(i), "hypothesis": sentence(2 * i), "label": i % 3}
                                                    for i in range(20))))  # fmt: skip
    spec = TASKS["mnli"].model_copy(update={"dev": ("train",), "test": ()})
    examples = load_task_data(spec, DataConfig(path=str(tmp_path / "raw"))).train
    tokenizer = build_tokenizer(options, ())
    longest = longest_input(build_model(options, spec, tokenizer, 0).module, tokenizer)
    store_examples(tmp_path / "stored", examples, tokenizer, longest, spec)
    stored = stored_examples([tmp_path / "stored"], None, with_tokens=True, spec=spec)
    assert list(stored) == list(examples) and all(example.tokens for example in stored)
    collate = Collator(tokenizer, longest, kind_of(spec))
    for rows in (range(20), range(3, 7), [0]):
        one, other = (collate([found[i] for i in rows], CPU)[0] for found in (examples, stored))
        assert list(one) == list(other)
        assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["mnli", "cola"])
def test_a_saved_copy_equals_the_model_of_every_family_and_seeds_give_the_same_head(task, family, tmp_path):
    """MNLI's head of three labels is in the folder; CoLA's, of two, must be initialised."""
    tokens = {"eos_token": "</s>"} if family in DECODERS else {"eos_token": "</s>", "pad_token": "<pad>"}
    save(tmp_path / "model", family, **tokens)

    def built(name, seed, leave_unread):
        options = ModelConfig(name=str(tmp_path / name))
        tokenizer = build_tokenizer(options, ())
        found = build_model(options, TASKS[task], tokenizer, seed, leave_unread)
        values = [value_of(parameter, found.unread) for parameter in found.module.parameters()]
        return found.fresh, len(found.unread), values, describe_tokenizer(tokenizer), tokenizer, found

    *_, tokenizer, found = built("model", 0, False)
    assert bool(found.fresh) == (task == "cola")
    save_model(found, tokenizer, tmp_path / "copy")
    for seed, leave_unread in ((0, False), (1, False), (1, True)):
        one, other = (built(name, seed, leave_unread) for name in ("model", "copy"))
        assert one[:2] == other[:2] and one[3] == other[3]
        assert all(torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))


def test_training_on_a_prepared_folder_asks_for_no_network(raw, hub, tmp_path, monkeypatch):
    options = ("task=cola", f"model.name={hub}")
    prepare(tmp_path / "out", *options, f"data.path={raw}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    asked = []

    def refuse(*address, **more):
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(run(*options, f"data.path={tmp_path}/out").data.examples.train) == 90 and not asked


def test_every_later_change_is_named_in_one_message(raw, hub, tmp_path):
    task = tmp_path / "own.yaml"
    task.write_text("text: [sentence]\nlabels: [bad, good]\ntrain: [train]\ntest: []\n")
    shutil.copytree(raw / "cola", tmp_path / "own")
    with (tmp_path / "own" / "train.jsonl").open("a") as file:
        file.write("oops\n")
    out = tmp_path / "out"
    options = (f"task={task}", f"model.name={hub}", "data.bad_rows=skip", "data.max_length=16")
    prepare(out, *options, f"data.path={tmp_path}")
    assert len(run(*options, f"data.path={out}").data.examples.train) == 90

    save(tmp_path / "other", "bert", pad_token="<unk>", eos_token="</s>")
    task.write_text("text: [sentence]\nlabels: [good, bad]\ntrain: [train, more]\ntest: []\n")
    changed = (f"task={task}", f"model.name={tmp_path}/other", "data.max_length=12", f"data.path={out}")
    found = problems(*changed)
    assert set(found) == {
        "task own: labels", "task own: train", "data.bad_rows", "data.max_length",
        *(f"model.name: {key} of the tokenizer" for key in ("pad_token_id", "inputs", "rules_sha256")),
    }  # fmt: skip
    assert found["task own: labels"].value == ["good", "bad"] and "['bad', 'good']" in found["task own: labels"].reason
    assert found["data.max_length"].value == 12 and "was prepared with 16" in found["data.max_length"].reason
    assert "data.max_length=16" in found["data.max_length"].fix
    assert "1 bad rows were left out" in found["data.bad_rows"].reason
    assert "was prepared for own" in problems("task=cola", *changed[1:])["task"].reason


def test_a_tokenizer_with_another_vocabulary_or_other_rules_is_refused(raw, hub, tmp_path):
    prepare(tmp_path / "out", "task=cola", f"model.name={hub}", f"data.path={raw}")
    shutil.copytree(hub, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    before = json.loads(file.read_text())
    swapped = {**before["model"]["vocab"], "a": before["model"]["vocab"]["b"], "b": before["model"]["vocab"]["a"]}
    for change, expected in (
        ({"model": {**before["model"], "vocab": swapped}}, {"vocabulary_sha256", "rules_sha256"}),
        ({"normalizer": {"type": "Lowercase"}}, {"rules_sha256"}),
    ):
        file.write_text(json.dumps({**before, **change}))
        found = problems("task=cola", f"model.name={tmp_path}/other", f"data.path={tmp_path}/out")
        assert set(found) == {f"model.name: {key} of the tokenizer" for key in expected}
