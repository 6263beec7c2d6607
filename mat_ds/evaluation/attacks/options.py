"""Options of the text attacks of `mat-ds evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mat_ds.config.section import Count, Section

TEXT_ATTACKS = ("characters", "benign_words", "hotflip", "importance", "triggers")
# Those that replace or choose words of the model's vocabulary, for which they read its tokenizer and its word embeddings.
WORD_ATTACKS = ("hotflip", "importance", "triggers")


class TextAttackOptions(Section):
    names: Annotated[tuple[Literal[TEXT_ATTACKS], ...], Field(strict=False)] = Field(  # type: ignore[valid-type]
        (), description="attacks on the text that keep its label, each searching the worst change; []: none"
    )
    limit: Count = Field(200, description="examples of each split that are attacked, drawn by the seed")
    column: str | None = Field(None, description="the text column that is changed; null: the last that the task reads")
    max_queries: Count = Field(200, description="texts that the model may be asked about in attacking one example")
    max_share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.2, description="share of the words of a text that may be changed, at least one"
    )
    min_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] = Field(
        0.5,
        description="least cosine, in the model's word embeddings, of a word and what hotflip or importance replaces it with",
    )
    max_added: Count = Field(3, description="words or short phrases that benign_words may add")
