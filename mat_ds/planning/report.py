"""Prints a plan as tables, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mat_ds.config.packaged import DS_CONFIGS
from mat_ds.planning.costs import Costs
from mat_ds.planning.extent import Extent
from mat_ds.planning.plan import Cards, Plan
from mat_ds.planning.states import PRECISIONS
from mat_ds.terminal.units import duration, gib, scaled

WHEN = {"always": "", "passes": "in passes: ", "update": "in updates: "}


@dataclass(frozen=True)
class PlanReport:
    """The plan of a run and of its alternatives.

    Attributes:
        plan: the plan of the layout that was asked for.
        others: the plans of all layouts, the cheapest that fits first.
        cards, extent, costs: the GPUs, inputs and costs that they are based on.
        assumed_speed: whether the speed of the GPUs is the default.
    """

    plan: Plan
    others: list[Plan]
    cards: Cards
    extent: Extent
    costs: Costs
    assumed_speed: bool

    @property
    def seconds(self) -> float | None:
        """Seconds of all outer steps; None if their number is unknown."""
        return None if self.extent.steps is None else self.extent.steps * self.plan.seconds


def plan_text(answer: PlanReport) -> str:
    """The plan as text. The first line says whether the run fits."""
    sections = (_verdict(answer), _holdings(answer.plan), _others(answer), _course(answer), _grounds(answer))
    return "\n\n".join("\n".join(section) for section in sections)


def _verdict(answer: PlanReport) -> Iterator[str]:
    plan, run = answer.plan, answer.plan.run
    taken = f"{gib(plan.card)} of {gib(plan.memory)} GiB on each of {answer.cards.count} cards"
    how = f"{run.method.name}, {_layout(plan)}, {PRECISIONS[plan.zero.dtype]}, micro-batches of {run.train.micro_batch}"
    yield f"{'fits' if plan.fits else 'DOES NOT FIT'}: {taken} ({how})"


def _layout(plan: Plan) -> str:
    places = (("optimizer", plan.zero.offload_optimizer), ("parameters", plan.zero.offload_param))
    offloaded = ", ".join(name for name, there in places if there)
    return f"ZeRO-{plan.zero.stage}" + (f" + offload: {offloaded}" if offloaded else "")


def _holdings(plan: Plan) -> Iterator[str]:
    def line(name: str, card: int, host: int, note: str = "") -> str:
        hosted = f"{_size(host):>8}" if plan.host else ""
        return f"{name:22}{_size(card):>7}{hosted}   {note}".rstrip()

    yield f"{'each rank holds, GiB':22}{'card':>7}{'host' if plan.host else '':>8}".rstrip()
    for row in plan.rows:
        yield line(row.name, row.card, row.host, WHEN[row.when] + row.note)
    yield line("at the fullest moment", plan.card, plan.host)


def _size(size: int) -> str:
    return gib(size) if size else ""


def _others(answer: PlanReport) -> Iterator[str]:
    profiles = {name: json.loads(DS_CONFIGS.path(name).read_text(encoding="utf-8")) for name in DS_CONFIGS.names()}
    yield (
        f"{'what would fit':48}{'recompute':>9}{'micro-batch':>13}{'card':>7}{'host':>7}{'sent per step':>15}"
        f"{'time per step':>15}   --ds_config"
    )
    for position, plan in enumerate(answer.others):
        verdict = ("cheapest" if position == 0 else "fits") if plan.fits else "too big"
        again = "yes" if plan.run.model.gradient_checkpointing else "no"
        yield (
            f"{verdict:9}{_layout(plan):39}{again:>9}{plan.run.train.micro_batch:>13}{gib(plan.card):>7}"
            f"{_size(plan.host):>7}{scaled(plan.traffic.total, 'B'):>15}{duration(plan.seconds):>15}   "
            f"{', '.join(_shipped(plan, profiles))}"
        ).rstrip()


def _shipped(plan: Plan, profiles: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yields the names of the packaged configurations with the stage, offload and precision of a plan."""
    for name, tree in profiles.items():
        zero = tree["zero_optimization"]
        precision = next((half for half in ("fp16", "bf16") if half in tree), "fp32")
        offloads = "offload_optimizer" in zero, "offload_param" in zero
        layout = zero["stage"], precision, offloads
        if layout == (plan.zero.stage, PRECISIONS[plan.zero.dtype], (plan.zero.offload_optimizer, plan.zero.offload_param)):
            yield name


def _course(answer: PlanReport) -> Iterator[str]:
    """Communication, computation and number of steps of the layout that was asked for."""
    plan, cards, sent = answer.plan, answer.cards, answer.plan.traffic
    parts = (("gradients", sent.gradients), ("updated weights", sent.updates), ("gathered weights", sent.passes))
    named = ", ".join(f"{name} {scaled(size, 'B')}" for name, size in parts if size)
    yield f"sent      {scaled(sent.total, 'B')} by each rank in an outer step" + (f": {named}" if named else "")
    if cards.link:
        yield (
            f"link      {scaled(8 * cards.link, 'bit/s')}: {duration(plan.communication)} in an outer step; waiting for it "
            f"takes {100 * plan.exposed / plan.seconds:.0f}% of the time"
        )
    yield f"compute   {duration(plan.compute)} in an outer step, at {cards.flops / 1e12:g} TFLOP/s"
    if answer.seconds is None:
        yield "steps     as many as there are batches: pass --examples"
    else:
        alone = "" if cards.link else " without communication: pass --link"
        yield f"steps     {answer.extent.steps:,} outer steps, {duration(answer.seconds)} in all{alone}"


def _grounds(answer: PlanReport) -> Iterator[str]:
    """The assumptions behind the numbers."""
    total, trained = answer.costs.parameters
    yield f"model     {total:,} parameters" + (f", {trained:,} of them trained" if trained < total else "")
    yield f"inputs    {answer.extent.source}"
    if answer.assumed_speed:
        yield f"speed     {answer.cards.flops / 1e12:g} TFLOP/s is assumed, not measured: pass --tflops"
    if answer.costs.estimated:
        yield f"estimate  activations follow a formula: this model cannot run without values ({answer.costs.estimated})"
    yield "left out  evaluations, checkpoints and loading; moving what is offloaded; waiting for slower ranks"


def plan_json(answer: PlanReport) -> dict[str, Any]:
    """The plan as a JSON object, in bytes and seconds."""
    total, trained = answer.costs.parameters
    return {
        **_plan(answer.plan), "rows": [asdict(row) for row in answer.plan.rows], "cards": asdict(answer.cards),
        "parameters": total, "trained": trained, "extent": asdict(answer.extent), "seconds": answer.seconds,
        "assumed_speed": answer.assumed_speed, "estimated": answer.costs.estimated or None,
        "alternatives": [_plan(plan) for plan in answer.others],
    }  # fmt: skip


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "fits": plan.fits, "stage": plan.zero.stage, "precision": PRECISIONS[plan.zero.dtype],
        "offload_optimizer": plan.zero.offload_optimizer, "offload_param": plan.zero.offload_param,
        "gradient_checkpointing": plan.run.model.gradient_checkpointing, "micro_batch_size": plan.run.train.micro_batch,
        "card_bytes": plan.card, "host_bytes": plan.host, "sent_bytes": asdict(plan.traffic),
        "step_seconds": {"compute": plan.compute, "communication": plan.communication, "waiting": plan.exposed},
    }  # fmt: skip
