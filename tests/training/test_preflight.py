"""Errors that can be found before ranks connect are found then, and reported in one message."""

import json
import shutil

import pytest
import yaml
from transformers import RobertaConfig

from mat_ds.errors import UserError
from mat_ds.ranks.world import World
from tests.support.launch import ROOT
from tests.support.run_folders import QUICK, ZERO2, prepare, run_folder


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def problems(*arguments, ds_config=ZERO2, ranks=1):
    with pytest.raises(UserError) as caught:
        prepare(["--ds_config", str(ds_config), *map(str, arguments)], World(0, ranks, 0, ranks))
    return {problem.key: problem for problem in caught.value.problems}


def rows(folder, split, *labels, column="sentence"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({column: f"sentence {i}", "label": label}) for i, label in enumerate(labels)]
    (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_the_default_run_has_no_problem():
    options, data, _, _ = prepare(["--ds_config", str(ZERO2), "--local_rank=1", *QUICK], World(1, 2, 1, 2))
    assert options.run.task == "demo" and len(data.examples.train) == 64


def test_options_folders_and_contradictions_are_checked_together(tmp_path):
    RobertaConfig().save_pretrained(tmp_path / "model")
    ds_config = tmp_path / "ds.json"
    ds_config.write_text(json.dumps({"gradient_clipping": 0.5, "elasticity": {}, "zero_optimization": {"stage": 2}}))
    found = problems(
        "task=cola",
        f"data.path={tmp_path}/data",
        f"model.name={tmp_path}/model",
        "train.resume=auto",
        "train.batch_size=2",
        "train.micro_batch_size=1",
        "method.delta_init=zero",
        "method.dropout=off",
        ds_config=ds_config,
        ranks=2,
    )
    assert "has no tokenizer" in found["model.name"].reason
    assert "contradicts optimizer.max_grad_norm" in found["ds_config gradient_clipping"].reason
    assert "is not a folder" in found["data.path"].reason
    assert {"train.resume", "method.delta_init"} < set(found) and len(found) == 5
    text = str(UserError(*found.values()))
    assert text.startswith("5 problems") and text.count("why:") == text.count("fix:") == 5


def test_then_data_model_and_what_deepspeed_says_are_checked_together(tmp_path):
    rows(tmp_path / "data" / "cola", "train", 0, 1, 7)
    rows(tmp_path / "data" / "cola", "validation")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "nosuch"}')
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "ds.json").write_text(json.dumps({"elasticity": {}, "zero_optimisation": {}}))
    options = ("task=cola", f"data.path={tmp_path}/data", f"model.name={tmp_path}/model")
    found = problems(*options, ds_config=tmp_path / "ds.json")
    assert "removed" in found["ds_config elasticity"].reason
    assert "zero_optimization" in found["ds_config zero_optimisation"].fix
    assert "label" in found[f"{tmp_path}/data/cola/train.jsonl:3"].reason
    assert "has no examples" in found["cola/validation"].reason
    assert "cannot be loaded" in found["model.name"].reason and len(found) == 5


def test_a_batch_that_does_not_divide_and_a_missing_column(tmp_path):
    for split in ("train", "validation"):
        rows(tmp_path / "cola", split, 0, 1, column="text")
    options = ("task=cola", f"data.path={tmp_path}")
    assert "30 or 32" in problems(*options, "train.batch_size=31", ranks=2)["train.batch_size"].fix
    assert "lacks the column sentence" in problems(*options)[f"{tmp_path}/cola/train.jsonl:1"].reason


