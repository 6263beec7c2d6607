"""A causal language model writes the same responses wherever it is asked, and is attacked, prepared and planned for."""

import json

import pandas
import pytest
import torch
import yaml
from mlflow.models import Model
from mlflow.pyfunc import load_model, scoring_server

from mat_ds.artifacts.described import Description, write_description
from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.evaluation.predictor import load_predictor
from mat_ds.ranks.world import World
from mat_ds.registry.flavor import save_flavor
from mat_ds.tasks.registry import find_task
from tests.support.decoders import TEMPLATE, save_decoder
from tests.support.measured import measured
from tests.support.run_folders import prepare

LENGTH, NEW = 48, 6
PROMPTS = ["1+1=", "say hi: ", "abc", "what is 7*8? "]
TASKS = {
    "prompts": {"text": "prompt", "label": "response", "metrics": ["perplexity"]},
    "chats": {"messages": "messages", "metrics": ["perplexity"]},
}
ROWS = {
    "prompts": [{"prompt": prompt, "response": "ok"} for prompt in PROMPTS],
    "chats": [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": "ok"}]} for prompt in PROMPTS
    ],
}


@pytest.fixture(scope="module", params=TASKS)
def made(request, tmp_path_factory):
    """(folder of data and model, task, rows) of an untrained decoder."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    (folder / "own.yaml").write_text(yaml.safe_dump({"name": "own", "kind": "causal_lm", "test": [], **TASKS[name]}))
    (folder / "own").mkdir()
    for split in ("train", "validation"):
        (folder / "own" / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[name]))
    save_decoder(folder / "model", chat_template=TEMPLATE if name == "chats" else None)
    spec = find_task(str(folder / "own.yaml"))
    write_description(folder / "model", Description(spec, LENGTH))
    (folder / "model" / "README.md").write_text("# A model\n")  # as every run leaves one, which MLflow looks for
    return folder, spec, ROWS[name]


def test_files_rows_and_a_server_get_the_same_responses(made, tmp_path):
    folder, spec, rows = made
    out = tmp_path / "answers.jsonl"
    asked = ["predict", str(folder / "model"), str(folder / "own" / "validation.jsonl"), "--max_new_tokens", str(NEW)]
    assert main([*asked, "--batch_size", "3", "--out", str(out)]) == ExitCode.OK
    answers = [json.loads(line)["response"] for line in out.read_text().splitlines()]
    assert len(answers) == len(rows) and len(set(answers)) > 1, "an answer depends on its prompt"
    predictor = load_predictor("m", folder / "model", max_new_tokens=NEW)
    assert [answer["response"] for answer in predictor.predict(rows)] == answers
    save_flavor(folder / "model", None, Description(spec, LENGTH), tmp_path / "saved", Model())
    served = load_model(str(tmp_path / "saved"), model_config={"max_new_tokens": NEW})
    for ask in (rows, pandas.DataFrame(rows)):
        assert served.predict(ask)["response"].tolist() == answers
    body = json.dumps({"dataframe_records": [{key: row[key] for key in row if key != "response"} for row in rows]})
    reply = scoring_server.invocations(body, "application/json", served, None)
    assert [answer["response"] for answer in json.loads(reply.response)["predictions"]] == answers


def test_an_attack_raises_the_perplexity_and_a_radius_of_zero_does_not(made, tmp_path):
    folder, _, _ = made
    found = measured(folder, LENGTH, ("keyboard", 0.5), tmp_path / "out")
    clean, (start, attacked) = found["clean"], found["attack"]
    assert start["perplexity"] == pytest.approx(clean["perplexity"]) and attacked["perplexity"] > clean["perplexity"]
    assert found["noise"]["keyboard"][0]["changed"] > 0


def test_a_prepared_folder_is_trained_on_like_its_files_and_planned_for(made, tmp_path, capsys):
    folder, _, _ = made
    options = [
        f"task={folder / 'own.yaml'}",
        f"data.path={folder}",
        f"model.name={folder / 'model'}",
        f"data.max_length={LENGTH}",
    ]
    assert main(["prepare", str(tmp_path / "prepared"), *options]) == ExitCode.OK, capsys.readouterr().err
    options += ["train.batch_size=2", "train.micro_batch_size=1", "tracking.uri=none", f"output_dir={tmp_path / 'run'}"]
    _, files, _, start = prepare(["--ds_config", "zero2", *options], World())
    _, stored, _, again = prepare(["--ds_config", "zero2", *options, f"data.path={tmp_path / 'prepared'}"], World())
    assert list(stored.examples.train) == list(files.examples.train) and start.data_digest == again.data_digest
    batches = [data.collate(data.examples.train[:2], torch.device("cpu")) for data in (files, stored)]
    (inputs, labels), (others, same) = batches
    assert torch.equal(labels, same) and all(torch.equal(inputs[name], others[name]) for name in inputs)
    card = ["--ds_config", "zero2", "--gpus", "1", "--gpu_memory", "16GB"]
    assert main(["plan", *card, *options]) == ExitCode.OK, capsys.readouterr().err
    assert "training examples" in capsys.readouterr().out
