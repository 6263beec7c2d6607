"""A RoBERTa with a few thousand weights, and batches for it, identical in every test and process."""

import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from mat_ds.methods.batch import MicroBatch

VOCABULARY = 64


def tiny_config(labels=3, dropout=0.0, **overrides):
    settings = dict(
        vocab_size=VOCABULARY,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=32,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=labels,
        problem_type="regression" if labels == 1 else "single_label_classification",
        initializer_range=0.1,
    )
    return RobertaConfig(**settings | overrides)


def tiny_roberta(labels=3, dropout=0.0, seed=0, **overrides):
    torch.default_generator.manual_seed(seed)
    model = RobertaForSequenceClassification(tiny_config(labels, dropout, **overrides))
    # No pass uses it: at every stage a parameter without a gradient must count as one with a zero gradient.
    model.spare = torch.nn.Linear(3, 5)
    return model


def shallow_roberta(**overrides):
    """The same with one layer, for tests on ranks: further layers would take time and show nothing new."""
    return tiny_roberta(**{"num_hidden_layers": 1, **overrides})


def shallow_lora(checkpointing=False, variant="lora", adapter_dropout=0.0, **overrides):
    """The same with adapters of rank 4 on query and value."""
    from mat_ds.models.lora import add_lora  # peft takes seconds to import
    from mat_ds.models.options import LoraConfig

    model = shallow_roberta(**overrides)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return add_lora(model, "nowhere", LoraConfig(r=4, variant=variant, dropout=adapter_dropout), [], seed=0)


def global_batches(steps=2, examples=8, labels=3, seed=1, left_padding=False):
    """`steps` batches of sentences of different lengths; labels are class indices, or scores in [0, 5] if labels == 1."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(steps):
        lengths = torch.randint(4, 13, (examples,), generator=generator)
        ids = torch.ones(examples, int(lengths.max()), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, n in enumerate(lengths):
            real = slice(-n, None) if left_padding else slice(0, int(n))
            ids[row, real] = torch.randint(3, VOCABULARY, (int(n),), generator=generator)
            mask[row, real] = 1
        if labels == 1:
            target = torch.rand(examples, generator=generator) * 5
        else:
            target = torch.randint(0, labels, (examples,), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": target})
    return batches


def micro_batches(batch, micro, rank=0, ranks=1):
    """The micro-batches of `rank`, each truncated to its longest text (right padding)."""
    count = len(batch["labels"]) // micro
    accumulation = count // ranks
    result = []
    for index in range(rank * accumulation, (rank + 1) * accumulation):
        rows = slice(index * micro, (index + 1) * micro)
        longest = int(batch["attention_mask"][rows].sum(-1).max())
        of_the_loss = {name: batch[name][rows] for name in ("weights", "probabilities") if name in batch}
        names = batch.keys() - {"labels", *of_the_loss}
        inputs = {name: batch[name][rows][..., :longest] for name in batch if name in names}
        result.append(MicroBatch(inputs, batch["labels"][rows], index, **of_the_loss))
    return result