def test_adapters_need_a_pre_trained_model_and_layers_that_it_has(tmp_path):
    found = problems("model.lora.r=4", "train.epoch=1", *QUICK)
    assert set(found) == {"model.lora", "train.epoch"} and "random weights" in found["model.lora"].reason
    _, data, model, _ = prepare(["--ds_config", str(ZERO2), *QUICK], World())
    for part in (data.tokenizer, model.built.module):
        part.save_pretrained(tmp_path)
    options = (f"model.name={tmp_path}", *QUICK)
    found = problems(*options, "model.lora.target_modules=[querry, key]", "model.lora.modules_to_save=[poler]")
    assert "querry" in found["model.lora.target_modules"].reason and "key" not in found["model.lora.target_modules"].reason
    assert found["model.lora.target_modules"].fix == "there are: dense, key, query, value"
    assert (
        "poler" in found["model.lora.modules_to_save"].reason and "word_embeddings" in found["model.lora.modules_to_save"].fix
    )
    model = prepare(["--ds_config", str(ZERO2), *options, "model.lora.r=4"], World()).model.built.module
    trained = {name.removeprefix("base_model.model.") for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 12 and all("lora_" in name or "classifier.modules_to_save" in name for name in trained)


def test_more_examples_in_a_batch_than_there_are():
    assert (
        "64 training examples"
        in problems("train.batch_size=128", "train.micro_batch_size=64", *QUICK)["train.batch_size"].reason
    )


def test_an_unreachable_hub_is_reported_with_the_command_that_prepares():
    found = problems("--recipe", ROOT / "launch" / "recipes" / "cola.yaml")
    assert "nyu-mll/glue" in found["data.path"].reason and "data.path=<folder>" in found["data.path"].fix
    assert "roberta-large" in found["model.name"].value and "model.name=<folder>/model" in found["model.name"].fix
    assert all("mat-ds prepare <folder>" in problem.fix for problem in found.values())


def test_an_existing_run_directory_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("task: demo\n")
    found = problems(f"output_dir={tmp_path}/run", *QUICK)
    assert "train.resume=auto" in found["output_dir"].fix
    assert "neither a checkpoint" in problems(f"train.resume={tmp_path}/run", *QUICK)["train.resume"].reason


def test_a_run_continues_with_the_options_it_began_with(tmp_path):
    step = run_folder(tmp_path / "run")
    again = (*QUICK, f"output_dir={tmp_path}/run", "train.resume=auto")
    free = ("train.max_steps=900", "train.keep_last=5", "tracking.uri=none", "tracking.tags.team=nlp", "tracking.run_name=x")
    assert prepare(["--ds_config", str(ZERO2), *again, *free], World()).start.checkpoints == [step]
    # So do runs of a version with a section that no longer exists.
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**config, "tracking": {"enabled": False}}))
    assert prepare(["--ds_config", str(ZERO2), *again, *free], World()).start.checkpoints == [step]
    found = problems(*again, "seed=1", "method.lam=2", "optimizer.lr=1e-4")
    assert set(found) == {"seed", "method.lam", "optimizer.lr"}
    assert "has 0" in found["seed"].reason
    assert "mat" in problems(*again, "method.name=vanilla")["method.name"].reason
    # Number of ranks and ZeRO stage may change, but not the precision.
    assert prepare(["--ds_config", str(ROOT / "ds_configs" / "zero3.json"), *again], World(1, 2, 1, 2)).start.checkpoints == [
        step
    ]
    half = problems(*again, ds_config=ROOT / "ds_configs" / "zero2_rtx3090_bf16.json")
    assert set(half) == {"ds_config bf16.enabled"} and "has False" in half["ds_config bf16.enabled"].reason
    elsewhere = tmp_path / "step-00000004"
    shutil.copytree(step, elsewhere)
    assert "output_dir" in problems(f"train.resume={elsewhere}", *QUICK)["train.resume"].fix


def test_a_run_killed_before_its_first_checkpoint_starts_again_as_the_same_run(tmp_path):
    shutil.rmtree(run_folder(tmp_path / "run").parent)
    again = (*QUICK, f"output_dir={tmp_path}/run", "train.resume=auto")
    assert prepare(["--ds_config", str(ZERO2), *again], World()).start.checkpoints == []
    assert set(problems(*again, "seed=6")) == {"seed"}


def test_a_run_that_continued_another_can_be_restarted_with_the_same_command(tmp_path):
    origin = run_folder(tmp_path / "old")
    command = (*QUICK, f"train.resume={origin}", f"output_dir={tmp_path}/new")
    own = run_folder(tmp_path / "new", f"train.resume={origin}")
    assert prepare(["--ds_config", str(ZERO2), *command], World()).start.checkpoints == [own]
    shutil.rmtree(own.parent)
    assert prepare(["--ds_config", str(ZERO2), *command], World()).start.checkpoints == [origin]
    found = problems(*QUICK, f"output_dir={tmp_path}/new", "train.resume=auto")
    assert f"train.resume={origin}" in found["train.resume"].fix
    third = run_folder(tmp_path / "third")
    assert "holds another run" in problems(*QUICK, f"train.resume={third}", f"output_dir={tmp_path}/new")["output_dir"].reason


