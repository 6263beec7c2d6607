"""Step sizes by layer and frozen parts: wrong input is refused before ranks connect, and a run keeps what it began with."""

import pytest

from mat_ds.errors import UserError
from mat_ds.models.depth import step_sizes
from mat_ds.ranks.world import World
from tests.support.run_folders import QUICK, ZERO2, prepare, run_folder


def problems(*arguments):
    with pytest.raises(UserError) as caught:
        prepare(["--ds_config", str(ZERO2), *QUICK, *map(str, arguments)], World())
    return {problem.key: problem for problem in caught.value.problems}


def test_options_that_cannot_be_meant_are_refused_at_once():
    found = problems("optimizer.layer_decay=1.5", "optimizer.head_lr=-1", "model.freeze=embeddings", "model.freeze_layers=-1")
    assert set(found) == {"optimizer.layer_decay", "optimizer.head_lr", "model.freeze", "model.freeze_layers"}
    found = problems("optimizer.schedule=constant", "optimizer.min_lr_ratio=0.1", "optimizer.lr=0", "optimizer.head_lr=1e-3")
    assert set(found) == {"optimizer.min_lr_ratio", "optimizer.head_lr"}
    assert "warmup_stable_decay" in problems("optimizer.schedule=wsd")["optimizer.schedule"].reason
    found = problems("model.name=/nowhere", "model.lora.r=4", "model.freeze=[embeddings]", "model.freeze_layers=1")
    assert {"model.freeze", "model.freeze_layers"} < set(found) and "adapters freeze" in found["model.freeze"].reason


def test_names_and_layers_that_the_model_does_not_have_are_refused_before_ranks_connect():
    assert "'embeddings'" in problems("model.freeze=[embedings]")["model.freeze"].fix
    assert "layers" in problems("model.freeze_layers=99")["model.freeze_layers"].reason
    assert "nothing would be trained" in problems("model.freeze=[roberta, classifier]")["model.freeze"].reason


def test_a_head_that_is_frozen_has_no_step_size():
    assert "is frozen" in problems("model.freeze=[classifier]", "optimizer.head_lr=1e-3")["optimizer.head_lr"].reason


def test_a_run_goes_on_only_with_the_step_sizes_and_frozen_parts_that_it_began_with(tmp_path):
    own = ("optimizer.layer_decay=0.5", "optimizer.head_lr=1e-3", "model.freeze=[embeddings]", "model.freeze_layers=1")
    step = run_folder(tmp_path / "run", *own)
    again = (*QUICK, f"output_dir={tmp_path}/run", "train.resume=auto")
    assert prepare(["--ds_config", str(ZERO2), *again, *own], World()).start.checkpoints == [step]
    found = problems(*again[2:])
    assert set(found) == {option.partition("=")[0] for option in own}
    assert "has ['embeddings']" in found["model.freeze"].reason and "has 0.5" in found["optimizer.layer_decay"].reason
    assert "optimizer.schedule" in problems(*again[2:], *own, "optimizer.schedule=warmup_stable_decay")


def test_a_model_is_built_with_them():
    options = ("optimizer.layer_decay=0.5", "model.freeze_layers=1")
    setup = prepare(["--ds_config", str(ZERO2), *QUICK, *options], World())
    module = setup.model.built.module
    layers = module.config.num_hidden_layers
    sizes = step_sizes(module, setup.options.run.optimizer)
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad == (".embeddings." not in name and ".layer.0." not in name), name
    assert sizes[module.get_parameter("roberta.embeddings.word_embeddings.weight")] == 0.5 ** (layers + 1)
    assert sizes[module.get_parameter("classifier.out_proj.weight")] == 1.0
    # Frozen weights are compared when a run goes on, as a checkpoint does not hold them.
    plain = prepare(["--ds_config", str(ZERO2), *QUICK], World())
    assert setup.start.weights_digest["frozen"] != plain.start.weights_digest["frozen"]
