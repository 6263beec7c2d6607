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
from mat_ds.terminal.layout import table_text, wrapped
from mat_ds.terminal.units import duration, gib, scaled

# Columns of the names before lines, and of what does not fit into the first line.
NAMED, INDENT = 10, 4
GATHERS = {
    "layer": "a layer at a time, anew in each pass (model.gather=layer)",
    "model": "the whole model, once for all passes without gradients of the weights between two updates (model.gather=model)",
}
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


def _named_line(name: str, text: str) -> str:
    """A named line of the plan."""
    return wrapped(f"{name:{NAMED}}{text}", NAMED)


def _verdict(answer: PlanReport) -> Iterator[str]:
    plan, run = answer.plan, answer.plan.run
    taken = f"{gib(plan.card)} of {gib(plan.memory)} GiB on each of {answer.cards.count} cards"
    taken += f" in {answer.cards.chains} chains" if answer.cards.chains > 1 else ""
    how = f"{run.method.name}, {_layout(plan)}, {PRECISIONS[plan.zero.dtype]}, micro-batches of {run.train.micro_batch}"
    yield wrapped(f"{'fits' if plan.fits else 'DOES NOT FIT'}: {taken} ({how})", INDENT)


def _layout(plan: Plan) -> str:
    places = (("optimizer", plan.zero.offload_optimizer), ("parameters", plan.zero.offload_param))
    offloaded = ", ".join(name for name, there in places if there)
    return f"ZeRO-{plan.zero.stage}" + (f" + offload: {offloaded}" if offloaded else "")


def _holdings(plan: Plan) -> Iterator[str]:
    def line(name: str, card: int, host: int, note: str = "") -> str:
        hosted = f"{_size(host):>8}" if plan.host else ""
        numbers = f"{name:22}{_size(card):>7}{hosted}   "
        return wrapped(f"{numbers}{note}".rstrip(), len(numbers))

    yield f"{'each rank holds, GiB':22}{'card':>7}{'host' if plan.host else '':>8}".rstrip()
    for row in plan.rows:
        yield line(row.name, row.card, row.host, WHEN[row.when] + row.note)
    yield line("at the fullest moment", plan.card, plan.host)


def _size(size: int) -> str:
    return gib(size) if size else ""


def _others(answer: PlanReport) -> Iterator[str]:
    profiles = {name: json.loads(DS_CONFIGS.path(name).read_text(encoding="utf-8")) for name in DS_CONFIGS.names()}
    headings = ["ZeRO", "offload", "recompute", "micro", "card", "host", "sent", "time", "--ds_config"]
    for title, fits in (("what fits, the cheapest first", True), ("what does not fit", False)):
        if rows := [_other(plan, profiles) for plan in answer.others if plan.fits is fits]:
            yield f"{title} (GiB; sent and time of an outer step)"
            yield table_text([headings, *rows])


def _other(plan: Plan, profiles: dict[str, dict[str, Any]]) -> list[Any]:
    """The row of a layout in the table."""
    offload = "all" if plan.zero.offload_param else "optimizer" if plan.zero.offload_optimizer else ""
    again = "yes" if plan.run.model.gradient_checkpointing else "no"
    held = gib(plan.card), _size(plan.host)
    taken = scaled(plan.traffic.total, "B"), duration(plan.seconds)
    return [plan.zero.stage, offload, again, plan.run.train.micro_batch, *held, *taken, ", ".join(_shipped(plan, profiles))]


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
    meeting = f", which meet every {every} of them," if (every := plan.run.train.local_steps) > 1 else ""
    parts = (
        ("gradients", sent.gradients),
        ("updated weights", sent.updates),
        ("gathered weights", sent.passes),
        (f"between chains{meeting}", sent.across),
    )
    if plan.gather:
        yield _named_line("gathers", GATHERS[plan.gather])
    named = ", ".join(f"{name} {scaled(size, 'B')}" for name, size in parts if size)
    yield _named_line("sent", f"{scaled(sent.total, 'B')} by each rank in an outer step" + (f": {named}" if named else ""))
    if cards.link:
        between = " between chains (faster links within them are not counted)" if cards.chains > 1 else ""
        share = f"waiting for it takes {100 * plan.exposed / plan.seconds:.0f}% of the time"
        yield _named_line(
            "link", f"{scaled(8 * cards.link, 'bit/s')}{between}: {duration(plan.communication)} in an outer step; {share}"
        )
    yield _named_line("compute", f"{duration(plan.compute)} in an outer step, at {cards.flops / 1e12:g} TFLOP/s")
    if answer.seconds is None:
        yield _named_line("steps", "as many as there are batches: pass --examples")
    else:
        alone = "" if cards.link else " without communication: pass --link"
        yield _named_line("steps", f"{answer.extent.steps:,} outer steps, {duration(answer.seconds)} in all{alone}")


def _grounds(answer: PlanReport) -> Iterator[str]:
    """The assumptions behind the numbers."""
    total, trained = answer.costs.parameters
    yield _named_line("model", f"{total:,} parameters" + (f", {trained:,} of them trained" if trained < total else ""))
    yield _named_line("inputs", answer.extent.source)
    if answer.assumed_speed:
        yield _named_line("speed", f"{answer.cards.flops / 1e12:g} TFLOP/s is assumed, not measured: pass --tflops")
    if answer.costs.estimated:
        yield _named_line(
            "estimate", f"activations follow a formula: this model cannot run without values ({answer.costs.estimated})"
        )
    yield _named_line("left out", "evaluations, checkpoints and loading; moving what is offloaded; waiting for slower ranks")


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
        "card_bytes": plan.card, "host_bytes": plan.host, "sent_bytes": asdict(plan.traffic), "gather": plan.gather,
        "step_seconds": {"compute": plan.compute, "communication": plan.communication, "waiting": plan.exposed},
    }  # fmt: skip
