"""What the arms are trained on: tasks, models, lengths, step sizes and radii."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.evidence.arms import ARMS, WEAKER, Trial

UPDATES = 3  # of MAT an outer step
COST = 25  # forward passes of an outer step of MAT: one clean, three ascents of 2, three updates of 6
MINILM, MPNET = "minilm", "mpnet"


@dataclass(frozen=True)
class Task:
    """What the arms are trained on.

    Attributes:
        data: folder of `train.jsonl` and `validation.jsonl`; empty: the demo's grammar, which is made here.
        model: folder of the pre-trained model; empty: a small one that is trained before, here.
        steps: outer steps of MAT; what they cost is the budget of all.
        lr: the step size of which the trials' are multiples.
        radius: of delta, per entry; None: the smallest of `RADII` where R with shared masks is more than three times that of
            dropout, as `mat-ds radius` says of training examples after as many vanilla steps, with the middle step size. It is
            found when it is first needed. Noise is as trained at SST-2's radius, and goes with the root of the radius.
        rows: of training; 0: all.
        max_length: tokens.
        batch: examples an outer step.
        text: columns of the text, or of the pair.
        scores: whether it is a regression, whose labels are scores.
        least_accuracy: on what tuning holds out, in percent, that vanilla must have before other arms are run.
        multiples, weak: those with the published weight, and with the weaker one.
        without: those of arms that have no such weight; as many in all.
        arms: that are run, in this order.
        options: further options of all its runs.
    """

    data: str
    model: str
    steps: int
    lr: float
    radius: float | None = None
    rows: int = 0
    max_length: int = 64
    batch: int = 32
    text: tuple[str, ...] = ("sentence",)
    scores: bool = False
    least_accuracy: float = 0.0
    multiples: tuple[float, ...] = (0.125, 0.25, 0.5, 1)
    weak: tuple[float, ...] = (0.25,)
    without: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1)
    arms: tuple[str, ...] = tuple(ARMS)
    options: tuple[str, ...] = ()

    @property
    def budget(self) -> int:
        return self.steps * self.batch * COST

    def trials(self, arm: str) -> list[Trial]:
        """Those of an arm, as many for every arm."""
        if arm not in WEAKER:
            return [Trial(multiple) for multiple in self.without]
        return [*map(Trial, self.multiples), *(Trial(multiple, True) for multiple in self.weak)]


FEWER = ("mat_mixed_mixed", "mat_pure_mixed", "mat_mixed_pure", "mat_pure_pure", "mat_random", "vanilla", "vanilla_updates")
PAIR = ("sentence1", "sentence2")
RADII = tuple(digit * 10.0**power for power in (-4, -3, -2) for digit in (1, 1.5, 2, 3, 5, 7))
# Beside a radius that is given: so many times R was that of dropout there, and at the next smaller one that was tried; of SST-2
# after 80 vanilla steps, of the grammar after its training before.
SST2 = Task("sst2", MINILM, 125, 2e-4, 3e-3, 4000, without=(0.125, 0.25, 0.35, 0.5, 1), arms=FEWER)  # 3.2, 1.5 at 2e-3
COLA = Task("cola", MINILM, 267, 2e-4)
MRPC = Task("mrpc", MINILM, 172, 2e-4, max_length=128, text=PAIR)
TASKS = {
    # Two epochs of MAT: with more rows a held-out tenth was nearly all right. 3.0, 2.7 at 2e-2.
    "grammar": Task("", "", 125, 5e-4, 2.2e-2, 2000, 32, multiples=(0.5, 1, 2, 4), weak=(1, 2, 4),
                    without=(0.5, 1, 1.4, 2, 2.8, 4, 8), options=("model.dropout=0.1",)),
    "sst2": SST2,
    # For a card, in this order: one epoch of MAT, one and a half of MRPC and two of RTE.
    "cola": COLA,
    "mrpc": MRPC,
    # R3F is defined for probabilities alone.
    "stsb": Task("stsb", MINILM, 180, 2e-4, max_length=128, text=PAIR, scores=True,
                 arms=tuple(arm for arm in ARMS if arm != "r3f")),
    # 52.7% of its dev set have one label.
    "rte": Task("rte", MINILM, 156, 2e-4, max_length=128, text=PAIR, least_accuracy=57.7,
                arms=("vanilla", *(arm for arm in ARMS if arm != "vanilla"))),
    # The arms that matter, base size.
    "sst2_base": replace(SST2, model=MPNET, lr=8e-5, radius=None, without=Task.without),
    "cola_base": replace(COLA, model=MPNET, lr=8e-5, radius=None, arms=FEWER),
    "mrpc_base": replace(MRPC, model=MPNET, lr=8e-5, radius=None, arms=FEWER),
}  # fmt: skip
# Training rows of the grammar that its model is trained on before; those of the arms follow.
BEFORE = 8000
