"""Causal language models in plain float64 torch: the half of their oracle that is not common to all kinds."""

from typing import ClassVar

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.support.tiny import VOCABULARY, global_batches


class Writing:
    """A decoder whose head is the table of its word embeddings; the last tokens of each text are the response.

    Labels are (samples, T, 2), as mat_ds has them: the place of the logits that predict a token, and the token; -100 for none.
    """

    spec: ClassVar = {"kind": "causal_lm", "text": ["prompt"], "label": "response", "metrics": ["perplexity"]}

    def model(self, **settings):
        torch.default_generator.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=24, max_position_embeddings=32, tie_word_embeddings=True, initializer_range=0.1, pad_token_id=1,
            architectures=["LlamaForCausalLM"],
        )  # fmt: skip
        return AutoModelForCausalLM.from_config(config, **settings)

    def logits(self, model, batch, delta=None):
        words = model.get_input_embeddings()(batch["input_ids"])
        return model(inputs_embeds=words if delta is None else words + delta, attention_mask=batch["attention_mask"]).logits

    def of_responses(self, value, batch):
        """The mean of value(sample, place, token) over the tokens of each sample's response."""
        found = []
        for i, labels in enumerate(batch["labels"].tolist()):
            each = [value(i, place, token) for place, token in labels if token != -100]
            found.append(sum(each) / len(each))
        return torch.stack(found)

    def losses(self, z, batch):
        return self.of_responses(lambda i, place, token: -z[i, place].softmax(0)[token].log(), batch)

    def divergences(self, z, z_adv, batch):
        def both(i, place, token):
            p, q = z[i, place].softmax(0), z_adv[i, place].softmax(0)
            return (p * (p / q).log()).sum() + (q * (q / p).log()).sum()

        return self.of_responses(both, batch)

    def batches(self):
        found = global_batches()
        for batch in found:
            lengths, labels = batch["attention_mask"].sum(1).tolist(), torch.full((8, 4, 2), -100)
            labels[..., 0] = 0
            for i, n in enumerate(lengths):
                for t, place in enumerate(range(max(1, n - 2 - i % 3), n)):  # two to four
                    labels[i, t] = torch.tensor([place - 1, batch["input_ids"][i, place]])
            batch["labels"] = labels
        return found
