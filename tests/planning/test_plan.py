"""`mat-ds plan` says in its first line whether a run fits, and in its exit code."""

import json

import pytest
from transformers import AutoConfig

from mat_ds.cli import main
from mat_ds.models.build import build_skeleton
from mat_ds.tasks.registry import TASKS, TRAINING_EXAMPLES
from mat_ds.terminal.units import duration, gib, link, memory, positive, scaled, whole
from tests.support.launch import ROOT

DS, RECIPES = ROOT / "ds_configs", ROOT / "launch" / "recipes"
LARGE = dict(
    hidden_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=1024,
    vocab_size=20000,
    max_position_embeddings=130,
    type_vocab_size=1,
    pad_token_id=1,
)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model's configuration only."""
    path = tmp_path_factory.mktemp("model")
    AutoConfig.for_model("roberta", **LARGE).save_pretrained(path)
    return path


def plan(capsys, *arguments, ds="zero2.json", gpus=8, gpu_memory="16GB"):
    """Runs `mat-ds plan`; returns the exit code and the output."""
    given = ["--ds_config", str(DS / ds), "--gpus", str(gpus), "--gpu_memory", gpu_memory, *map(str, arguments)]
    code = main(["plan", *given])
    printed = capsys.readouterr()
    return int(code), printed.out or printed.err


def cola(folder, *more):
    return ("--recipe", RECIPES / "cola.yaml", f"model.name={folder}", *more)


def test_a_run_that_fits(capsys, folder):
    code, text = plan(capsys, *cola(folder, "--link", "10Gb/s", "train.micro_batch_size=4"))
    first, *rest = text.splitlines()
    assert code == 0
    assert first.startswith("fits: ") and "16.0 GiB on each of 8 cards (mat, ZeRO-2, fp32, micro-batches of 4)" in first
    names = [line.split("  ")[0] for line in rest]
    for name in ("weights", "gradients", "masters", "moments", "mixture", "activations", "perturbations", "reserve"):
        assert name in names
    assert "8 x 128 tokens at a time" in text  # clean and perturbed half together
    assert "8,551 training examples (published), each taken to have 128 tokens" in text
    assert "2,660 outer steps" in text  # 20 epochs of 133 batches of 64
    assert sum(line.startswith("what fits, the cheapest first") for line in rest) == 1
    assert "assumed, not measured" in text


def test_what_is_frozen_has_no_state_and_what_cannot_be_frozen_is_refused(capsys, folder):
    # Vanilla, as its passes are soon measured.
    code, text = plan(
        capsys, *cola(folder, "--json", "method.name=vanilla", "model.freeze_layers=1", "optimizer.layer_decay=0.9")
    )
    found = json.loads(text)
    rows, (h, wide) = {row["name"]: row["card"] for row in found["rows"]}, (256, 1024)
    layer = 4 * (h * h + h) + (h * wide + wide) + (wide * h + h) + 2 * 2 * h
    assert code == 0 and found["trained"] == layer + (h * h + h) + (2 * h + 2)
    assert found["parameters"] - found["trained"] == layer + (20000 + 130 + 1) * h + 2 * h
    assert rows["moments"] == 2 * rows["masters"] == pytest.approx(8 * found["trained"] / 8, rel=1e-4)
    code, text = plan(capsys, *cola(folder, "model.freeze=[pooler]", "optimizer.layer_decay=0"))
    assert code == 2 and "optimizer.layer_decay" in text
    code, text = plan(capsys, *cola(folder, "model.freeze=[pooler]"))
    assert code == 2 and "names no parameter of this model" in text


def test_a_run_that_does_not_fit_and_alternatives_that_do(capsys, folder):
    code, text = plan(capsys, *cola(folder, "--json", "--link", "10Gb/s", "--tflops", "10"), gpu_memory="1415MiB")
    found = json.loads(text)
    assert code == 1 and not found["fits"] and found["card_bytes"] > 1415 * 2**20
    assert not found["assumed_speed"] and found["cards"]["flops"] == 1e13
    assert sum(row["card"] for row in found["rows"] if row["when"] != "update") == found["card_bytes"]
    every = found["alternatives"]
    fitting = [other for other in every if other["card_bytes"] <= 1415 * 2**20]
    assert 0 < len(fitting) < len(every) and every[: len(fitting)] == fitting == [other for other in every if other["fits"]]
    assert {(other["stage"], other["offload_optimizer"], other["offload_param"]) for other in every} == {
        (0, False, False), (1, False, False), (2, False, False), (3, False, False),
        (1, True, False), (2, True, False), (3, True, False), (3, True, True),
    }  # fmt: skip
    assert all(8 % other["micro_batch_size"] == 0 for other in every)
    costs = [
        (o["offload_optimizer"] + o["offload_param"], o["step_seconds"]["compute"] + o["step_seconds"]["waiting"])
        for o in fitting
    ]
    assert costs == sorted(costs)


