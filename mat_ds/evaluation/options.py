"""Options of `mat-ds evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mat_ds.config.paths import PathText
from mat_ds.config.section import Count, Section
from mat_ds.evaluation.attacks.embedding_options import AttackOptions
from mat_ds.evaluation.attacks.options import TextAttackOptions
from mat_ds.evaluation.noise import NOISES
from mat_ds.evaluation.smoothing_options import SmoothingOptions

Rate = Annotated[float, Field(gt=0.0, le=1.0)]


class DataOptions(Section):
    validation: PathText | None = Field(
        None,
        description="a file of your own to score on, with the columns that the model was trained on; null: the run's data",
    )
    path: PathText | None = Field(None, description="folder of `<task>/<split>.jsonl`, ...; null: the run's own, else the hub")
    max_length: Annotated[int, Field(ge=4)] | None = Field(
        None, description="tokens an input is cut at; null: the run's own, else what the model takes"
    )
    bad_rows: Literal["refuse", "skip"] | None = Field(
        None, description="on a bad row: refuse or skip; null: as in the run, else refuse"
    )


class NoiseOptions(Section):
    rates: Annotated[tuple[Rate, ...], Field(strict=False)] = Field(
        (0.05, 0.1, 0.2), description="share of the letters or words that are changed; []: no noise"
    )
    kinds: Annotated[tuple[Literal[tuple(NOISES)], ...], Field(strict=False)] = Field(  # type: ignore[valid-type]
        tuple(NOISES), description="kinds of noise"
    )


class EvaluationOptions(Section):
    task: PathText | None = Field(None, description="a task, or a task YAML of your own; null: the run's own")
    output_dir: PathText | None = Field(
        None,
        description="a folder that is empty or does not exist; null: `<folder>/evaluation`, or where there is one, "
        "`evaluation-2`, `-3`, ...",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="key of the random starts and of the noise")
    limit: Count | None = Field(None, description="use only the first N examples of each split; null: as many as the run did")
    groups: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="a column by whose values the clean scores are broken down, such as genre; null: for AdvGLUE method, where "
        "the files have it, else none",
    )
    invariance: PathText | None = Field(
        None, description="a YAML of templates with tests of the model's behaviour; null: no such tests"
    )
    micro_batch_size: Count = Field(32, description="examples of one pass on one rank")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="to compute in; bfloat16 does not see radii below about 1e-3"
    )
    mixture: bool = Field(
        False, description="score the mean of the probabilities of the run's snapshots (train.snapshots), and attack that"
    )
    data: DataOptions = DataOptions()
    attack: AttackOptions = AttackOptions()
    noise: NoiseOptions = NoiseOptions()
    text_attack: TextAttackOptions = TextAttackOptions()
    smoothing: SmoothingOptions = SmoothingOptions()
