"""Greedy decoding: the text that a causal language model writes after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a response: the tokenizer's, with which training ends one, and those that the model itself names."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(end for end in (tokenizer.eos_token_id, *named) if end is not None))


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], most: int, ends: Sequence[int]) -> list[list[int]]:
    """The likeliest token after each prompt, again and again, until an end token.

    Prompts are padded on the left, so that each is followed by its first new token.

    Args:
        model, tokenizer: in evaluation mode; settings of generation that came with the model are not used.
        prompts: their tokens, at least one each.
        most: number of new tokens of a response.
        ends: the end tokens.

    Returns:
        The new tokens of each, without the end token.
    """
    device, longest = next(model.parameters()).device, max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    ids = [[tokenizer.pad_token_id] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
    mask = [[0] * pad + [1] * len(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    whole.generation_config = GenerationConfig()  # without penalties and sampling
    found = model.generate(
        input_ids=torch.tensor(ids, device=device), attention_mask=torch.tensor(mask, device=device), max_new_tokens=most,
        do_sample=False, use_cache=True, eos_token_id=list(ends), pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return [_until(row, set(ends)) for row in found[:, longest:].tolist()]


def _until(tokens: Sequence[int], ends: set[int]) -> list[int]:
    """The tokens before the first end token."""
    return list(tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))])
