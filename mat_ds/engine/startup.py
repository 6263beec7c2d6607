"""Works around DeepSpeed's side effects at the start and end of a process."""

from __future__ import annotations


def lighten() -> None:
    """Keeps DeepSpeed from compiling extensions; may be called twice.

    - Without compatible ops it builds no C++ extension. The CPU one is for inference only, takes a minute and a compiler;
      killing a run meanwhile would leave a lock that hangs later runs.
    - DeepSpeed imports Muon to check the optimizer's class, and Muon compiles kernels on import: three seconds.
    """
    import deepspeed
    from deepspeed.runtime import compiler

    deepspeed.ops.__compatible_ops__ = {}
    compiler.compile = lambda: compiler.dummy_decorator


def card_memory(index: int) -> int | None:
    """Bytes of memory of a GPU of this machine; None if DeepSpeed computes on the CPU."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    return None if accelerator.device_name() == "cpu" else int(accelerator.total_memory(index))


def release() -> None:
    """Reverts DeepSpeed's patches of the process, and drops references that keep a closed engine and its groups alive.

    ZeRO-3 replaces `torch.nn.functional.linear`, leaves the model on a global stack, and caches results of methods for ever
    by their object.
    """
    import torch
    from deepspeed import comm
    from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator, utils
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses as Patches
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator
    from deepspeed.utils import groups

    # What an engine of several chains has set for all later ones.
    groups.mpu = None
    partitioned_param_coordinator.assert_ints_same_as_other_ranks = utils.assert_ints_same_as_other_ranks
    torch.nn.functional.linear = getattr(Patches, "linear_bk", torch.nn.functional.linear)
    parameter_offload.FWD_MODULE_STACK.clear()
    for method in vars(PartitionedParameterCoordinator).values():
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()
    if not comm.is_initialized():
        comm.comm.cdb = None
