"""Models of multiple choice and of span QA answer alike wherever they are asked, and are attacked, prepared and planned for."""

import csv
import io
import json
import shutil

import pandas
import pytest
import torch
import yaml
from mlflow.models import Model
from mlflow.pyfunc import load_model, scoring_server
from transformers import BertConfig, BertModel

from mat_ds.artifacts.described import Description, write_description
from mat_ds.artifacts.exported import load_exported
from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.evaluation.predictor import load_predictor
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.lora import write_adapter
from mat_ds.models.options import LoraConfig, ModelConfig
from mat_ds.ranks.world import World
from mat_ds.registry.flavor import save_flavor
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.rows import make_example
from tests.support.measured import measured
from tests.support.members import with_members
from tests.support.run_folders import prepare
from tests.tasks.test_multiple_choice import QUESTIONS, published
from tests.tasks.test_span_qa import QUESTIONS as SPANS
from tests.tasks.test_span_qa import row_of

LENGTH = 40
TASKS = {
    "multiple_choice": {"text": "question", "label": "answerKey"},
    "span_qa": {"text": ["question", "context"], "label": "answers", "unanswerable": True, "metrics": ["squad_em", "squad_f1"]},
}
ROWS = {
    "multiple_choice": [{**row, "id": f"q{i}"} for i, row in enumerate(published("arc"))],
    "span_qa": [{**row_of(*question), "id": f"q{i}"} for i, question in enumerate(SPANS)],
}


