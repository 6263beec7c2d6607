"""The best spans of a window, as tensors, and those of all windows of a context put together.

A copy of this module goes along with registered models: it imports nothing of mat_ds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Spans kept of a window, and looked at for an answer; beginnings and ends they are made of. As in transformers' run_qa.
BEST = 20
# A logit or score of what cannot be. Its probability is exactly 0 in fp32 and fp64, and fp16 can hold it.
NEVER = -6e4


def possible(places: Tensor) -> Tensor:
    """Which tokens an answer can begin or end at, (B, L): those of the context, and the one of "no answer".

    Args:
        places: (B, 3 + 2L), as `SpanQA.collate` makes them.
    """
    found = places[:, 3 : 3 + (places.shape[1] - 3) // 2] >= 0
    return found.scatter(1, places[:, 2:3], True)


def best_spans(logits: Tensor, places: Tensor, longest: int) -> Tensor:
    """(B, 1 + BEST, 3) in fp32: the score of "no answer", and of each of the best spans its score and where in the context it
    begins and ends, in characters. The score is the sum of two logits; a span that cannot be has `NEVER`.

    Args:
        logits: (B, L, 2).
        places: (B, 3 + 2L), as `SpanQA.collate` makes them.
        longest: tokens of a span.
    """
    from torch import cat, zeros_like
    from torch.nn.functional import pad

    length = logits.shape[1]
    begins, ends = places[:, 3 : 3 + length], places[:, 3 + length :]
    null = places[:, 2]
    some = min(BEST, length)
    inside = logits.float().masked_fill(begins.unsqueeze(-1) < 0, NEVER)
    (starts, first), (stops, last) = (inside[..., side].topk(some, 1) for side in range(2))
    scores = starts.unsqueeze(2) + stops.unsqueeze(1)  # (B, some, some)
    count = last.unsqueeze(1) - first.unsqueeze(2) + 1
    outside = (begins.gather(1, first) < 0).unsqueeze(2) | (begins.gather(1, last) < 0).unsqueeze(1)
    scores = scores.masked_fill(outside | (count < 1) | (count > longest), NEVER).flatten(1)
    best, chosen = scores.topk(min(BEST, scores.shape[1]), 1)
    begin, end = begins.gather(1, first.gather(1, chosen // some)), ends.gather(1, last.gather(1, chosen % some))
    found = pad(cat([part.float().unsqueeze(-1) for part in (best, begin, end)], -1), (0, 0, 0, BEST - best.shape[1]))
    found[:, best.shape[1] :, 0] = NEVER
    nothing = zeros_like(found[:, :1])
    nothing[:, 0, 0] = logits.float().gather(1, null.view(-1, 1, 1).expand(-1, 1, 2)).sum((1, 2))
    return cat([nothing, found], 1)


def merged(kept: np.ndarray, firsts: Sequence[int]) -> np.ndarray:
    """What is kept of windows, put together for each question: the best of all their spans, and the lowest score of "no
    answer", as in SQuAD 2's recipes: each window has to say that it is not there.

    Args:
        kept: (P, 1 + BEST, 3), windows of a question one after another.
        firsts: the first window of each question.
    """
    import numpy as np

    found = np.zeros((len(firsts), *kept.shape[1:]), kept.dtype)
    for i, (first, after) in enumerate(zip(firsts, [*firsts[1:], len(kept)], strict=True)):
        spans = kept[first:after, 1:].reshape(-1, 3)
        found[i, 0] = kept[first:after, 0].min(axis=0)
        found[i, 1:] = spans[np.argsort(-spans[:, 0], kind="stable")[: kept.shape[1] - 1]]
    return found


def answer_in(kept: np.ndarray, context: str, threshold: float | None) -> dict[str, Any]:
    """The answer to a question: `answer`, where it begins and ends in the context, and its probability among the best spans
    (and "no answer"), `score`. No answer is "", from 0 to 0.

    Args:
        kept: (1 + BEST, 3).
        threshold: how much the score of "no answer" must exceed the best span's; None if there is always an answer.
    """
    import numpy as np

    spans = [(score, *_trimmed(context, int(begin), int(end))) for score, begin, end in kept[1:].tolist() if score > NEVER]
    spans = [span for span in spans if span[1] < span[2]]
    null, no_answer = float(kept[0, 0]), {"answer": "", "start": 0, "end": 0}
    if not spans:
        return {**no_answer, "score": 1.0}
    none = threshold is not None and null - spans[0][0] > threshold
    scores = np.array([score for score, *_ in spans] + ([] if threshold is None else [null]))
    shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    if none:
        return {**no_answer, "score": float(shares[-1])}
    _, begin, end = spans[0]
    return {"answer": context[begin:end], "start": begin, "end": end, "score": float(shares[0])}


def _trimmed(context: str, begin: int, end: int) -> tuple[int, int]:
    """A span without spaces around it, which some tokenizers count to a token."""
    text = context[begin:end]
    return begin + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))
