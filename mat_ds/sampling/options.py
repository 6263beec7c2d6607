"""Options of the parameters' optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mat_ds.config.section import Fraction, Positive, Section
from mat_ds.errors import Problem

if TYPE_CHECKING:
    from mat_ds.sampling.chain import Chain

Schedule = Literal["linear", "cosine", "constant", "warmup_stable_decay"]


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
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="a layer's step size is this times that of the layer after it, the last layer's this times lr; the "
        "embeddings' is the smallest, the head has lr; 1: off",
    )
    head_lr: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="peak step size of the head, which follows the same schedule; null: lr"
    )
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = Field(
        (0.9, 0.999), description="decay of the two moments of adam"
    )
    rmsprop_alpha: Fraction = Field(0.99, description="decay of the second moment of rmsprop")
    eps: Positive = Field(1e-8, description="added to the root of the second moment")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.01, description="on everything but biases and norms; decoupled in adam, torch's own form in the others"
    )
    schedule: Annotated[Schedule, BeforeValidator(_schedule)] = Field(
        "linear",
        description="of the step size, advanced once per outer step, after the warm-up; the last stays at lr and falls "
        "linearly at the end",
    )
    min_lr_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0, description="where the schedule ends, as a share of lr; not with constant"
    )
    decay_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.1, description="share of the outer steps, the last ones, in which warmup_stable_decay falls"
    )
    warmup_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = Field(0.1, description="share of the outer steps that warm up")
    max_grad_norm: Annotated[float, Field(ge=0.0)] = Field(0.0, description="clip the global gradient norm; 0: off")

    @property
    def uneven(self) -> bool:
        """Whether parameters have different step sizes."""
        return self.layer_decay != 1.0 or self.head_lr is not None

    def problems(self) -> Iterator[Problem]:
        """Yields what is wrong with options that are valid on their own."""
        if self.schedule == "constant" and self.min_lr_ratio:
            yield Problem("optimizer.min_lr_ratio", self.min_lr_ratio, "has no effect: a constant step size falls to nothing",
                          "leave it out, or take another optimizer.schedule")  # fmt: skip
        if self.schedule == "warmup_stable_decay" and self.warmup_ratio + self.decay_ratio > 1.0:
            reason = f"and optimizer.warmup_ratio={self.warmup_ratio:g} are together more than all outer steps"
            yield Problem("optimizer.decay_ratio", self.decay_ratio, reason, "make one of them smaller")
        if self.head_lr is not None and not self.lr:
            reason = "follows the schedule of optimizer.lr, which is 0 throughout"
            fix = "to train the head alone, give optimizer.lr a value and freeze the rest with model.freeze"
            yield Problem("optimizer.head_lr", self.head_lr, reason, fix)


class SamplingConfig(Section):
    temperature: Annotated[float, Field(ge=0.0)] | None = Field(
        None,
        description="of the posterior that the chain samples, in place of the noise of the method; 1: exp(-N L) with N "
        "training examples, and weight decay as its prior; the noise is sqrt(2 lr temperature / N), times the root of the "
        "optimizer's preconditioner; null: the method's own noise",
    )
    cycles: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="in place of optimizer.schedule: so often after the warm-up, the step size falls from lr to "
        "min_lr_ratio x lr along half a cosine; null: optimizer.schedule",
    )
    explore: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of each cycle, or of the run if it has none, before the noise of the temperature begins"
    )

    def problems(self, optimizer: OptimizerConfig, chain: Chain) -> Iterator[Problem]:
        """Yields why the chain of a run would not sample what `temperature` says.

        Args:
            optimizer: of the run.
            chain: of its method.
        """
        if self.cycles and optimizer.schedule != OptimizerConfig().schedule:
            reason = f"and optimizer.schedule={optimizer.schedule} both say how the step size falls"
            yield Problem("sampling.cycles", self.cycles, reason, "leave one of the two out")
        if self.explore and not self.temperature:
            reason = "is the share without the noise of sampling.temperature, and there is none"
            yield Problem("sampling.explore", self.explore, reason, "pass sampling.temperature=1, or leave it out")
        if not self.temperature:
            return
        key, value = "sampling.temperature", self.temperature
        if chain.ascent:
            reason = "the method's gradients are taken beside the parameters: they are of no potential to sample"
            yield Problem(key, value, reason, "take another method, such as vanilla")
        if chain.is_mixed:
            reason = "the method averages its samples, and an average is no sample"
            yield Problem(key, value, reason, "pass method.beta_s=0 method.beta_p=0, or take another method")
        if optimizer.name == "adam" and optimizer.weight_decay:
            reason = "adam's weight decay is not part of the loss, so it is no prior"
            yield Problem(key, value, reason, "pass optimizer.weight_decay=0, or optimizer.name=rmsprop")
        if optimizer.max_grad_norm:
            reason = "clipped gradients are of no potential to sample"
            yield Problem(key, value, reason, "pass optimizer.max_grad_norm=0")
