"""Perturbation, padding, checkpointing and sampling work for every model family, encoders and decoders."""

import string

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from mat_ds.errors import UserError
from mat_ds.methods import METHODS
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.attention import kernels_of
from mat_ds.models.build import build_model, build_skeleton, build_tokenizer, longest_input
from mat_ds.models.options import ModelConfig
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.models.recompute import recompute_activations
from mat_ds.tasks.example import Example
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.registry import TASKS
from tests.support.families import BEGIN, DECODERS, FAMILIES, PAD, SamplingEngine, build
from tests.support.kinds import CLASSIFICATION
from tests.support.tiny import VOCABULARY, global_batches, micro_batches

every_family = pytest.mark.parametrize("family", FAMILIES)
MAT = {
    "name": "mat",
    "delta_steps": 2,
    "theta_steps": 2,
    "delta_lr": 5e-2,
    "delta_init_scale": 2e-2,
    "delta_max_norm": 5e-2,
    "delta_noise": 1e-2,
    "theta_noise": 1e-3,
}


def inputs(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def positions(family, mask):
    """Position ids of each sentence without padding; those of RoBERTa and MPNet begin after the padding id."""
    found = (mask.cumsum(1) - 1).clamp(min=0)
    return torch.where(mask > 0, found + PAD + 1, PAD) if "roberta" in family or family == "mpnet" else found


def alone(model, family, batch, delta=None):
    """Logits of each sentence alone, without padding, computed with `inputs_embeds`."""
    logits = []
    for row, mask in enumerate(batch["attention_mask"].bool()):
        embeds = model.get_input_embeddings()(batch["input_ids"][row, mask])[None]
        embeds = embeds if delta is None else embeds + delta[row, mask]
        ones = torch.ones(embeds.shape[:2], dtype=torch.long)
        logits.append(model(inputs_embeds=embeds, attention_mask=ones, position_ids=positions(family, ones)).logits)
    return torch.cat(logits)


@every_family
def test_the_hook_adds_delta_and_padding_changes_nothing(family):
    model = build(family).eval()
    hook = EmbeddingPerturbation(model)
    assert hook.width == FAMILIES[family][2]
    for left in (False, True) if family in DECODERS else (False,):
        (batch,) = global_batches(1, left_padding=left)
        delta = 0.1 * torch.randn(*batch["input_ids"].shape, hook.width) * batch["attention_mask"].unsqueeze(-1)
        # Models with learned positions need position ids if the padding is on the left.
        more = {"position_ids": positions(family, batch["attention_mask"])} if left else {}
        with hook.applied(delta):
            perturbed = model(**inputs(batch), **more).logits
        clean = model(**inputs(batch), **more).logits
        torch.testing.assert_close(perturbed, alone(model, family, batch, delta), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(clean, alone(model, family, batch), rtol=1e-4, atol=1e-5)
        assert (perturbed - clean).abs().amax() > 1e-2


@every_family
def test_only_real_tokens_have_a_gradient(family):
    model = build(family).eval()
    hook = EmbeddingPerturbation(model)
    for left in (False, True) if family in DECODERS else (False,):
        (batch,) = global_batches(1, left_padding=left)
        delta = (1e-2 * torch.randn(*batch["input_ids"].shape, hook.width)).requires_grad_()
        with hook.applied(delta):
            logits = model(**inputs(batch)).logits
        (gradient,) = torch.autograd.grad(logits.square().sum(), delta)
        per_token = gradient.abs().sum(-1)
        assert (per_token[batch["attention_mask"] == 0] == 0).all()
        assert (per_token[batch["attention_mask"] == 1] > 0).all()


@every_family
def test_kernels_of_attention_agree_and_one_that_an_architecture_lacks_is_refused_by_name(family, tmp_path):
    options = save(tmp_path, family, pad_token="<pad>")
    tokenizer, able = build_tokenizer(options, ()), kernels_of(type(build(family)))
    (batch,) = global_batches(1)
    found = {}
    for kernel in ("sdpa", "eager"):
        asked = options.model_copy(update={"attention": kernel})
        if kernel in able:
            model = build_model(asked, TASKS["mnli"], tokenizer, 0).module.eval()
            found[kernel] = model(**inputs(batch)).logits
        else:
            for build_any in (
                lambda: build_model(asked, TASKS["mnli"], tokenizer, 0),  # noqa: B023
                lambda: build_skeleton(asked, TASKS["mnli"]),  # noqa: B023
            ):
                with pytest.raises(UserError, match=r"computes attention with eager alone") as error:
                    build_any()
                assert "model.attention = 'sdpa'" in str(error.value) and str(tmp_path) in str(error.value)
    torch.testing.assert_close(found[able[0]], found["eager"], rtol=1e-4, atol=1e-5)


@every_family
def test_eager_attention_has_second_derivatives(family):
    model = build(family, attention="eager").eval().double()
    (batch,) = global_batches(1)
    # No padding: masks are made for float32, and are infinite in float64.
    x = model.get_input_embeddings()(batch["input_ids"][:, : batch["attention_mask"].sum(1).min()]).detach()
    torch.manual_seed(0)
    direction = torch.randn_like(x)

    def gradient(at, **kept):
        logits = model(inputs_embeds=at).logits
        return torch.autograd.grad(torch.nn.functional.cross_entropy(logits, batch["labels"]), at, **kept)[0]

    at = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((gradient(at, create_graph=True) * direction).sum(), at)
    ahead, behind = (gradient((x + step * direction).requires_grad_()) for step in (1e-4, -1e-4))
    expected = (ahead - behind) / 2e-4
    assert (found - expected).norm() < 1e-2 * expected.norm() > 0


def trained(family, checkpointing):
    model = build(family, dropout=0.1)
    if checkpointing:
        recompute_activations(model)
    passes = []
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm) or "RMSNorm" in type(module).__name__:
            module.register_forward_hook(lambda *_: passes.append(1))
    player = METHODS["mat"](METHODS["mat"].Settings(**MAT), CLASSIFICATION)
    engine = SamplingEngine(model, player.chain, "sgd", backwards=2)
    engine.begin(0, 1e-2)
    torch.manual_seed(1)
    loss = player.step(engine, micro_batches(global_batches(1)[0], 4))["loss"]
    return loss, dict(model.named_parameters()), len(passes)


@every_family
def test_a_step_of_mat_moves_every_weight_and_is_the_same_with_checkpointing(family):
    loss, moved, passes = trained(family, checkpointing=False)
    same_loss, same, more_passes = trained(family, checkpointing=True)
    still = [name for name, p in build(family).named_parameters() if torch.equal(p, moved[name])]
    assert not still and loss.isfinite() and more_passes > passes
    torch.testing.assert_close(same_loss, loss)
    torch.testing.assert_close(same, moved)


@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_finite_logits_and_gradients(family, dtype):
    model = build(family).to(dtype)
    hook = EmbeddingPerturbation(model)
    (batch,) = global_batches(1)
    delta = (1e-2 * torch.randn(*batch["input_ids"].shape, hook.width)).requires_grad_()
    with hook.applied(delta):
        logits = model(**inputs(batch)).logits
    loss = CLASSIFICATION.loss(logits, MicroBatch({}, batch["labels"], 0))
    gradients = torch.autograd.grad(loss, [delta, *model.parameters()], allow_unused=True)
    assert logits.dtype == dtype and gradients[0].dtype == torch.float32 and gradients[0].any()
    assert all(tensor.isfinite().all() for tensor in (logits, *gradients) if tensor is not None)


def save(folder, family, **tokenizer):
    """Saves a model folder as on the hub, with a tokenizer of letters that has the given settings."""
    build(family).save_pretrained(folder)
    signs = ["<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>", "Ġ", *string.ascii_letters, *"012345"]
    assert len(signs) == VOCABULARY
    made = Tokenizer(models.BPE({sign: i for i, sign in enumerate(signs)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing("<s>:0 $A:0", "<s>:0 $A:0 $B:1", [("<s>", BEGIN)])
    PreTrainedTokenizerFast(tokenizer_object=made, **tokenizer).save_pretrained(folder)
    return ModelConfig(name=str(folder), dropout=0.0, gradient_checkpointing=True)


@every_family
def test_a_tokenizer_made_for_generation_gives_the_same_logits_at_any_padding(family, tmp_path):
    # It pads on the left, returns token types even if the model has none, and for a decoder has no padding token.
    tokens = {"eos_token": "</s>"} if family in DECODERS else {"eos_token": "</s>", "pad_token": "<pad>"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    options = save(tmp_path, family, padding_side="left", model_input_names=names, **tokens)
    tokenizer = build_tokenizer(options, ())
    model = build_model(options, TASKS["mnli"], tokenizer, 0).module
    assert tokenizer.pad_token_id == model.config.pad_token_id and longest_input(model, tokenizer) == FAMILIES[family][3]
    collate = Collator(tokenizer, longest_input(model, tokenizer), CLASSIFICATION)
    texts = [("no", "yes"), ("padding", "or not"), ("a hook", "and a long sentence behind it")]
    together, _ = collate([Example(pair, 0) for pair in texts], torch.device("cpu"))
    assert together["input_ids"].shape[1] == FAMILIES[family][3]
    apart = [collate([Example(pair, 0)], torch.device("cpu"))[0] for pair in texts]
    model.eval()
    torch.testing.assert_close(
        model(**together).logits, torch.cat([model(**one).logits for one in apart]), rtol=1e-4, atol=1e-5
    )
    assert not model.config.use_cache


def test_padding_that_cannot_work_is_refused_before_training(tmp_path):
    options = save(tmp_path / "added", "llama", pad_token="<new>")
    with pytest.raises(UserError, match="has the number 64, but no word embedding"):
        build_model(options, TASKS["mnli"], build_tokenizer(options, ()), 0)
    options = save(tmp_path / "last", "llama", eos_token="</s>")
    xlnet = AutoConfig.for_model("xlnet", vocab_size=VOCABULARY, d_model=16, n_layer=1, n_head=2, d_inner=16)
    AutoModelForSequenceClassification.from_config(xlnet).save_pretrained(tmp_path / "last")
    with pytest.raises(UserError, match="by the last position"):
        build_model(options, TASKS["mnli"], build_tokenizer(options, ()), 0)
