"""A bag of words as a model under attack: its logits are linear in the words' vectors, so the first order is exact."""

from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from mat_ds.evaluation.attacks.base import Victim
from mat_ds.evaluation.attacks.options import TextAttackOptions
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.spec import TaskSpec

SPECIAL = ("[PAD]", "[UNK]", "[SEP]")


class Bag(nn.Module):
    """Logits: `bias` plus the sum over words of `head` times the word's vector."""

    def __init__(self, vectors, head, bias):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(vectors, dtype=torch.float32))
        self.head, self.bias = torch.tensor(head, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask, **others):
        total = (self.embedding(input_ids) * attention_mask.unsqueeze(-1)).sum(1)
        return SimpleNamespace(logits=total @ self.head.T + self.bias)


def word_tokenizer(words):
    """Reads small letters and whole words only, others as unknown; joins pairs by a separator."""
    numbers = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]",
                                   model_input_names=["input_ids", "attention_mask"])  # fmt: skip


def bag_victim(vectors, head, bias=(0.0, 0.0), columns=("sentence",), batch_size=8, max_length=64, masked=None):
    """A bag under attack.

    Args:
        vectors: of each word, by the word; special tokens have zeros.
        head: (classes, width).
        masked: its head for masked words.
    """
    width = len(head[0])
    model = Bag([[0.0] * width] * len(SPECIAL) + list(vectors.values()), head, bias)
    kind = kind_of(TaskSpec(name="bag", text=columns, labels=tuple(f"label{i}" for i in range(len(head)))))
    tokenizer = word_tokenizer(vectors)
    return Victim(
        model, lambda inputs: model(**inputs).logits, EmbeddingPerturbation(model), tokenizer,
        Collator(tokenizer, max_length, kind), kind, torch.device("cpu"), batch_size, masked,
    )  # fmt: skip


def attacked(attack, victim, examples, key=(0,), column=None, **options):
    """What an attack does to each example, and what it says it shares."""
    made = attack(TextAttackOptions(**options), victim, len(examples[0].texts) - 1 if column is None else column)
    shared = made.prepare(examples, key)
    return [made.attack(example, (*key, row)) for row, example in enumerate(examples)], shared
