"""What crosses between the chains of a run, counted where torch is asked to send it."""

import torch
import torch.distributed as dist

# Collectives of torch, and the argument that holds what this rank sends.
SENT = {
    "all_reduce": 0, "reduce": 0, "broadcast": 0, "all_gather": 1, "all_gather_into_tensor": 1, "reduce_scatter_tensor": 1,
    "_all_gather_base": 1, "all_gather_coalesced": 1, "reduce_scatter": 1, "all_to_all_single": 1,
}  # fmt: skip


def given(arguments, options, place):
    """What a collective is given to send."""
    tensors = [part for part in (*arguments, *options.values()) if isinstance(part, torch.Tensor)]
    return tensors[min(place, len(tensors) - 1)]


class Crossing:
    """Counts the elements that this rank gives to collectives in which ranks of several chains take part, and the bytes that it
    then sends to others: in a ring of N, 2 (N-1)/N times what is reduced, N - 1 times what is gathered, and of what is for each
    rank, all but its own."""

    def __init__(self, chains, world):
        self._size, self._world, self.elements, self.bytes = world.size // chains.count, world, 0, 0.0
        self._kept = {name: getattr(dist, name) for name in SENT if hasattr(dist, name)}

    def __enter__(self):
        for name, function in self._kept.items():
            setattr(dist, name, self._counting(name, function))
        return self

    def __exit__(self, *error):
        for name, function in self._kept.items():
            setattr(dist, name, function)

    def _counting(self, name, function):
        def counted(*arguments, **options):
            found = [part for part in (*arguments, *options.values()) if isinstance(part, dist.ProcessGroup)]
            ranks = dist.get_process_group_ranks(found[0]) if found else range(self._world.size)
            if len({rank // self._size for rank in ranks}) > 1:
                tensor, count = given(arguments, options, SENT[name]), len(ranks)
                rounds = {"all_reduce": 2 * (count - 1) / count, "all_to_all_single": (count - 1) / count}
                self.elements += tensor.numel()
                self.bytes += tensor.nbytes * rounds.get(name, count - 1)
            return function(*arguments, **options)

        return counted