@pytest.mark.slow
def test_checkpointing_and_smaller_micro_batches_take_less_memory(capsys, folder):
    def activations(*options):
        found = json.loads(plan(capsys, *cola(folder, "--json", *options))[1])
        return next(row["card"] for row in found["rows"] if row["name"] == "activations"), found

    whole_batch, found = activations()
    smaller, _ = activations("train.micro_batch_size=4")
    recomputed, again = activations("model.gradient_checkpointing=true")
    assert smaller == pytest.approx(whole_batch / 2, rel=0.1) and recomputed < whole_batch / 1.5
    assert again["step_seconds"]["compute"] > 1.15 * found["step_seconds"]["compute"]
    _, replayed = activations("model.compile=graphs")
    (apart,) = (row["card"] for row in replayed["rows"] if row["name"] == "graphs")
    assert whole_batch / 8 < apart <= whole_batch / 2
    vanilla, plain = activations("method.name=vanilla")
    assert vanilla == pytest.approx(whole_batch / 2, rel=0.2)
    assert plain["step_seconds"]["compute"] == pytest.approx(found["step_seconds"]["compute"] * 3 / 75, rel=0.1)


@pytest.mark.slow
def test_adapters_and_averages(capsys, folder):
    code, text = plan(capsys, *cola(folder, "--json", "model.lora.r=4", "model.average=ema"), ds="zero3.json")
    found = json.loads(text)
    rows = {row["name"]: row["card"] for row in found["rows"]}
    assert code == 0 and found["trained"] < found["parameters"] / 10
    assert rows["average"] == rows["mixture"] == rows["masters"] == rows["moments"] / 2 < rows["weights"] / 5


@pytest.mark.slow
def test_half_precision_can_be_planned_without_a_gpu(capsys, folder):
    for ds, precision in (("zero2_v100_fp16.json", "fp16"), ("zero2_rtx3090_bf16.json", "bf16")):
        code, text = plan(capsys, *cola(folder, "--json"), ds=ds)
        assert code == 0 and json.loads(text)["precision"] == precision


def test_the_built_in_model_is_measured_on_its_own_data(capsys):
    code, text = plan(capsys, "data.train_limit=640", gpus=2)
    assert code == 0 and "640 training examples of up to 2" in text and "tokens; the average micro-batch has " in text


@pytest.mark.slow
def test_salt_takes_the_derivative_that_each_layout_supports(capsys, folder):
    code, text = plan(capsys, *cola(folder, "--json", "method.name=salt", "model.attention=eager", "data.max_length=32"))
    found = json.loads(text)
    gathering = [other for other in found["alternatives"] if other["stage"] == 3]
    assert {other["gather"] for other in gathering} == {"model"} and found["gather"] is None
    # Second-order graphs take more memory than the finite differences that ZeRO-3 must use.
    assert code == 0 and len(gathering) == 6
    assert gathering[0]["step_seconds"]["compute"] != found["step_seconds"]["compute"]


def test_wrong_input_is_named_as_by_other_commands(capsys, folder, tmp_path):
    code, text = plan(capsys, *cola(folder, "train.epoch=1", "--examples", "10"), gpus=7)
    assert code == 2 and text.lstrip().startswith("3 problems")
    assert "did you mean 'epochs'" in text and "7 ranks" in text and "--examples = 10" in text
    code, text = plan(capsys, *cola(folder), gpu_memory="16")
    assert code == 2 and "'16' is not a size, like 16GB" in text
    code, text = plan(capsys, "--recipe", RECIPES / "cola.yaml")
    assert code == 2 and "its configuration cannot be loaded" in text and "AutoConfig.from_pretrained('roberta-large')" in text
    code, text = plan(capsys, "task=cola", "model.name=tiny-roberta", gpus=4)
    assert code == 2 and "its vocabulary is trained on the task's texts" in text
    code, text = plan(capsys, "--recipe", RECIPES / "cola.yaml", f"model.name={tmp_path}")
    assert code == 2 and "has no config.json" in text


def test_a_skeleton_is_the_model_without_its_values(folder):
    from mat_ds.models.options import ModelConfig

    skeleton = build_skeleton(ModelConfig(name=str(folder), dropout=0.0), TASKS["mnli"])
    assert all(tensor.is_meta for tensor in (*skeleton.parameters(), *skeleton.buffers()))
    assert skeleton.config.num_labels == 3 and skeleton.config.hidden_dropout_prob == 0.0
    assert skeleton.get_input_embeddings().weight.shape == (20000, 256)


def test_units_of_sizes_and_speeds_are_those_of_manufacturers():
    assert memory("16GB") == memory("16GiB") == 16 * 2**30 and memory("81559MiB") == 81559 * 2**20
    assert link("10Gb/s") == link("10 Gbit/s") == link("1.25GB/s") == 1.25e9
    assert whole("8") == 8 and positive("0.5") == 0.5
    for function, text in ((memory, "16"), (memory, "0GB"), (memory, "16Gb"), (link, "10Gb"), (link, "10"), (whole, "0"),
                           (whole, "2.5"), (positive, "0"), (positive, "nan"), (positive, "fast")):  # fmt: skip
        with pytest.raises(Exception, match="is not a "):
            function(text)
    assert (gib(3 * 2**29), scaled(12.4e9, "B"), scaled(7, "B")) == ("1.5", "12.4 GB", "7 B")
    assert (duration(0.0123), duration(30), duration(600), duration(36000)) == ("12.3 ms", "30.0 s", "10.0 min", "10.0 h")


def test_every_task_with_a_hub_that_is_trained_on_has_a_published_size():
    assert {name for name, spec in TASKS.items() if spec.hub and spec.train} == TRAINING_EXAMPLES.keys()