@pytest.fixture(scope="module", params=TASKS)
def made(request, tmp_path_factory):
    """(folder of data and model, task, rows): an untrained model whose answers differ."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    (folder / "own.yaml").write_text(yaml.safe_dump({"kind": kind, "test": [], **TASKS[kind]}))
    (folder / "own").mkdir()
    for split in ("train", "validation"):
        (folder / "own" / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[kind]))
    spec = find_task(str(folder / "own.yaml"))
    texts = [text for question in (*QUESTIONS, *SPANS) for text in question[:2] if isinstance(text, str)]
    tokenizer = build_tokenizer(ModelConfig(), texts * 10)
    module = build_model(ModelConfig(), spec, tokenizer, 0).module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 1.5
    module.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_description(folder / "model", Description(spec, LENGTH))
    return folder, spec, ROWS[kind]


def predicted(folder, *arguments):
    out = folder / "answers.jsonl"
    out.unlink(missing_ok=True)
    assert main(["predict", str(folder / "model"), *map(str, arguments), "--out", str(out)]) == ExitCode.OK
    return [json.loads(line) for line in out.read_text().splitlines()]


def alike(one, other):
    assert one.keys() >= other.keys()
    for key, value in other.items():
        assert one[key] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-5)), key


def test_files_texts_rows_and_a_server_get_the_same_answers(made, tmp_path, capsys):
    folder, spec, rows = made
    kind = kind_of(spec)
    answers = predicted(folder, folder / "own" / "validation.jsonl", "--batch_size", 2)
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    assert len({json.dumps([answer[key] for key in kind.answer_types]) for answer in answers}) == len(rows)
    own = [{key: answer[key] for key in kind.answer_types} for answer in answers]
    for one, other in zip(load_predictor("m", folder / "model").predict(rows), own, strict=True):
        alike(one, other)
    example = kind.texts(rows[0])
    alike(predicted(folder, *(word for text in example for word in ("--text", text)))[0], own[0])
    assert main(["predict", str(folder / "model"), "--text", "one"]) == ExitCode.USER_ERROR
    assert kind.texts_in_turn in capsys.readouterr().err
    table = tmp_path / "answers.csv"
    assert (
        main(["predict", str(folder / "model"), str(folder / "own" / "validation.jsonl"), "--out", str(table)]) == ExitCode.OK
    )
    read = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["id"] for row in read] == [row["id"] for row in rows] and set(kind.answer_types) <= set(read[0])
    save_flavor(folder / "model", None, Description(spec, LENGTH), tmp_path / "saved", Model())
    served = load_model(str(tmp_path / "saved"))
    for ask in (rows, pandas.DataFrame(rows)):
        for one, other in zip(served.predict(ask).to_dict(orient="records"), own, strict=True):
            alike(one, other)
    found = scoring_server.invocations(json.dumps({"dataframe_records": rows}), "application/json", served, None)
    for one, other in zip(json.loads(found.response)["predictions"], own, strict=True):
        alike(one, other)
    served.metadata.signature.outputs.to_json()
    again = load_predictor("m", tmp_path / "saved" / "model").predict(rows)
    for one, other in zip(again, own, strict=True):
        alike(one, other)


def test_attacks_and_noise_are_measured_on_whole_questions(made, tmp_path):
    folder, spec, rows = made
    found = measured(folder, LENGTH, ("word_swap", 0.3), tmp_path / "out")
    clean, (start, attacked) = found["clean"], found["attack"]
    assert {key: start[key] for key in clean} == pytest.approx(clean)
    assert attacked["loss"] > clean["loss"] and set(spec.metrics) <= clean.keys()
    (noisy,) = found["noise"]["word_swap"]
    assert 0 < noisy["changed"] <= len(rows)


def test_prepared_folders_hold_whole_questions_and_are_trained_on_like_the_files(made, tmp_path, capsys):
    folder, spec, _ = made
    options = [
        f"task={folder / 'own.yaml'}",
        f"data.path={folder}",
        f"model.name={folder / 'model'}",
        f"data.max_length={LENGTH}",
    ]
    assert main(["prepare", str(tmp_path / "prepared"), *options]) == ExitCode.OK, capsys.readouterr().err
    options += ["train.batch_size=2", "train.micro_batch_size=1", "tracking.uri=none", f"output_dir={tmp_path / 'run'}"]
    command = ["--ds_config", "zero2", *options]
    _, files, _, start = prepare(command, World())
    _, stored, _, again = prepare([*command, f"data.path={tmp_path / 'prepared'}"], World())
    assert list(stored.examples.train) == list(files.examples.train) and start.data_digest == again.data_digest
    assert (len(files.examples.train) > len(ROWS[spec.kind])) == (spec.kind == "span_qa")


@pytest.mark.parametrize("merge", [False, True])
def test_saved_adapters_answer_like_the_trained_ones_from_tokens_of_two_types(merge, made, tmp_path):
    _, spec, rows = made
    tokenizer = build_tokenizer(ModelConfig(), ["some text"])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)).save_pretrained(tmp_path / "base")
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path / "base")
    options = ModelConfig(name=str(tmp_path / "base"), lora=LoraConfig(r=2))
    module = build_model(options, spec, tokenizer, 0).module.eval()
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter += 0.3 * torch.randn_like(parameter)
    kind = kind_of(spec)
    inputs = kind.collate(tokenizer, [make_example(spec, row, True) for row in rows], LENGTH)[0]
    inputs["token_type_ids"] = torch.arange(inputs["input_ids"].shape[-1]).expand_as(inputs["input_ids"]) % 2
    (tmp_path / "out").mkdir()
    write_adapter(module, {name: parameter.detach() for name, parameter in trained.items()}, tmp_path / "out", merge)
    found = load_exported(tmp_path / "out", torch.float32, torch.device("cpu"))
    expected = kind.read(module(**inputs), inputs)
    torch.testing.assert_close(kind.read(found(**inputs), inputs), expected, rtol=1e-4, atol=1e-5)
    inputs["token_type_ids"] = torch.zeros_like(inputs["token_type_ids"])
    assert (kind.read(module(**inputs), inputs) - expected).abs().max() > 1e-3


def test_adapters_train_the_head(made, tmp_path):
    folder, spec, _ = made
    for lora in (None, LoraConfig(r=2)):
        model = ModelConfig(name=str(folder / "model"), lora=lora)
        built = build_model(model, spec, build_tokenizer(model, ()), 0)
        assert not built.fresh
        trained = [name for name, parameter in built.module.named_parameters() if parameter.requires_grad]
        head = [name for name in trained if "modules_to_save" in name or name.startswith(("classifier", "qa_outputs"))]
        assert head and (lora is None or all("lora" in name or "modules_to_save" in name for name in trained))


def test_a_run_is_planned(made, capsys):
    folder, *_ = made
    options = [f"task={folder / 'own.yaml'}", f"data.path={folder}", f"model.name={folder / 'model'}", "train.batch_size=2"]
    assert main(
        ["plan", "--ds_config", "zero2", "--gpus", "1", "--gpu_memory", "16GB", *options, "train.micro_batch_size=1"]
    ) == (ExitCode.OK), capsys.readouterr().err
    told = capsys.readouterr().out
    assert "training examples" in told and "estimated" not in told.lower().split("training examples")[0]


def test_the_mixture_of_choices_has_the_mean_of_its_members_probabilities(made, tmp_path):
    folder, spec, rows = made
    if spec.kind != "multiple_choice":
        pytest.skip("spans have no mixture")
    (folder / "model" / "README.md").write_text("# A model\n")
    shutil.copytree(folder / "model", tmp_path / "model")
    members = sorted((with_members(tmp_path, 2) / "snapshots").iterdir())
    save_flavor(folder / "model", None, Description(spec, LENGTH), tmp_path / "saved", Model(), members)
    alone = []
    for one in members:
        write_description(one, Description(spec, LENGTH))
        alone.append([answer["probabilities"] for answer in load_predictor("m", one).predict(rows)])
    found = load_model(str(tmp_path / "saved")).predict(rows, params={"mixture": True}).to_dict(orient="records")
    for answer, one, other in zip(found, *alone, strict=True):
        assert list(answer["probabilities"]) == pytest.approx([(a + b) / 2 for a, b in zip(one, other, strict=True)], abs=1e-5)
        assert one != other
