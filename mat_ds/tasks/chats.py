"""Chats: reads their messages, and renders them with the chat template of a tokenizer.

A chat is a list of messages, each with a `role` and a `content`: perhaps one of the system, then user and assistant in turn.
It is held as its turns, a tuple of texts: the system's ("" if there is none), the user's, the assistant's, and so on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.example import BLANK, MISSING, BadRow, excerpt, text_fault

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
IN_TURN = (USER, ASSISTANT)


def turns_of(value: Any, column: str) -> tuple[str, ...] | BadRow:
    """The turns in a value of a column of chats, or the first fault found.

    Args:
        value: a list of messages, also as JSON in a text, as in a csv file; any other text is what the user says first.
        column: its name in messages.
    """
    if isinstance(value, str):
        try:
            read = json.loads(value) if value.lstrip().startswith("[") else None
        except (ValueError, RecursionError):
            read = None
        value = read if isinstance(read, list) else [{"role": USER, "content": value}]
    if not isinstance(value, Sequence) or not all(isinstance(message, Mapping) for message in value):
        return BadRow(MISSING, excerpt(value), f"{column} is not a list of messages, each with a role and a content")
    messages = list(value)
    system = messages.pop(0) if messages and messages[0].get("role") == SYSTEM else {"content": ""}
    if not messages:
        return BadRow(BLANK, None, f"{column} has no message of a user")
    for i, message in enumerate(messages):
        if (role := message.get("role")) != (wanted := IN_TURN[i % 2]):
            rule = "a chat is one message of the system or none, then user and assistant in turn"
            return BadRow(MISSING, excerpt(role), f"message {i + 1} of {column} is not of the {wanted}: {rule}")
    texts = tuple(message.get("content") for message in (system, *messages))
    for i, text in enumerate(texts):
        if fault := text_fault(f"message {i} of {column}", text):
            return fault
        if i and not text.strip():
            return BadRow(BLANK, text, f"message {i} of {column} is blank")
    return texts


def messages_of(turns: Sequence[str]) -> list[dict[str, str]]:
    """Turns as messages."""
    system = [{"role": SYSTEM, "content": turns[0]}] if turns[0] else []
    return system + [{"role": IN_TURN[i % 2], "content": text} for i, text in enumerate(turns[1:])]


def template_problems(key: str, name: str, tokenizer: Any) -> Iterator[Problem]:
    """Yields a problem if a tokenizer has no chat template.

    Args:
        key, name: the option that named the model, and its name.
    """
    if not tokenizer.chat_template:
        reason = "its tokenizer has no chat template, which turns messages into one text"
        fix = "take a model for chats, set tokenizer.chat_template and save it, or name a text and a label column instead"
        yield Problem(key, name, reason, fix)


def prompt_of(tokenizer: Any, turns: Sequence[str]) -> str:
    """The text after which the assistant answers."""
    return str(tokenizer.apply_chat_template(messages_of(turns), tokenize=False, add_generation_prompt=True))


def pieces_of(tokenizer: Any, turns: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yields the rendered chat in pieces, up to the last answer's end: text, and whether it is the assistant's.

    The assistant's are what the template marks as generated. In a template without marks, they are what it adds to the prompt
    for each answer. After its first end token an answer has ended: the line end that many templates write then is not its own.

    Raises:
        UserError: if the template has no marks, and writes a turn otherwise once there are later ones.
    """
    done, marks = 0, "endgeneration" in tokenizer.get_chat_template()
    whole, spans = _marked(tokenizer, turns) if marks else _by_prefixes(tokenizer, turns)
    for start, end in spans:
        yield whole[done:start], False
        answer, stop, rest = whole[start:end].partition(tokenizer.eos_token)
        yield answer + stop, True
        done = end - len(rest)


def _marked(tokenizer: Any, turns: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The rendered chat and the spans between `{% generation %}` and `{% endgeneration %}`."""
    from transformers.utils.chat_template_utils import render_jinja_template

    both: Any = render_jinja_template(
        [messages_of(turns)],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    (whole,), (spans,) = both
    return str(whole), [(int(start), int(end)) for start, end in spans]


def _by_prefixes(tokenizer: Any, turns: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The rendered chat and the spans that follow the prompts for each answer."""
    whole = str(tokenizer.apply_chat_template(messages_of(turns), tokenize=False))
    spans = []
    for i in range(2, len(turns), 2):
        before, after = prompt_of(tokenizer, turns[:i]), messages_of(turns[: i + 1])
        until = str(tokenizer.apply_chat_template(after, tokenize=False))
        if not (whole.startswith(until) and until.startswith(before)):
            reason = "writes a turn otherwise once there are later ones, so that the assistant's part cannot be found"
            fix = "mark it in the template with {% generation %} ... {% endgeneration %}, or cut the chats after one answer"
            raise UserError(Problem("chat template", tokenizer.name_or_path, reason, fix))
        spans.append((len(before), len(until)))
    return whole, spans
