"""What DeepSpeed leaves to its users before the first and after the last step of a process."""

from __future__ import annotations


def lighten() -> None:
    """Keeps DeepSpeed from compiling anything; safe to call twice.

    - With no op marked as compatible it builds no C++ extension. The one it would build on a CPU serves inference only,
      takes a minute and a compiler, and a run killed meanwhile leaves a lock that hangs every later run.
    - It imports Muon to ask whether the optimizer is one, and Muon compiles its kernels on import: three seconds.
    """
    import deepspeed
    from deepspeed.runtime import compiler

    deepspeed.ops.__compatible_ops__ = {}
    compiler.compile = lambda: compiler.dummy_decorator


def release() -> None:
    """Undoes what DeepSpeed does to the process, and drops the references by which it keeps a closed engine, and its
    process groups, alive.

    ZeRO-3 puts its own function in the place of `torch.nn.functional.linear`, puts the model on a global stack and never
    takes it off, and caches a method's results for ever by the object it was called on.
    """
    import torch
    from deepspeed import comm
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses as Patches
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    torch.nn.functional.linear = getattr(Patches, "linear_bk", torch.nn.functional.linear)
    parameter_offload.FWD_MODULE_STACK.clear()
    for method in vars(PartitionedParameterCoordinator).values():
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()
    if not comm.is_initialized():
        comm.comm.cdb = None
