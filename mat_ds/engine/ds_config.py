"""Validates the user's DeepSpeed JSON and completes it from the recipe.

The JSON decides ZeRO stage, offload, precision and communication; the recipe decides batch sizes, clipping, optimizer and
schedule. The JSON may repeat the recipe's batch sizes and clipping, or say "auto"; a contradiction is an error that names both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from mat_ds.config.json_files import read_json_object
from mat_ds.config.packaged import DS_CONFIGS
from mat_ds.engine.ds_types import OFFLOADS, type_problems
from mat_ds.errors import Problem, nearest
from mat_ds.methods.settings import Serves
from mat_ds.models.options import ModelConfig
from mat_ds.ranks.world import World
from mat_ds.runs.options import RunConfig, batch_problems

Tree = dict[str, Any]

JSON_KEYS = {
    "zero_optimization", "fp16", "bf16", "data_types", "communication_data_type", "prescale_gradients",
    "gradient_predivide_factor", "activation_checkpointing", "comms_logger", "flops_profiler", "wall_clock_breakdown",
    "memory_breakdown", "dump_state", "steps_per_print", "timers", "log_level", "disable_python_gc",
}  # fmt: skip
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


# DeepSpeed's config classes -> the section they validate.
SECTION_OF = {
    "DeepSpeedZeroConfig": "zero_optimization", "DeepSpeedFP16Config": "fp16", "DeepSpeedBF16Config": "bf16",
    "CommsLoggerConfig": "comms_logger", "DeepSpeedThroughputTimerConfig": "timers.throughput",
}  # fmt: skip


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
    reason = None
    if stage == 3:
        reason = "ZeRO-3 has freed the gathered parameters before a second backward needs them"
    elif half:
        reason = "a second derivative is lost in half precision"
    elif model.attention != "eager":
        reason = "fused attention kernels have no second derivative; model.attention=eager has"
    return Serves(reason, half)


def ds_config_problems(tree: Tree, run: RunConfig, world: World, here: bool = True) -> Iterator[Problem]:
    """Yields a problem for everything in the JSON that is unknown, contradicts the recipe, or cannot work. `here`: also check
    this machine's devices."""
    found = list(type_problems(tree))
    if not found:
        removed = list(_removed_problems(tree))
        gone = {problem.key.removeprefix("ds_config ") for problem in removed}
        own = (*_key_problems(tree, owned_values(run, world), gone), *_section_problems(tree, run))
        found = [*removed, *own, *_refusals(tree), *(precision_problems(tree) if here else ())]
    if not found and not list(batch_problems(run.train, world.size)):
        found += _deepspeed_problems(complete(tree, run, world), world)
    yield from found


def _key_problems(tree: Tree, owned: Tree, removed: set[str]) -> Iterator[Problem]:
    origin = {
        "train_batch_size": "train.batch_size",
        "train_micro_batch_size_per_gpu": "train.micro_batch_size",
        "gradient_accumulation_steps": "train.batch_size / (train.micro_batch_size x ranks)",
        "gradient_clipping": "optimizer.max_grad_norm",
    }
    for key, value in tree.items():
        if key in owned:
            if value not in ("auto", owned[key]):
                source = origin.get(key, "mat_ds itself")
                yield Problem(f"ds_config {key}", value, f"contradicts {source}, which makes it {owned[key]!r}",
                              f'delete the key from the JSON, or write "auto"; set {source} instead')  # fmt: skip
        elif key not in JSON_KEYS | RECIPE_SECTIONS.keys() | REFUSED.keys() | removed:
            yield Problem(
                f"ds_config {key}", value, "is not a DeepSpeed section that mat_ds passes on", nearest(key, JSON_KEYS)
            )


def _section_problems(tree: Tree, run: RunConfig) -> Iterator[Problem]:
    """Yields a problem if the JSON's optimizer or scheduler does not leave everything to the recipe."""
    adam = ("auto", "Adam", "AdamW") if run.optimizer.name == "adam" else ("auto",)
    for key in RECIPE_SECTIONS.keys() & tree.keys():
        kind, params = tree[key].get("type", "auto"), tree[key].get("params", {}).values()
        if not params or any(value != "auto" for value in params) or (key == "optimizer" and kind not in adam):
            yield Problem(f"ds_config {key}", tree[key], f"is the recipe's to decide ({RECIPE_SECTIONS[key]})",
                          f'delete the section, or write "auto" for all its params; set {RECIPE_SECTIONS[key]}')  # fmt: skip


def _removed_problems(tree: Tree) -> Iterator[Problem]:
    """Yields problems for sections that DeepSpeed has removed, with DeepSpeed's explanation."""
    from deepspeed.runtime import config

    for path, section in (("", tree), ("zero_optimization.", tree.get("zero_optimization", {}))):
        table = config._REMOVED_ZERO_CONFIG_KEYS if path else config._REMOVED_TOP_LEVEL_CONFIG_KEYS
        for key in section.keys() & table.keys():
            yield Problem(f"ds_config {path}{key}", section[key], table[key], "delete it")


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
        yield Problem("ds_config zero_optimization.overlap_comm", True,
                      f"the K updates of a step rule it out at ZeRO stage {zero.get('stage', 0)}",
                      "delete it, or take stage 2 or 3")  # fmt: skip


def precision_problems(tree: Tree) -> Iterator[Problem]:
    """Yields a problem if this machine's devices cannot compute in the requested precision."""
    fp16, bf16 = (tree.get(key, {}).get("enabled") is True for key in ("fp16", "bf16"))
    if fp16 and bf16:
        yield Problem("ds_config fp16.enabled, bf16.enabled", True, "a run computes in one precision", "enable one of the two")
    elif bf16 and torch.cuda.is_available():
        # torch.cuda.is_bf16_supported() says yes on a V100, where bf16 is emulated.
        (major, minor), card = min((torch.cuda.get_device_capability(i), i) for i in range(torch.cuda.device_count()))
        if major < 8:
            yield Problem("ds_config bf16.enabled", True,
                          f"{torch.cuda.get_device_name(card)} has compute capability {major}.{minor}; bf16 needs 8.0",
                          "take --ds_config zero2_v100_fp16, or fp32")  # fmt: skip
    elif fp16 and not torch.cuda.is_available() and not cpu_has_fp16():
        yield Problem("ds_config fp16.enabled", True, "this machine has no GPU, and its CPU no fp16 kernels",
                      "take --ds_config zero2 (fp32)")  # fmt: skip


def cpu_has_fp16() -> bool:
    """Whether DeepSpeed finds fp16 kernels for this CPU."""
    from deepspeed.accelerator import get_accelerator

    return bool(get_accelerator().is_fp16_supported())


def _deepspeed_problems(completed: Tree, world: World) -> Iterator[Problem]:
    """Runs DeepSpeed's own validation, as for a single rank, since ranks are not connected yet."""
    from deepspeed.runtime.config import DeepSpeedConfig

    alone = {**completed, "train_batch_size": completed["train_batch_size"] // world.size}
    alone = {key: value for key, value in alone.items() if value != "auto"}
    try:
        DeepSpeedConfig(alone)
    except ValidationError as error:
        section = SECTION_OF.get(error.title, error.title)
        for found in error.errors():
            place = ".".join((section, *map(str, found["loc"])))
            yield Problem(f"ds_config {place}", found["input"], f"DeepSpeed refuses it: {found['msg']}", "mend it or delete it")
    except Exception as error:
        yield Problem("--ds_config", None, f"DeepSpeed refuses it: {error}", "mend or delete what it names")
