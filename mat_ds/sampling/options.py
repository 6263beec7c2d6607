"""Options of the parameters' optimizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mat_ds.config.section import Fraction, Positive, Section


def _schedule(given: Any) -> Any:
    """Accepts `polynomial` of older recipes: transformers' version has degree one, which is linear."""
    return "linear" if given == "polynomial" else given


class OptimizerConfig(Section):
    name: Literal["sgd", "rmsprop", "adam"] = Field(
        "adam",
        description="preconditioner of the parameters' chain; adam is torch's AdamW, rmsprop torch's RMSprop, "
        "sgd torch's SGD without momentum",
    )
    lr: Annotated[float, Field(ge=0.0)] = Field(1e-5, description="peak step size gamma of the parameters")
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = Field(
        (0.9, 0.999), description="decay of the two moments of adam"
    )
    rmsprop_alpha: Fraction = Field(0.99, description="decay of the second moment of rmsprop")
    eps: Positive = Field(1e-8, description="added to the root of the second moment")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.01, description="on everything but biases and norms; decoupled in adam, torch's own form in the others"
    )
    schedule: Annotated[Literal["linear", "cosine", "constant"], BeforeValidator(_schedule)] = Field(
        "linear", description="of the step size, advanced once per outer step, after the warm-up"
    )
    warmup_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = Field(0.1, description="share of the outer steps that warm up")
    max_grad_norm: Annotated[float, Field(ge=0.0)] = Field(0.0, description="clip the global gradient norm; 0: off")