def test_a_run_continues_with_the_data_it_began_with(tmp_path):
    for split in ("train", "validation"):
        rows(tmp_path / "cola", split, 0, 1, 1, 0)
    options = ("task=cola", f"data.path={tmp_path}", "train.batch_size=2", "train.micro_batch_size=1")
    run_folder(tmp_path / "run", *options)
    again = (*options, *QUICK, f"output_dir={tmp_path}/run", "train.resume=auto")
    assert prepare(["--ds_config", str(ZERO2), *again], World()).start.checkpoints
    rows(tmp_path / "cola", "train", 0, 1, 1, 1)
    assert "not those the run" in problems(*again)["data.path, model.name"].reason


def test_a_run_directory_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("file", "file/run"):
        assert "is not a writable folder" in problems(f"output_dir={tmp_path}/{path}", *QUICK)["output_dir"].reason


def test_processes_started_together_without_ranks_are_refused(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.delenv("RANK", raising=False)
    assert "RANK" in problems(*QUICK)["SLURM_STEP_NUM_TASKS"].reason


def test_one_message_has_all_errors(tmp_path):
    found = problems("train.epoch=3", "task=nosuch", "model.name=./nowhere", "train.batch_size=31", ranks=2)
    assert set(found) == {"train.epoch", "task", "model.name", "train.batch_size"}
    assert "generates its own data" in problems(f"data.path={tmp_path}")["data.path"].reason


def test_a_wrong_command_line_is_refused():
    for arguments in (("--ds_configs", "x"), ("--ds_config", str(ZERO2), "--bogus", "1")):
        with pytest.raises(UserError, match="command line"):
            prepare(arguments, World())
    assert "no such option" in problems("trian.epochs=1")["trian"].reason


def test_ranks_given_the_same_input_agree_and_others_do_not():
    def fingerprint(*more):
        return prepare(["--ds_config", str(ZERO2), *QUICK, *more], World()).fingerprint

    same = fingerprint()
    assert fingerprint() == same
    assert all(fingerprint(other) != same for other in ("seed=1", "data.train_limit=65", "model.dropout=0.1"))


@pytest.mark.parametrize("task", ["cola", "sst2", "mrpc", "rte", "stsb", "mnli", "anli"])
def test_the_real_files_of_a_task_can_be_trained_on(task):
    data = ROOT.parent / "shared" / "data"
    if not (data / task).is_dir():
        pytest.skip(f"no real {task} at {data}")
    recipe = yaml.safe_load((ROOT / "launch" / "recipes" / f"{task}.yaml").read_text())
    arguments = ["--recipe", str(ROOT / "launch" / "recipes" / f"{task}.yaml"), f"data.path={data}", "model.name=tiny-roberta"]
    data = prepare(["--ds_config", str(ZERO2), *arguments], World()).data.examples
    assert recipe["task"] == data.spec.name == task
    published = {"cola": 8551, "sst2": 67349, "mrpc": 3668, "rte": 2490, "stsb": 5749, "mnli": 19999, "anli": 748}
    assert len(data.train) == published[task]
    assert all(data.dev.values()) and len(data.dev) == {"mnli": 2, "anli": 3}.get(task, 1)


def test_a_folder_without_the_tasks_files_is_named(tmp_path):
    shutil.copy(ZERO2, tmp_path / "zero2.json")
    assert "has no folder 'rte'" in problems("task=rte", f"data.path={tmp_path}")["data.path"].reason


def test_options_without_effect_and_given_twice_are_remarked_on(tmp_path):
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 0}, "activation_checkpointing": {}}')
    remarks = prepare(["--ds_config", str(tmp_path / "ds.json"), "seed=1", "seed=2"], World()).options.remarks
    assert "seed is given twice" in remarks[0] and "activation_checkpointing does nothing" in remarks[1] and len(remarks) == 2
