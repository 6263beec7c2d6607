"""Options of the text attacks of `mat-ds evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mat_ds.config.section import Count, Section

# Recipes of TextAttack for classification, without those that see gradients, by the names that they have here.
RECIPES = {
    "textattack_a2t": "A2TYoo2021",
    "textattack_bad_characters": "BadCharacters2021",
    "textattack_bae": "BAEGarg2019",
    "textattack_bert_attack": "BERTAttackLi2020",
    "textattack_checklist": "CheckList2020",
    "textattack_clare": "CLARE2020",
    "textattack_deepwordbug": "DeepWordBugGao2018",
    "textattack_faster_alzantot": "FasterGeneticAlgorithmJia2019",
    "textattack_iga": "IGAWang2019",
    "textattack_kuleshov": "Kuleshov2017",
    "textattack_pruthi": "Pruthi2019",
    "textattack_pso": "PSOZang2020",
    "textattack_pwws": "PWWSRen2019",
    "textattack_textbugger": "TextBuggerLi2018",
    "textattack_textfooler": "TextFoolerJin2019",
}
# TextAttack requires flair, which has no version for this transformers: pip would look for one for long, and fail.
INSTALLED_BY = "pip install mat_ds[textattack] && pip install --no-deps textattack==0.3.11"
TEXT_ATTACKS = ("characters", "benign_words", "hotflip", "importance", "triggers", *RECIPES)
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
