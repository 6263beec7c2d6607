"""A perturbation is added exactly once to every token of the text; other models are refused by name."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from mat_ds.cli import main
from mat_ds.errors import ExitCode, UserError
from mat_ds.methods import METHODS
from mat_ds.models.perturb import EmbeddingPerturbation, check_perturbable
from mat_ds.models.recompute import recompute_activations
from mat_ds.ranks.world import World
from tests.models.test_families import MAT
from tests.models.test_vocabulary import BATCH, ZERO2, data
from tests.support import run_folders
from tests.support.families import SamplingEngine
from tests.support.kinds import CLASSIFICATION
from tests.support.tiny import VOCABULARY, micro_batches

BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 1}
TWO_SIDED = {"bart": BART, "mbart": BART, "t5": T5, "umt5": T5}
XLNET = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "summary_type": "first"}


def made(kind, **settings):
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    labels = {0: "negative", 1: "positive"}  # BART's config.json would omit the default number of labels, two
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, id2label=labels, **ids, **settings)
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


def folder_of(folder, kind, **settings):
    """Saves the model, and a tokenizer of letters that ends every text with one end token."""
    made(kind, **settings).save_pretrained(folder)
    signs = ["<s>", "<pad>", "</s>", "<unk>", " ", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({sign: i for i, sign in enumerate(signs)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A $B </s>", [("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=32
    ).save_pretrained(folder)
    return folder


@pytest.fixture(params=TWO_SIDED)
def two_sided(request):
    return made(request.param, **TWO_SIDED[request.param]).eval()


IDS = torch.tensor([[0, 5, 6, 7, 2, 1], [0, 8, 9, 10, 11, 2]])


def test_the_encoders_input_is_perturbed_and_the_decoders_is_not(two_sided):
    hook = EmbeddingPerturbation(two_sided)
    mask = (IDS != 1).long()
    delta = 0.1 * torch.randn(*IDS.shape, hook.width) * mask.unsqueeze(-1)
    with hook.applied(delta):
        perturbed = two_sided(input_ids=IDS, attention_mask=mask).logits
    clean = two_sided(input_ids=IDS, attention_mask=mask).logits
    assert (perturbed - clean).abs().max() > 1e-6
    # By definition: the encoder gets x + delta, the decoder x.
    encoder = two_sided.get_encoder()
    embeds = encoder.get_input_embeddings()(IDS) + delta
    encoded = encoder(inputs_embeds=embeds, attention_mask=mask)
    expected = two_sided(input_ids=IDS, attention_mask=mask, encoder_outputs=encoded).logits
    torch.testing.assert_close(perturbed, expected)


def test_a_perturbation_has_a_gradient_only_at_real_tokens(two_sided):
    hook = EmbeddingPerturbation(two_sided)
    delta = torch.zeros(*IDS.shape, hook.width, requires_grad=True)
    with hook.applied(delta):
        logits = two_sided(input_ids=IDS, attention_mask=(IDS != 1).long()).logits
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), delta)
    assert torch.equal(gradient.abs().sum(-1) > 0, IDS != 1)


def test_a_pass_that_uses_its_embedding_twice_or_never_is_refused():
    model = made("bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    hook = EmbeddingPerturbation(model)
    delta = torch.zeros(*IDS.shape, hook.width)
    with pytest.raises(UserError, match="2 times"), hook.applied(delta):
        model(input_ids=IDS)
        model(input_ids=IDS)
    with pytest.raises(UserError, match="0 times"), hook.applied(delta):
        pass
    with hook.applied(None):
        model(input_ids=IDS)
        model(input_ids=IDS)
    with pytest.raises(UserError, match="have the shape"), hook.applied(delta[:, 1:]):
        model(input_ids=IDS)
    check_perturbable("model.name", "a", model, {"input_ids": IDS[:1]})
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.transpose(0, 1))
    hook.remove()
    with pytest.raises(UserError, match=r"model\.name = 'a'"):
        check_perturbable("model.name", "a", model, {"input_ids": IDS[:1]})


PERTURBING = METHODS.keys() - {"vanilla", "rdrop", "sam"}


@pytest.mark.parametrize("method", ["mat", "freelb", "r3f", "vanilla"])
@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_encoder_decoders_pass_the_checks_before_training(kind, method, tmp_path):
    options = [f"model.name={folder_of(tmp_path / 'model', kind, **TWO_SIDED[kind])}", f"data.path={data(tmp_path / 'data')}"]
    assert run_folders.prepare([*ZERO2, *options, "task=sst2", f"method.name={method}", *BATCH], World()).model.built


@pytest.mark.parametrize("method", METHODS)
def test_a_model_with_the_sequence_as_first_dimension_is_refused_only_by_methods_that_perturb(method, tmp_path, capsys):
    name = folder_of(tmp_path / "model", "xlnet", **XLNET)
    options = [*ZERO2, f"model.name={name}", f"data.path={data(tmp_path / 'data')}", "task=sst2", *BATCH]
    if method in PERTURBING:
        layers = ["method.layers=1"] if method == "yopo" else []
        assert main(["train", *options, f"method.name={method}", *layers]) == ExitCode.USER_ERROR
        told = capsys.readouterr().err
        assert "model.name" in told and str(name) in told and "word embeddings" in told
    else:
        assert run_folders.prepare([*options, f"method.name={method}"], World()).model.built


@pytest.mark.parametrize("kind", [*TWO_SIDED, "xlnet"])
@pytest.mark.parametrize("method", ["mat", "vanilla"])
def test_a_plan_is_made_or_the_model_refused(kind, method, tmp_path, capsys):
    settings = XLNET if kind == "xlnet" else TWO_SIDED[kind]
    options = [f"model.name={folder_of(tmp_path / 'model', kind, **settings)}", f"data.path={data(tmp_path / 'data')}"]
    cards = ["--gpus", "1", "--gpu_memory", "16GB", "--link", "10Gb/s", "--json"]
    code = main(["plan", *ZERO2, *cards, *options, "task=sst2", f"method.name={method}", *BATCH])
    told = capsys.readouterr()
    if kind == "xlnet" and method == "mat":
        assert code == ExitCode.USER_ERROR and "word embeddings" in told.err
    else:
        assert code == ExitCode.OK and json.loads(told.out)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_mat_moves_every_weight_of_an_encoder_decoder(checkpointing, two_sided):
    before = {name: value.clone() for name, value in two_sided.named_parameters()}
    if checkpointing:
        recompute_activations(two_sided)
    player = METHODS["mat"](METHODS["mat"].Settings(**MAT), CLASSIFICATION)
    engine = SamplingEngine(two_sided, player.chain, "sgd", backwards=2)
    engine.begin(0, 1e-2)
    batch = {"input_ids": IDS, "attention_mask": (IDS != 1).long(), "labels": torch.tensor([0, 1])}
    loss = player.step(engine, micro_batches(batch, 1))["loss"]
    still = [name for name, value in two_sided.named_parameters() if torch.equal(value, before[name])]
    assert loss.isfinite() and not still


BODY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
# Hashed characters, a quantised embedding, and an embedding that is a bare parameter.
WITHOUT_TABLE = {
    "canine": {**BODY, "num_hash_buckets": 8, "local_transformer_stride": 8},
    "ibert": {**BODY, "max_position_embeddings": 34, "type_vocab_size": 1},
    "perceiver": {"num_latents": 2, "d_latents": 16, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 1,
                  "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "max_position_embeddings": 32},
}  # fmt: skip


@pytest.mark.parametrize("kind", WITHOUT_TABLE)
def test_a_model_without_an_embedding_table_is_refused_only_by_methods_that_perturb(kind, tmp_path, capsys):
    name = folder_of(tmp_path / "model", kind, **WITHOUT_TABLE[kind])
    options = [*ZERO2, f"model.name={name}", f"data.path={data(tmp_path / 'data')}", "task=sst2", *BATCH]
    plan = ["plan", *options, "--gpus", "1", "--gpu_memory", "16GB", "--link", "10Gb/s"]
    for command in (["train", "--dry_run", *options], plan):
        assert main([*command, "method.name=r3f"]) == ExitCode.USER_ERROR
        told = capsys.readouterr().err
        assert "model.name" in told and str(name) in told and "word embeddings" in told and "without a perturbation" in told
    assert run_folders.prepare([*options, "method.name=vanilla"], World()).model.built
    assert main([*plan, "method.name=vanilla"]) == ExitCode.OK
    (tmp_path / "in.txt").write_text("fine\n")
    assert main(["predict", str(name), str(tmp_path / "in.txt")]) == ExitCode.OK
    # It can be trained without perturbations.
    hook, inputs = EmbeddingPerturbation(made(kind, **WITHOUT_TABLE[kind])), IDS
    with hook.applied(None):
        pass
    with pytest.raises(UserError, match="no word embeddings"), hook.applied(torch.zeros(*inputs.shape, 16)):
        pass
    hook.remove()


def test_the_first_dimension_is_recognised_even_with_one_token():
    model = made("xlnet", **XLNET)
    with pytest.raises(UserError, match="have the shape"):
        check_perturbable("model.name", "a", model, {"input_ids": IDS[:1, :1], "attention_mask": torch.ones(1, 1)})
    check_perturbable("model.name", "a", made("bert", **BODY), {"input_ids": IDS[:1, :1], "attention_mask": torch.ones(1, 1)})
