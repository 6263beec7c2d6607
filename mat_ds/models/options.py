"""Options of the model of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mat_ds.config.names import Revision
from mat_ds.config.paths import PathText
from mat_ds.config.section import Count, Fraction, Section

Gather = Literal["auto", "layer", "model"]


class LoraConfig(Section):
    r: Count = Field(8, description="rank of the adapters")
    alpha: Count = Field(16, description="the adapters' product is scaled by alpha / r, with rslora by alpha / sqrt(r)")
    dropout: Fraction = Field(0.0, description="of the adapters' input")
    variant: Literal["lora", "dora", "rslora", "pissa"] = Field(
        "lora",
        description="dora: lengths and directions of the rows of the weights are trained apart; rslora: another scale; "
        "pissa: adapters begin as the base's largest singular values and vectors",
    )
    target_modules: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="linear layers that get an adapter, by the end of their names; null: the default for the "
        "architecture, such as [query, value]",
    )
    modules_to_save: list[str] = Field(
        [], description="modules trained as a whole besides the head and whatever the folder has no weights for"
    )
    merge: bool = Field(
        False,
        description="`model/` holds the whole model, its adapters added to its weights, and "
        "`model/adapter/` the adapters; false: `model/` holds the adapters alone",
    )


class ModelConfig(Section):
    name: PathText = Field("tiny-roberta", description="hub id or folder; `tiny-roberta`: built here, from scratch")
    revision: Revision | None = Field(
        None,
        description="commit, tag or branch of model.name on the hub, recorded as a commit in environment.json; null: main",
    )
    dropout: Fraction | None = Field(None, description="sets every dropout probability; null: the model's own")
    head_dropout: Fraction | None = Field(
        None,
        description="sets the dropout probability of the classification head alone; null: that of model.dropout, or "
        "the model's own",
    )
    attention: Literal["sdpa", "eager"] | None = Field(
        None,
        description="kernels of attention, of those that the architecture has; eager has second "
        "derivatives; null: the model's own choice",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in backward (non-re-entrant)")
    gather: Gather = Field(
        "auto",
        description="what ZeRO-3 makes whole at a time in passes without gradients of the weights, such as those of a "
        "perturbation's loop: a layer, anew in each pass, or the model, once for all of them; auto: the model, where that "
        "takes at most a third of the memory that is free; the results are the same",
    )
    compile: Literal["off", "graphs"] = Field(
        "off",
        description="whether passes that train nothing are captured as CUDA graphs, one a shape, and replayed: on a GPU, ZeRO "
        "0 to 2; fewer shapes by padding a little",
    )
    freeze: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        description="names of modules or parameters that are not trained, such as [embeddings, layer.0]: parts of their names "
        "between dots; * stands for letters of one part",
    )
    freeze_layers: Annotated[int, Field(ge=0)] = Field(
        0, description="the embeddings and the first so many layers are not trained; 0: off"
    )
    average: Literal["none", "ema", "uniform"] = Field(
        "none",
        description="running average of theta_t over outer steps, evaluated beside the raw weights: moving, or uniform "
        "as Algorithm 1 returns it",
    )
    average_decay: Fraction = Field(0.999, description="decay of the moving average")
    lora: LoraConfig | None = Field(
        None, description="train low-rank adapters and the head, the rest frozen; any `model.lora.*` turns it on"
    )
