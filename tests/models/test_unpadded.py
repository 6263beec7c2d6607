"""An encoder without padding is the encoder with it: the same logits and gradients, and nothing computed for a pad."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from mat_ds.models import rotary
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import LoraConfig, ModelConfig
from mat_ds.models.packing import Packing, pack_doubled
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.models.recompute import recompute_activations
from mat_ds.models.unpadded import FAMILIES, remove_padding
from mat_ds.tasks.registry import TASKS
from tests.support import families
from tests.support.families import BEGIN, BERT, END, PAD
from tests.support.tiny import VOCABULARY, global_batches

SMALL = {**BERT, "num_hidden_layers": 2}
SETTINGS = {
    "bert": SMALL,
    "roberta": {**SMALL, "type_vocab_size": 1},
    "xlm-roberta": {**SMALL, "type_vocab_size": 1},
    "electra": {**SMALL, "embedding_size": 8},
    "mpnet": SMALL,
}
ROTARY = {family: {**families.FAMILIES[family][1], "num_hidden_layers": 2} for family in rotary.FAMILIES}
every_family = pytest.mark.parametrize("family", [*SETTINGS, *ROTARY])
LABELS = torch.tensor([0, 1, 2, 1, 0, 2, 1, 1])


def close(found, expected, family, **more):
    """Equality in float64; Gemma's norms are computed in fp32, whatever the precision."""
    rtol, atol = (1e-5, 1e-6) if "gemma" in family else (1e-9, 1e-11)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, **more)


def build(family, dropout=0.0, dtype=torch.float64, auto=AutoModelForSequenceClassification, labels=3):
    """Weights so large that every token matters to every other."""
    config = AutoConfig.for_model(
        family, vocab_size=VOCABULARY, pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END, num_labels=labels,
        initializer_range=0.3, use_cache=False, **{**SETTINGS, **ROTARY}[family],
    )  # fmt: skip
    for option, value in config.to_dict().items():
        if "drop" in option and isinstance(value, float | int):
            setattr(config, option, dropout)
    torch.manual_seed(0)
    return auto.from_config(config, dtype=dtype)


def ragged(full=False, seed=1):
    batch = global_batches(1, seed=seed)[0]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    shortest = int(inputs["attention_mask"].sum(1).min())
    return {name: value[:, :shortest].contiguous() for name, value in inputs.items()} if full else inputs


def passed(model, inputs, seed=None):
    """Logits, the gradient of a perturbation, and those of all weights."""
    hook = EmbeddingPerturbation(model)
    generator, ids = torch.Generator().manual_seed(5), inputs["input_ids"]
    delta = (0.1 * torch.randn(*ids.shape, hook.width, generator=generator)).to(ids.device).requires_grad_()
    model.train(seed is not None)
    torch.manual_seed(seed or 0)
    model.zero_grad()
    with hook.applied(delta):
        logits = model(**inputs).logits
    torch.nn.functional.cross_entropy(logits, LABELS.to(ids.device)).backward()
    hook.remove()
    return logits.detach(), delta.grad, {name: p.grad for name, p in model.named_parameters()}


def test_all_supported_families_are_tried():
    assert SETTINGS.keys() == FAMILIES.keys() and not ROTARY.keys() & FAMILIES.keys()


@every_family
@pytest.mark.parametrize("full, step", [(False, 0), (True, 0), (False, 64)], ids=["ragged", "no padding", "spare tokens"])
def test_logits_and_all_gradients_are_those_of_the_padded_model(family, full, step):
    model, plain = build(family), build(family)
    assert remove_padding(model, step)
    found, expected = passed(model, ragged(full)), passed(plain, ragged(full))
    close(found, expected, family)
    # delta is added in fp32, in which its gradient is.
    assert found[1].dtype == torch.float32 and found[1].any() and (found[1][ragged(full)["attention_mask"] == 0] == 0).all()


@pytest.mark.parametrize("family", SETTINGS)
def test_layers_compute_real_tokens_only_and_the_last_one_those_that_the_head_reads(family):
    model, rows = build(family), []
    remove_padding(model)
    for layer in model.base_model.encoder.layer:
        layer.intermediate.register_forward_hook(lambda module, args, output: rows.append(output.shape[:2]))
    inputs = ragged()
    model(**inputs)
    assert rows == [(1, int(inputs["attention_mask"].sum())), (1, len(LABELS))]


@pytest.mark.parametrize("family", ROTARY)
def test_layers_with_rotary_positions_compute_real_tokens_only(family):
    model, rows, inputs = build(family), [], ragged()
    remove_padding(model)
    for layer in model.base_model.layers:
        layer.mlp.register_forward_hook(lambda module, args, output: rows.append(output.shape[:2]))
    model(**inputs)
    assert rows == [(1, int(inputs["attention_mask"].sum()))] * 2


@every_family
def test_equal_seeds_drop_equal_units_and_recomputed_layers_drop_them_again(family):
    model = build(family, dropout=0.2)
    remove_padding(model)
    first, again, other = (passed(model, ragged(), seed) for seed in (3, 3, 4))
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert not torch.allclose(other[0], first[0])
    recompute_activations(model)
    torch.testing.assert_close(passed(model, ragged(), 3), first, rtol=1e-12, atol=1e-12)


