"""SQuAD's metrics as in its official script, and its published files (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mat_ds.tasks.lists import list_of

ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
PUNCTUATION = str.maketrans("", "", string.punctuation)
# How a published file begins.
BEGINNING = re.compile(r'\{\s*("version"\s*:\s*"[^"]*"\s*,\s*)?"data"\s*:\s*\[\s*(\]|\{\s*"(title|paragraphs)"\s*:)')


def normalised(answer: str) -> str:
    """An answer in lower case, without punctuation, articles and superfluous spaces."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact(reference: str, prediction: str) -> float:
    """1 if two answers are equal but for what `normalised` removes, else 0."""
    return float(normalised(reference) == normalised(prediction))


def overlap(reference: str, prediction: str) -> float:
    """F1 of the words of two answers; if one has no words, 1 if neither has, else 0."""
    wanted, found = normalised(reference).split(), normalised(prediction).split()
    if not wanted or not found:
        return float(wanted == found)
    same = sum((Counter(wanted) & Counter(found)).values())
    return 2 * same / (len(wanted) + len(found))


def mean_over_questions(
    measure: Callable[[str, str], float], references: Sequence[Sequence[str]], predictions: Sequence[str]
) -> float:
    """The mean over questions of the best value over a question's right answers, from 0 to 1 (SQuAD's script gives percent). As
    there, an answer that `normalised` leaves nothing of counts only if the question has no other."""
    total = 0.0
    for right, prediction in zip(references, predictions, strict=True):
        worded = [answer for answer in right if normalised(answer)] or [""]
        total += max(measure(answer, prediction) for answer in worded)
    return total / len(predictions)


def published_rows(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yields (place, row) of each question of a published file, with its title and context, as the hub has them flat.

    Args:
        tree: the file, parsed; a part of it that has another form is yielded as it is, and is no row.
    """
    for i, article in enumerate(_branches(tree, "data")):
        for j, paragraph in enumerate(_branches(article, "paragraphs")):
            for k, question in enumerate(_branches(paragraph, "qas")):
                place = f"data[{i}].paragraphs[{j}].qas[{k}]"
                if not all(isinstance(part, Mapping) for part in (article, paragraph, question)):
                    yield place, question
                    continue
                above = {"title": article.get("title"), "context": paragraph.get("context")}
                yield place, {**above, **question}


def _branches(tree: Any, key: str) -> list[Any]:
    """The list under a key; a list of what is there, where that is none, so that it is seen as a bad row."""
    found = tree.get(key) if isinstance(tree, Mapping) else None
    return found if isinstance(found, list) else [found]


def answers_in(value: Any) -> list[tuple[str, int]]:
    """(text, answer_start) of each answer, from the column `answers` as published or as on the hub.

    Raises:
        ValueError: with the reason, if it has another form.
    """
    value = list_of(value) if isinstance(value, str) else value  # in a csv file, as published
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        value = None
        if isinstance(texts, list | tuple) and isinstance(starts, list | tuple) and len(texts) == len(starts):
            value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list | tuple) or not all(isinstance(answer, Mapping) for answer in value):
        raise ValueError("the answers are neither {text: [...], answer_start: [...]} nor [{text, answer_start}, ...]")
    found = [(answer.get("text"), answer.get("answer_start")) for answer in value]
    if not all(isinstance(text, str) and text.strip() and type(start) is int and start >= 0 for text, start in found):
        raise ValueError("an answer is not a text with its place in the context (answer_start)")
    return found
