"""Whether the method's perturbation has an effect: checked on a real batch before a run begins, and said while it trains."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mat_ds.engine.engine import Engine
from mat_ds.errors import Problem
from mat_ds.methods.base import Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.moves import Moves
from mat_ds.methods.ops import linf
from mat_ds.methods.settings import MethodSettings
from mat_ds.ranks.collectives import any_rank
from mat_ds.training.telemetry import FACTORS, VISIBLE_COSINE, below_resolution, cosine, mean_over_ranks

# Steps that move a perturbation by a smaller fraction of its size leave it as random as it was initialised.
LEAST_MOVE = 0.01
# An adversary with a smaller share of the divergence R, or a smaller R without dropout, changes nothing that could be measured.
LEAST_SHARE, LEAST_R = 0.01, 1e-6
# A recipe whose adversary can be seen.
START = "mat_visible"


def adversary_lines(step: int, telemetry: Mapping[str, float], settings: MethodSettings) -> Iterator[str]:
    """Yields lines that say in plain words what the perturbation does.

    Args:
        step: the outer step that was watched.
        telemetry: as measured, of a method that has a perturbation.
        settings: of the method.
    """
    size = f"|delta| {telemetry['delta_linf']:.1e}"
    alone, compared, share = telemetry["R_eval"], settings.divergence, 1.0
    if compared is None:
        yield f"step {step}: the adversary moves predictions by R {alone:.1e}; {size}"
    else:
        r = telemetry["R_shared_masks" if compared.shares_masks else "R"]
        dropped = 0.0 if compared.shares_masks or not r else min(telemetry["R_without"] / r, 1.0)
        share = 1.0 - dropped if r else 0.0
        yield f"step {step}: R {r:.1e}: adversary {_share_text(share)}, dropout {_share_text(dropped)}; {size}"
    if telemetry["cosine"] < VISIBLE_COSINE:
        kept = _share_text(max(telemetry["cosine"], 0.0))
        yield f"    only {kept} of its direction survives the precision: the rest is rounding"
    if telemetry.get("delta_moved", 1.0) < LEAST_MOVE:
        moved = _share_text(telemetry["delta_moved"])
        yield f"    a step moves it by {moved} of its size: it stays the random number it began as"
    if share < LEAST_SHARE or alone < LEAST_R:
        yield f"    the adversary does nothing at this radius; start with --recipe {START}"


def _share_text(share: float) -> str:
    """A share in percent, never rounded to all or nothing."""
    if 0 < share < 0.001:
        return "under 0.1%"
    return "over 99.9%" if 0.999 < share < 1 else f"{share:.1%}".replace(".0%", "%")


def objections(engine: Engine, method: Method, batch: MicroBatch) -> list[Problem]:
    """The parts of a method that have no effect at the current parameters. Every rank must call it, and gets the same list.

    Args:
        engine: after `begin`.
        method: of the run.
        batch: a micro-batch of the first outer step.
    """
    moves = Moves(batch.there)
    delta = method.adversary(engine, batch, moves)
    delta = None if delta is None else delta.detach()
    found: list[Problem] = []
    if delta is not None:
        found += below_resolution(engine, method, delta, batch)
        # On any rank, because GPUs may differ between ranks, and every rank must take part in what follows.
        if any_rank(engine.dtype == torch.float32 and uses_tf32(engine.device), engine.device):
            found += hidden_by_tf32(engine.realised(batch, delta)[0], delta, batch.mask)
    zero = delta is None or not mean_over_ranks(delta.abs().amax())
    moved = moves().get("delta_moved")
    if moved is not None and not zero:
        found += unmoved(method.settings, mean_over_ranks(moved))
    found += _idle(engine, method, batch, delta, zero)
    return found


def unmoved(settings: MethodSettings, share: float) -> Iterator[Problem]:
    """Yields a problem if the steps hardly move the perturbation.

    Args:
        settings: of the method.
        share: mean of |step| / |delta| over the steps, at most 1.
    """
    if share < LEAST_MOVE:
        raw = getattr(settings, "delta_gradient", None) == "raw"
        yield Problem(
            "method.delta_lr",
            getattr(settings, "delta_lr", None),
            f"a step moves the perturbation by {share:.1e} of its size, so that it stays the random number it began as",
            f"take {'method.delta_gradient=linf, or ' if raw else ''}a larger method.delta_lr",
        )


def uses_tf32(device: torch.device) -> bool:
    """Whether this device computes matrix products of fp32 tensors in TF32."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    forced = os.environ.get("NVIDIA_TF32_OVERRIDE")
    return forced == "1" or (forced != "0" and torch.backends.cuda.matmul.fp32_precision == "tf32")