@every_family
def test_passes_over_other_batches_do_not_disturb_a_backward_that_recomputes(family):
    model, plain = build(family), build(family)
    remove_padding(model)
    recompute_activations(model)
    batches = [ragged(seed=seed) for seed in (1, 2)]
    for one in (model.train(), plain):
        logits = [one(**inputs).logits for inputs in batches]
        for found in logits:
            torch.nn.functional.cross_entropy(found, LABELS).backward()
    for (name, p), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        close(p.grad, other.grad, family, msg=name)


@pytest.mark.parametrize("family", ["bert", "modernbert", "nomic_bert", "llama"])
def test_a_head_that_reads_every_token_gets_every_token(family):
    model, plain = (build(family, auto=AutoModelForTokenClassification).eval() for _ in range(2))
    assert remove_padding(model)
    inputs = ragged()
    real = inputs["attention_mask"].bool()
    found, expected = model(**inputs).logits, plain(**inputs).logits
    assert found.shape == expected.shape
    torch.testing.assert_close(found[real], expected[real], rtol=1e-9, atol=1e-11)


def test_texts_that_do_not_begin_at_the_left_and_inputs_without_a_mask_are_computed_with_padding():
    for family in ("bert", "mpnet", "modernbert", "llama"):
        model, plain = build(family).eval(), build(family).eval()
        remove_padding(model)
        (batch,) = global_batches(1, left_padding=True)
        left = {name: batch[name] for name in ("input_ids", "attention_mask")}
        for inputs in (left, {"input_ids": left["input_ids"]}):
            torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits, rtol=0, atol=0)


def test_architectures_that_read_padding_otherwise_are_left_alone():
    for kind, more in (
        ("albert", {}),
        ("bert", {"chunk_size_feed_forward": 2}),
        ("bert", {"output_hidden_states": True}),
        ("llama", {"is_causal": False}),
        ("gemma3_text", {"use_bidirectional_attention": True}),
    ):
        config = AutoConfig.for_model(kind, vocab_size=50, **{**SMALL, "embedding_size": 16, **ROTARY.get(kind, {}), **more})
        model = AutoModelForSequenceClassification.from_config(config)
        classes = [type(module) for module in model.modules()]
        assert not remove_padding(model) and classes == [type(module) for module in model.modules()]


def twice(inputs):
    both = {name: torch.cat([value, value]) for name, value in inputs.items()}
    pack_doubled(inputs, both)
    return both


def test_inputs_twice_give_logits_twice():
    model, plain = build("roberta").eval(), build("roberta").eval()
    remove_padding(model)
    inputs = ragged()
    model(**inputs)
    torch.testing.assert_close(model(**twice(inputs)).logits, plain(**inputs).logits.repeat(2, 1), rtol=1e-9, atol=1e-11)


class Reads(TorchDispatchMode):
    """Counts values that the host reads, each of which would make it wait for a card."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += func.overloadpacket.__name__ in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["roberta", "modernbert", "nomic_bert", "llama", "gemma3_text"])
def test_the_host_reads_a_mask_once_however_many_passes_are_made(family):
    model, inputs = build(family, dropout=0.1), ragged()
    remove_padding(model)
    assert Packing.of(inputs["attention_mask"]) is Packing.of(inputs["attention_mask"])
    with Reads() as reads:
        for _ in range(3):
            model(**inputs)
            model(**twice(inputs)).logits.sum().backward()
    assert not reads.found
    inputs["attention_mask"][0, 2:], inputs["input_ids"][0, 2:] = 0, PAD
    plain = build(family).eval()
    close(model.eval()(**inputs).logits, plain(**inputs).logits, family)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("roberta")
    build("roberta", dtype=torch.float32).save_pretrained(path)
    build_tokenizer(ModelConfig(), ["a b c"] * 30).save_pretrained(path)
    return path


def built(folder, **options):
    options = ModelConfig(name=str(folder), dropout=0.0, **options)
    return build_model(options, TASKS["mnli"], build_tokenizer(options, ()), 0)


def test_a_built_model_has_no_padding_and_is_saved_as_what_it_was(folder, tmp_path):
    found = built(folder)
    found.module.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert found.unpadded and type(plain.roberta.encoder).__name__ == "RobertaEncoder"
    torch.testing.assert_close(found.module.eval()(**ragged()).logits, plain(**ragged()).logits, rtol=1e-5, atol=1e-6)
    padded = built(folder, attention="eager")
    assert not padded.unpadded and type(padded.module.roberta.encoder).__name__ == "RobertaEncoder"
    padded.module.save_pretrained(tmp_path / "padded")
    assert (tmp_path / "padded" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_adapters_and_modules_that_peft_copies_work_on_real_tokens(folder):
    lora = LoraConfig(r=2, target_modules=["query", "value", "dense"], modules_to_save=["roberta.encoder.layer.1"])
    found = built(folder, lora=lora).module
    plain = built(folder, lora=lora, attention="eager").module
    plain.load_state_dict(found.state_dict())
    with torch.no_grad():
        for model in (found, plain):
            torch.manual_seed(1)
            for p in (p for p in model.parameters() if p.requires_grad):
                p.add_(0.1 * torch.randn_like(p))
    gradients, expected = (
        {name: g for name, g in passed(model, ragged())[2].items() if g is not None} for model in (found, plain)
    )
    assert any("layer.1.modules_to_save" in name for name in gradients)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)
