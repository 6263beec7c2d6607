"""The user's DeepSpeed JSON beside the recipe: reads it, finds contradictions, and completes it. Imports no DeepSpeed.

The JSON decides ZeRO stage, offload, precision and communication; the recipe decides batch sizes, clipping, optimizer and
schedule. The JSON may repeat the recipe's batch sizes and clipping, or say "auto"; a contradiction is an error that names both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mat_ds.config.json_files import read_json_object
from mat_ds.config.packaged import DS_CONFIGS
from mat_ds.errors import Problem
from mat_ds.methods.settings import Serves
from mat_ds.models.options import ModelConfig
from mat_ds.ranks.world import World
from mat_ds.runs.captured import capture_problems
from mat_ds.runs.ds_types import OFFLOADS, type_problems
from mat_ds.runs.options import RunConfig

Tree = dict[str, Any]

RECIPE_SECTIONS = {"optimizer": "optimizer.*", "scheduler": "optimizer.schedule and optimizer.warmup_ratio"}
REFUSED = {
    "torch_autocast": "mat_ds measures perturbations against one compute dtype; use the fp16 or the bf16 section",
    "zero_optimization.zenflow": "its optimizer updates parameters at other times than the sampler's mixture assumes",
    "zero_optimization.zero_quantized_weights": "quantised weights would hide the perturbation and the samples' noise",
    "zero_optimization.zero_quantized_gradients": "quantised gradients are not the gradients of the method",
    "zero_optimization.zero_quantized_nontrainable_weights": "quantised weights would hide the perturbation",
    "zero_optimization.legacy_stage1": "DeepSpeed has no other ZeRO-1 any more",
    "fp16.fp16_master_weights_and_grads": "the samples' noise and mixture need fp32 masters",
    "bf16.bf16_master_weights_and_grads": "the samples' noise and mixture need fp32 masters",
    "flops_profiler.output_file": "DeepSpeed would overwrite a file of this name; the profile is printed",
}


def owned_values(run: RunConfig, world: World) -> Tree:
    """The entries of a DeepSpeed configuration that the recipe decides; "auto" where that is still to be chosen."""
    train, micro = run.train, run.train.micro_batch_size
    return {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": "auto" if micro == "auto" else train.batch_size // (micro * world.size),
        "gradient_clipping": run.optimizer.max_grad_norm,  # always written: DeepSpeed's own default is 1.0
        "managed_gradient_accumulation": False,  # every step() is a boundary: K of them make an outer step
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def read_ds_config(path: Path) -> Tree:
    """The JSON object in `path`; raises `UserError` if it cannot be read."""
    DS_CONFIGS.require(path, "--ds_config")
    tree = read_json_object(
        path, "--ds_config", "pass the name of one that comes with mat_ds, such as zero2, or a JSON file of your own"
    )
    return _without_nulls(tree)


def _without_nulls(tree: Tree) -> Tree:
    """Removes keys whose value is null."""
    kept = {key: value for key, value in tree.items() if value is not None}
    return {key: _without_nulls(value) if isinstance(value, dict) else value for key, value in kept.items()}


def complete(tree: Tree, run: RunConfig, world: World) -> Tree:
    """The configuration passed to DeepSpeed: the JSON without "auto" values, plus the recipe's entries."""
    kept = {key: value for key, value in tree.items() if key not in RECIPE_SECTIONS and value != "auto"}
    zero = {key: value for key, value in kept.get("zero_optimization", {}).items() if value != "auto"}
    if zero.get("stage", 0) in (1, 2) and not zero.get("overlap_comm"):
        # Each rank gets its own part of a bucket of gradients, not all of it: half the bytes. With `overlap_comm` DeepSpeed
        # would wait for the device in every bucket.
        zero = {"use_multi_rank_bucket_allreduce": False, **zero}
    # DeepSpeed's throughput timer makes the host wait for the card in each pass, for a line that is never printed.
    quiet = {"steps_per_print": 10**9, "timers": {"throughput": {"enabled": False}}}
    return {**quiet, **kept, "zero_optimization": zero, **owned_values(run, world)}