def tf32(x: Tensor) -> Tensor:
    """`x` rounded to TF32: fp32 with a mantissa of 10 bits."""
    bits = x.float().contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def hidden_by_tf32(x: Tensor, delta: Tensor, mask: Tensor) -> Iterator[Problem]:
    """Yields a problem if TF32 rounds a perturbation away. Every rank must call it.

    TF32 rounds the inputs of matrix products to a relative precision of 2^-11. Embeddings and LayerNorm are still computed in
    fp32, so the first rounded tensor is the embeddings after LayerNorm; here each token is divided by its root mean square.

    Args:
        x, delta: (B, L, H) word embeddings and their perturbation.
        mask: (B, L, 1), 1 on real tokens.
    """

    size = x.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)

    def seen(factor: float) -> float:
        return mean_over_ranks(cosine(delta, tf32((x + factor * delta) / size) - tf32(x / size), mask))

    kept, radius = seen(1.0), mean_over_ranks(linf(delta).mean())
    if kept < VISIBLE_COSINE:
        factor = next((factor for factor in FACTORS if seen(factor) >= VISIBLE_COSINE), None)
        larger = f"a radius {factor:.1f} times as large" if factor else "a larger radius"
        yield Problem(
            "torch.backends.cuda.matmul.fp32_precision",
            "tf32",
            f"matrix products resolve 2^-11 of their inputs, and a largest entry of {radius:.1e} is below it: intended and "
            f"realised direction have a cosine of {kept:.2f}, the rest is rounding",
            "leave TF32 off (no torch.set_float32_matmul_precision, TORCH_ALLOW_TF32_CUBLAS_OVERRIDE or "
            f"NVIDIA_TF32_OVERRIDE=1), or take {larger}",
        )


@torch.no_grad()
def _idle(engine: Engine, method: Method, batch: MicroBatch, delta: Tensor | None, zero: bool) -> Iterator[Problem]:
    """Yields a problem if passes have no effect: if delta is 0, if both predictions of a divergence R are equal, or if R has a
    weight of 0.

    Args:
        engine, method, batch: as in `objections`.
        delta: the method's perturbation (B, L, H), if it has one.
        zero: whether delta is 0, or there is none, on all ranks.
    """
    settings: MethodSettings = method.settings
    first, fresh = ("telemetry",), ("telemetry", "second")
    if (compared := settings.divergence) is None:
        if delta is not None and zero:
            yield Problem(
                "method.name",
                settings.name,
                "its perturbation is exactly 0: every pass is a clean one",
                "take a perturbation that is not zero, or method.name=vanilla",
            )
        return
    if not compared.weight:
        yield Problem(
            f"method.{compared.option}",
            compared.weight,
            "the divergence R weighs nothing, and its passes are made all the same",
            f"take a positive method.{compared.option}, or method.name=vanilla",
        )
    second = engine.probe(batch, first if compared.shares_masks else fresh, delta)
    r = method.objective.divergence(engine.probe(batch, first), second, batch)
    if not mean_over_ranks(r.abs().amax()):
        ways = ["give the model dropout with model.dropout=0.1"] if not compared.shares_masks else []
        ways += ["take a perturbation that is not zero"] if delta is not None and zero else []
        yield Problem(
            "method.name",
            settings.name,
            "the divergence R of its two passes is exactly 0: "
            + ("they are one and the same, at the cost of both" if zero else "no answer depends on the perturbation"),
            ", or ".join([*ways, "take method.name=vanilla"]),
        )
