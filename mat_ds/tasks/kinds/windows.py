"""Cuts a context that is too long for the model into overlapping windows, each read after its question.

A copy of this module goes along with registered models: it imports nothing of mat_ds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Tokens that neighbouring windows share, as in the published recipes for SQuAD.
OVERLAP = 128


@dataclass(frozen=True)
class Windows:
    """The windows of questions with their contexts.

    Attributes:
        inputs: lists of numbers by name of the model input, one for each window.
        of: the question of each window.
        places: for each window, where in the context each token begins and ends, in characters; (-1, -1) if it is not of the
            context.
        nulls: the token of each window at which "no answer" begins and ends: the first special token.
    """

    inputs: dict[str, list[list[int]]]
    of: list[int]
    places: list[list[tuple[int, int]]]
    nulls: list[int]

    @property
    def firsts(self) -> list[int]:
        """The first window of each question."""
        return [i for i, question in enumerate(self.of) if i == 0 or question != self.of[i - 1]]


class SlowTokenizerError(ValueError):
    """A tokenizer does not say where in a text its tokens are."""


class NoRoomError(ValueError):
    """Windows would not advance."""


def cut(tokenizer: Any, questions: Sequence[str], contexts: Sequence[str], max_length: int, doc_stride: int | None) -> Windows:
    """Cuts contexts into windows; a question is cut at half of the input.

    Args:
        tokenizer: a fast one.
        questions, contexts: as many of both.
        max_length: tokens of an input, with its question.
        doc_stride: tokens that neighbouring windows share; None: `OVERLAP`, or a quarter of `max_length` if that is less.

    Raises:
        SlowTokenizerError, NoRoomError: with the reason.
    """
    if not tokenizer.is_fast:
        reason = f"{type(tokenizer).__name__} does not say where in a text its tokens are: only fast tokenizers do"
        raise SlowTokenizerError(reason)
    half, marks = max_length // 2, tokenizer.num_special_tokens_to_add(pair=True)
    room = max_length - half - marks
    overlap = min(OVERLAP, max_length // 4, max(0, room - 1)) if doc_stride is None else doc_stride
    if overlap >= room:
        raise NoRoomError(f"of {max_length} tokens, a question may take {half}, and the context has {max(0, room)} at least")
    questions = [_cut_question(tokenizer, question, half) for question in questions]
    found = tokenizer(questions, list(contexts), truncation="only_second", max_length=max_length, stride=overlap,
                      return_overflowing_tokens=True, return_offsets_mapping=True)  # fmt: skip
    of, places, nulls = list(found["overflow_to_sample_mapping"]), [], []
    for i, ids in enumerate(found["input_ids"]):
        pairs = zip(found["offset_mapping"][i], found.sequence_ids(i), strict=True)
        here = [(begin, end) if part == 1 else (-1, -1) for (begin, end), part in pairs]
        last = i + 1 == len(of) or of[i + 1] != of[i]
        places.append(_without_gaps(here, contexts[of[i]], last))
        nulls.append(ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0)
    inputs = {name: found[name] for name in found if name not in ("offset_mapping", "overflow_to_sample_mapping")}
    return Windows(inputs, of, places, nulls)


def _without_gaps(places: list[tuple[int, int]], context: str, last: bool) -> list[tuple[int, int]]:
    """The places of a window's tokens, where characters between two that are no spaces belong to the one before: a tokenizer
    that puts a space into a text (the built-in one) counts it in place of the character before it.

    Args:
        places: as the tokenizer says.
        context: all of it.
        last: whether the window holds the end of the context.
    """
    after = len(context) if last else -1
    for i in range(len(places) - 1, -1, -1):
        begin, end = places[i]
        if begin >= 0:
            places[i] = (begin, end + len(context[end:after].rstrip()) if after > end else end)
            after = begin
    return places


def _cut_question(tokenizer: Any, question: str, most: int) -> str:
    """A question of at most `most` tokens."""
    if 2 * len(question.encode()) <= most:  # no tokenizer makes more than a token of a byte, and one of a mark beside it
        return question
    places = _places(tokenizer, question)
    # What is left may have other tokens than it had in the whole: half a character, or an end of its own.
    for count in range(min(most, len(places)), 0, -1):
        shorter = question if count == len(places) else question[: places[count - 1][1]]
        if len(_places(tokenizer, shorter)) <= most:
            return shorter
    return ""


def _places(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return found


def tokens_of(places: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """The first and the last token of the context's characters `start` to `end`; None if the window does not hold them all."""
    inside = [i for i, (begin, stop) in enumerate(places) if begin >= 0 and stop > start and begin < end and stop > begin]
    if not inside or places[inside[0]][0] > start or places[inside[-1]][1] < end:
        return None
    return inside[0], inside[-1]


def targets(found: Windows, rows: Sequence[int], answers: Sequence[tuple[int, int] | None], length: int) -> Tensor:
    """Where answers and tokens are, (B, 3 + 2L): the tokens at which the answer begins and ends, the token of "no answer", and
    where in the context each token begins and ends, -1 if it is not of the context.

    Args:
        found: the windows.
        rows: those of a batch.
        answers: of each, the characters of the context at which it begins and ends; None: there is none.
        length: tokens of the batch, L.
    """
    import torch

    made = torch.full((len(rows), 3 + 2 * length), -1)
    for row, i, answer in zip(made, rows, answers, strict=True):
        null, places = found.nulls[i], torch.tensor(found.places[i])
        tokens = tokens_of(found.places[i], *answer) if answer else None
        row[:3] = torch.tensor([*(tokens or (null, null)), null])
        row[3 : 3 + len(places)] = places[:, 0]
        row[3 + length : 3 + length + len(places)] = places[:, 1]
    return made