def serves(completed: Tree, model: ModelConfig) -> Serves:
    """What an engine with this configuration can do for a method.

    Args:
        completed: from `complete`.
        model: options of the model.
    """
    stage = completed["zero_optimization"].get("stage", 0)
    half = any(completed.get(section, {}).get("enabled") for section in ("fp16", "bf16"))
    reason = no_partial_pass = None
    if stage == 3:
        no_partial_pass = "ZeRO-3 gathers weights in the order of whole passes, and leaving one early would break it"
        reason = "ZeRO-3 has freed the gathered parameters before a second backward needs them"
    elif half:
        reason = "a second derivative is lost in half precision"
    elif model.attention != "eager":
        reason = "fused attention kernels have no second derivative; model.attention=eager has"
    return Serves(reason, no_partial_pass, half)


def json_problems(tree: Tree, run: RunConfig, world: World) -> Iterator[Problem]:
    """Yields a problem for everything in the JSON that contradicts the recipe, or that mat_ds cannot work with."""
    if types := list(type_problems(tree)):
        yield from types
        return
    yield from _contradictions(tree, owned_values(run, world))
    yield from _section_problems(tree, run)
    yield from _refusals(tree)
    yield from capture_problems(tree, run)


def _contradictions(tree: Tree, owned: Tree) -> Iterator[Problem]:
    origin = {
        "train_batch_size": "train.batch_size",
        "train_micro_batch_size_per_gpu": "train.micro_batch_size",
        "gradient_accumulation_steps": "train.batch_size / (train.micro_batch_size x ranks)",
        "gradient_clipping": "optimizer.max_grad_norm",
    }
    for key in (key for key in tree if key in owned):
        if tree[key] not in ("auto", owned[key]):
            source = origin.get(key, "mat_ds itself")
            yield Problem(f"ds_config {key}", tree[key], f"contradicts {source}, which makes it {owned[key]!r}",
                          f'delete the key from the JSON, or write "auto"; set {source} instead')  # fmt: skip


def _section_problems(tree: Tree, run: RunConfig) -> Iterator[Problem]:
    """Yields a problem if the JSON's optimizer or scheduler does not leave everything to the recipe."""
    adam = ("auto", "Adam", "AdamW") if run.optimizer.name == "adam" else ("auto",)
    for key in RECIPE_SECTIONS.keys() & tree.keys():
        kind, params = tree[key].get("type", "auto"), tree[key].get("params", {}).values()
        if not params or any(value != "auto" for value in params) or (key == "optimizer" and kind not in adam):
            yield Problem(f"ds_config {key}", tree[key], f"is the recipe's to decide ({RECIPE_SECTIONS[key]})",
                          f'delete the section, or write "auto" for all its params; set {RECIPE_SECTIONS[key]}')  # fmt: skip


def _refusals(tree: Tree) -> Iterator[Problem]:
    for path, reason in REFUSED.items():
        section, _, key = path.rpartition(".")
        value = (tree.get(section, {}) if section else tree).get(key)
        enabled = value.get("enabled", True) if isinstance(value, dict) else value
        if enabled:
            yield Problem(f"ds_config {path}", value, reason, "delete it")
    zero, types = tree.get("zero_optimization", {}), tree.get("data_types", {})
    precision = next((key for key in ("fp16", "bf16") if tree.get(key, {}).get("enabled")), "fp32")
    # ZeRO-0 has no master weights to accumulate gradients of another dtype into.
    for key in ("param_dtype", *(() if zero.get("stage", 0) else ("grad_accum_dtype",))):
        if types.get(key) not in (None, precision):
            yield Problem(f"ds_config data_types.{key}", types[key], f"this run computes in {precision}",
                          f'delete it, or write "{precision}"')  # fmt: skip
    if zero.get("compute_grad_norm", True) is False:
        yield Problem(
            "ds_config zero_optimization.compute_grad_norm", False, "the norm shows whether gradients are finite", "delete it"
        )
    for key in OFFLOADS:
        offload = zero.get(key, {})
        if offload.get("device") == "nvme":
            yield Problem(
                f"ds_config zero_optimization.{key}.device", "nvme", "the sampler's shards must stay in memory", 'write "cpu"'
            )
        for option, harmless in (("ratio", 1.0), ("super_offload", False)):
            if offload.get(option, harmless) != harmless:
                yield Problem(f"ds_config zero_optimization.{key}.{option}", offload[option],
                              "only DeepSpeed's own optimizers can do it", "delete it")  # fmt: skip
    if zero.get("stage", 0) < 2 and zero.get("overlap_comm") is True:
        yield Problem(
            "ds_config zero_optimization.overlap_comm",
            True,
            f"the K updates of a step rule it out at ZeRO stage {zero.get('stage', 0)}",
            "delete it, or take stage 2 or 3",
        )
