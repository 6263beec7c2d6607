"""A linear classifier of the sum of word embeddings, whose distance to its boundary is known, for attacks and certificates."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from mat_ds.tasks.example import Example

WORDS, WIDTH = 40, 8


class Bag(nn.Module):
    """Two logits (0, v . sum of embeddings) of texts that are numbers of words.

    Args:
        scale: of the logits; a large one saturates the softmax.
        grid: if positive, embeddings are rounded to multiples of it, which has no gradient.
    """

    def __init__(self, scale=1.0, grid=0.0):
        super().__init__()
        source = torch.Generator().manual_seed(3)
        self.embedding = nn.Embedding.from_pretrained(0.1 * torch.randn(WORDS, WIDTH, generator=source))
        self.direction, self.scale, self.grid = torch.randn(WIDTH, generator=source), scale, grid

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        if self.grid:
            x = torch.round(x / self.grid) * self.grid
        heights = self.scale * ((x * attention_mask.unsqueeze(-1)).sum(1) @ self.direction)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(heights), heights], 1))

    def distance(self, example):
        """The L2 distance of an example's embeddings, all tokens together, from the boundary."""
        ids = torch.tensor(numbers(example))
        return float((self.embedding(ids).sum(0) @ self.direction).abs() / (len(ids) ** 0.5 * self.direction.norm()))


def numbers(example):
    return [int(word) for word in example.texts[0].split()]


def collate(examples, device):
    """Inputs and labels as of a `Collator`."""
    ids = [torch.tensor(numbers(example)) for example in examples]
    real = [torch.ones(len(one), dtype=torch.long) for one in ids]
    inputs = {"input_ids": pad_sequence(ids, batch_first=True), "attention_mask": pad_sequence(real, batch_first=True)}
    return inputs, torch.tensor([example.label for example in examples])


def examples(count):
    """Texts of 3 to 7 words, labelled as the model answers them."""
    source, model, found = torch.Generator().manual_seed(5), Bag(), []
    for i in range(count):
        ids = torch.randint(WORDS, (3 + i % 5,), generator=source)
        label = int(model(ids[None], torch.ones_like(ids)[None]).logits.argmax())
        found.append(Example((" ".join(map(str, ids.tolist())),), label))
    return found
