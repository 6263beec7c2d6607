"""Responses of causal language models: what greedy decoding writes after a prompt, or after the messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlflow.transformers
import pandas
import torch
from transformers import GenerationConfig

from .rows import BATCH, asked_rows, chosen_columns, refuse


class TextGenerator:
    """The object that MLflow calls.

    Args:
        pipeline: transformers' text-generation pipeline, of which model and tokenizer are used.
        max_length: maximum tokens of prompt and response together.
        columns: the task's name of its column.
        chats: whether prompts are chats, for which the tokenizer has a template; a text is then a message of the user.
        max_new_tokens: of a response; None: half of `max_length`.
    """

    def __init__(self, pipeline: Any, max_length: int, columns: Sequence[str], chats: bool, max_new_tokens: int | None = None):
        self._model, self._tokenizer, self._columns, self._chats = pipeline.model, pipeline.tokenizer, tuple(columns), chats
        self._most = max_new_tokens or max_length // 2
        if not 0 < self._most < max_length:
            raise refuse(f"max_new_tokens={self._most} leaves no token of the {max_length} to the prompt")
        self._cut = max_length - self._most
        ends = self._model.generation_config.eos_token_id
        named = [self._tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]
        self._ends = list(dict.fromkeys(end for end in named if end is not None))
        self._model.generation_config = GenerationConfig()  # without penalties and sampling

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Writes a response to each prompt.

        Args:
            model_input: prompts; or a table, records or columns in which they are named `text`, or as in the task. A chat is a
                list of messages with `role` and `content`, of the system, then of user and assistant in turn; the last
                answer of the assistant, if it ends with one, is not read.
            params: unused.

        Returns:
            `response`.
        """
        table = chosen_columns(asked_rows(model_input, self._is_prompt), ("text",), self._columns)
        prompts = [self._tokens(row, value) for row, value in enumerate(table.iloc[:, 0].tolist())]
        found: list[str] = []
        for first in range(0, len(prompts), BATCH):
            found += self._responses(prompts[first : first + BATCH])
        return pandas.DataFrame({"response": found}) if found else pandas.DataFrame()

    def _is_prompt(self, value: Any) -> bool:
        return isinstance(value, str) or (self._chats and _is_chat(value))

    def _tokens(self, row: int, value: Any) -> list[int]:
        """The last tokens of a prompt."""
        value = value.tolist() if hasattr(value, "tolist") else value
        if not self._is_prompt(value) or not value:
            raise refuse(f"row {row}: {self._columns[0]} is not {'a chat' if self._chats else 'a text'}: {value!r}")
        begin: list[int] = []
        if self._chats:
            messages = [{"role": "user", "content": value}] if isinstance(value, str) else list(value)
            messages = messages[:-1] if messages[-1]["role"] == "assistant" else messages
            messages = [message for message in messages if message["content"] or message["role"] != "system"]
            value = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        elif (start := self._tokenizer.bos_token_id) is not None and self._tokenizer("")["input_ids"][:1] == [start]:
            begin = [start]
        tokens = [*begin, *self._tokenizer(value, add_special_tokens=False)["input_ids"]]
        return tokens[-self._cut :]

    @torch.inference_mode()
    def _responses(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """What is written after prompts, which are padded on the left."""
        longest, pad, device = max(map(len, prompts)), self._tokenizer.pad_token_id, self._model.device
        ids = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        found = self._model.generate(
            input_ids=torch.tensor(ids, device=device), attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=self._most, do_sample=False, use_cache=True, eos_token_id=self._ends, pad_token_id=pad,
        )  # fmt: skip
        return [self._text(row) for row in found[:, longest:].tolist()]

    def _text(self, tokens: Sequence[int]) -> str:
        """The text before the first end token."""
        end = next((i for i, token in enumerate(tokens) if token in self._ends), len(tokens))
        return str(self._tokenizer.decode(list(tokens[:end]), skip_special_tokens=True))


def _is_chat(value: Any) -> bool:
    """Whether something is a list of messages."""
    known = isinstance(value, list | tuple) and all(isinstance(message, Mapping) for message in value)
    return bool(known and all(isinstance(message.get(key), str) for message in value for key in ("role", "content")))


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> TextGenerator:
    """Called by MLflow to load the model in `path`."""
    return TextGenerator(
        mlflow.transformers.load_model(path),
        model_config["max_length"],
        model_config["text"],
        model_config["chats"],
        model_config.get("max_new_tokens"),
    )
