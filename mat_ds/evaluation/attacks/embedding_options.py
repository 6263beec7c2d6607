"""Options of the attack on word embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from mat_ds.config.paths import PathText
from mat_ds.config.section import Count, Section
from mat_ds.errors import Problem
from mat_ds.tasks.kinds.base import Kind

Radius = Annotated[float, Field(ge=0.0)]

# An L2 radius r means about r / sqrt(tokens x width) per entry: 0.1 is about 1e-3 for a short sentence in a small model. In a
# ball of its own, a token has r / sqrt(width).
RADII = {
    ("linf", "example"): (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    ("l2", "example"): (1e-2, 3e-2, 0.1, 0.3, 1.0),
    ("linf", "token"): (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    ("l2", "token"): (2e-3, 6e-3, 2e-2, 6e-2, 0.2),
}
# Length of the first step as a share of the radius: the published one of APGD.
STEP_SIZES = {"fixed": 0.5, "apgd": 2.0}


class AttackOptions(Section):
    norm: Literal["linf", "l2"] = Field(
        "linf",
        description="ball around the word embeddings of an example, all its tokens together; linf: sign ascent, "
        "l2: normalised ascent",
    )
    ball: Literal["example", "token"] = Field(
        "example", description="whose norm is bounded: the example's or each token's; under linf they are the same"
    )
    radii: Annotated[tuple[Radius, ...], Field(strict=False)] | None = Field(
        None, description="radii of the ball; []: no attack; null: 1e-4 ... 1e-2 (linf) or 1e-2 ... 1 (l2); 0 is always added"
    )
    steps: Count = Field(5, description="ascent steps at each radius, from each start")
    restarts: Count = Field(1, description="random starts at each radius")
    loss: Literal["task", "margin", "dlr"] = Field(
        "task",
        description="what is ascended: the task's loss, the largest logit of a wrong class less that of the right one, or this "
        "as a share of the difference of largest and third (dlr, three classes at least)",
    )
    schedule: Literal["fixed", "apgd"] = Field(
        "fixed", description="steps of one length, or APGD: momentum, and a length that halves where the loss stops rising"
    )
    step_size: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="length of a step, with apgd of the first, as a share of the radius; null: 0.5, with apgd 2"
    )
    checks: bool = Field(
        False,
        description="also look for signs of gradient masking at each radius: twice the steps, random noise, an attack without "
        "gradients, gradients that are zero; costs several times as much",
    )
    queries: Annotated[int, Field(ge=17)] = Field(
        128, description="checks: passes of each example in the attack without gradients, at each radius"
    )
    surrogate: PathText | None = Field(
        None,
        description="checks: another model fine-tuned from the same base, whose gradients an attack follows that is judged on "
        "the model itself; null: none",
    )

    @property
    def curve(self) -> tuple[float, ...]:
        """The radii in ascending order, starting with 0; empty if there is no attack."""
        radii = RADII[self.norm, self.ball] if self.radii is None else self.radii
        return tuple(sorted({0.0, *radii})) if radii else ()

    @property
    def first_step(self) -> float:
        """Length of the first step as a share of the radius."""
        return STEP_SIZES[self.schedule] if self.step_size is None else self.step_size

    @property
    def rules(self) -> tuple[str, ...]:
        """What the attack does, for the report."""
        loss = {
            "task": "the task's loss",
            "margin": "the largest logit of a wrong class less that of the right one (Carlini and Wagner, 2017)",
            "dlr": "the difference of logits ratio (Croce and Hein, 2020)",
        }[self.loss]
        ball = "per example, over all its real tokens together" if self.ball == "example" else "per token, each on its own"
        starts = "one random start" if self.restarts == 1 else f"{self.restarts} random starts"
        apgd = ("steps by APGD: momentum 0.75, a length that halves at checkpoints (Croce and Hein, 2020)",)
        return (
            f"untargeted ascent on {loss} with respect to a perturbation added to the word embeddings, evaluation mode",
            f"the ball is {ball}, special tokens included; pads carry nothing",
            f"{starts} per example, keyed by (seed, split, position), scaled to each radius",
            *(apgd if self.schedule == "apgd" else ()),
            "the worst of all iterates counts: a wrong answer before a right one, then the greater loss",
            "what was found at a smaller radius counts at every larger one: accuracy cannot rise with the radius by "
            "construction",
        )


def embedding_attack_problems(options: AttackOptions, kind: Kind) -> Iterator[Problem]:
    """Yields problems of options that contradict each other or do not fit the kind of task."""
    if options.loss != "task" and not kind.picks_largest:
        reason = f"needs the logits of classes that exclude each other, but this is a task of {kind.name}"
        yield Problem("attack.loss", options.loss, reason, "take attack.loss=task")
    elif options.loss == "dlr" and kind.outputs < 3:
        reason = "divides by the difference of the largest and the third logit: the task must have three labels of its own"
        yield Problem("attack.loss", options.loss, reason, "take attack.loss=margin")
    if options.checks and len(options.curve) < 2:
        yield Problem("attack.checks", True, "checks an attack, but attack.radii asks for none", "leave one of them out")
    if options.surrogate and not options.checks:
        reason = "is the model of a check, but checks are off"
        yield Problem("attack.surrogate", options.surrogate, reason, "add attack.checks=true, or leave it out")
