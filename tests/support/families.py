"""The supported model families, each as a model of a few thousand weights, and MAT on one process."""

import itertools

import torch
from torch import nn
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForSequenceClassification

from mat_ds.sampling.noise_kernel import own_kernel
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.slices import Slice, places
from tests.support.expected import few
from tests.support.plain_engine import PlainEngine
from tests.support.tiny import VOCABULARY

PAD, BEGIN, END = 1, 0, 2

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
}
LLAMA = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 18,
}
DEBERTA_V2 = {**BERT, "embedding_size": 8, "conv_kernel_size": 3}
DEBERTA_V3 = {
    **BERT,
    "type_vocab_size": 0,
    "position_biased_input": False,
    "relative_attention": True,
    "share_att_key": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
}
# A third of its layers attends to all tokens, the others to two neighbours on each side.
MODERNBERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 18,
    "local_attention": 4,
    "classifier_bias": True,
    "norm_bias": True,
}
NOMIC_BERT = {**BERT, "max_position_embeddings": 18}
GEMMA2 = {
    **LLAMA,
    "num_hidden_layers": 2,
    "query_pre_attn_scalar": 8,
    "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention"],
}

# Model type, settings of its config, width of its word embedding, number of positions.
FAMILIES = {
    "bert": ("bert", BERT, 16, 20),
    "roberta": ("roberta", {**BERT, "type_vocab_size": 1}, 16, 18),
    "xlm-roberta": ("xlm-roberta", {**BERT, "type_vocab_size": 1}, 16, 18),
    "electra": ("electra", {**BERT, "embedding_size": 8}, 8, 20),
    "albert": ("albert", {**BERT, "embedding_size": 8, "num_hidden_layers": 2}, 8, 20),
    "deberta-v2": ("deberta-v2", DEBERTA_V2, 8, 20),
    "deberta-v3": ("deberta-v2", DEBERTA_V3, 16, 20),
    "mpnet": ("mpnet", BERT, 16, 18),
    "modernbert": ("modernbert", MODERNBERT, 16, 18),
    "nomic_bert": ("nomic_bert", NOMIC_BERT, 16, 18),
    "eurobert": ("eurobert", LLAMA, 16, 18),
    "gpt2": ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 18}, 16, 18),
    "llama": ("llama", LLAMA, 16, 18),
    "qwen2": ("qwen2", LLAMA, 16, 18),
    "qwen3": ("qwen3", LLAMA, 16, 18),
    "gemma": ("gemma", LLAMA, 16, 18),
    "gemma2": ("gemma2", GEMMA2, 16, 18),
    "gemma3_text": ("gemma3_text", GEMMA2, 16, 18),
}
DECODERS = {"gpt2", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"}


def runs():
    """(family, run) of every run on ranks; in `make test` every other family is in one run in half precision."""
    halves = ("bf16 checkpointed, zero-2", "bf16, zero-3", "fp16, zero-2", "fp16 checkpointed, zero-3")
    whole = itertools.product(FAMILIES, ("fp32, zero-2", "fp32 checkpointed, zero-3"))
    return {*whole, *few(FAMILIES, halves, of=8)}


def build(family, dropout=0.0, attention=None):
    """A model of the family for three classes, without dropout, with weights so large that every token matters."""
    kind, settings, *_ = FAMILIES[family]
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        pad_token_id=PAD,
        bos_token_id=BEGIN,
        eos_token_id=END,
        cls_token_id=BEGIN,
        sep_token_id=END,
        mask_token_id=END,
        num_labels=3,
        initializer_range=0.2,
        **settings,
    )
    for option, value in config.to_dict().items():
        if "drop" in option and isinstance(value, float):
            setattr(config, option, dropout)
    if attention:
        config._attn_implementation = attention
    torch.default_generator.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


class Rounded(nn.Module):
    """A model whose passes use its fp32 weights rounded to a half precision, as in a mixed-precision run."""

    def __init__(self, model, dtype):
        super().__init__()
        self.model, self.dtype, self.config = model, dtype, model.config

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def forward(self, **inputs):
        rounded = {name: weight.to(self.dtype) for name, weight in self.model.named_parameters()}
        return functional_call(self.model, rounded, (), inputs)


class SamplingEngine(PlainEngine):
    """A `PlainEngine` with the sampler's updates and a run's noise; a sharded run must end with the same parameters.

    Args:
        model: what is trained.
        chain, optimizer, seed: of the run.
        backwards: micro-batches of one update.
    """

    def __init__(self, model, chain, optimizer, seed=0, backwards=1):
        super().__init__(model, chain.samples)
        self.seed, self.backwards_per_update = seed, backwards
        parameters = list(model.parameters())
        self.sampler = Sampler([{"params": parameters, "weight_decay": 0.0}], optimizer, chain, seed)
        first = places([p.shape for p in parameters])
        slices = {p: [Slice(i, p.numel(), 0, 0, p.numel(), first[i])] for i, p in enumerate(parameters)}
        self.sampler.arm(slices, torch.device("cpu"), own_kernel(torch.device("cpu")))

    def begin(self, outer_step, lr):
        self.outer_step = outer_step
        self.model.train()
        self.sampler.begin(outer_step, lr)

    def backward(self, loss, delta=None):
        return super().backward(loss / self.backwards_per_update, delta)

    def update(self):
        super().update()
        self.sampler.step()
        self.sampler.zero_grad()
