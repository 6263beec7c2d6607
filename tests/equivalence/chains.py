"""Several chains of the parameters in plain torch and float64; see `oracle.py`."""

import copy

import torch

from tests.equivalence import oracle


def rounded_to_bf16(move):
    """To eight significant bits."""
    mantissa, exponent = torch.frexp(move)
    return torch.ldexp((mantissa * 256).round() / 256, exponent)


def rounded_to_int8(move):
    """To multiples of a 127th of the largest of each 256 numbers."""
    steps = [block.abs().max() / 127 for block in move.split(256)]
    return torch.cat([(block / step).round() * step for block, step in zip(move.split(256), steps, strict=True)])


def mean_of_rounded(moves, rounded, residues=None):
    """The mean of flat moves that are rounded before they are sent, part by part, each of which one of G chains averages and
    sends on, rounded again. `residues`, one of each chain, take in what is left out: of its own moves, and G times of the
    means of its part, since what it sends next is divided by G."""
    count, part = len(moves), -(-len(moves[0]) // len(moves))
    if residues:
        moves = [move + residue for move, residue in zip(moves, residues, strict=True)]
    parts = [[rounded(piece) for piece in move.split(part)] for move in moves]
    exact = [torch.stack(own).mean(0) for own in zip(*parts, strict=True)]
    means = [rounded(mean) for mean in exact]
    for g, residue in enumerate(residues or ()):
        residue.copy_(moves[g] - torch.cat(parts[g]))
        residue[g * part : (g + 1) * part] += count * (exact[g] - means[g])
    return torch.cat(means)


def run_chains(model, batches, s, noises, average_moments=False, method="mat", every=1, rounded=None, feedback=False):
    """`run` with several chains: each makes its outer steps on its own equal share of every global batch, with moments of its
    own. After every so many outer steps, and after the last, all go on from the mean of what they came to: with `vanilla` local
    SGD (Stich 2019, Algorithm 1).

    Args:
        noises: the random numbers of each chain.
        average_moments: whether their moments are averaged like their parameters.
        every: outer steps from one meeting to the next.
        rounded: what of a parameter's flat move, since the chains met last, is sent; None: the parameter itself.
        feedback: whether what rounding left out is sent with the next move.
    """
    models = [copy.deepcopy(model).double().eval() for _ in noises]
    optimizers = [oracle.make_optimizer(model, s) for model in models]
    met = [p.detach().clone() for p in oracle.trained(models[0])]
    residues = [[torch.zeros(p.numel(), dtype=p.dtype) for _ in models] if feedback else None for p in met]
    for t, batch in enumerate(batches):
        share = len(batch["labels"]) // len(models)
        for g, (model, optimizer, noise) in enumerate(zip(models, optimizers, noises, strict=True)):
            own = {name: value[g * share : (g + 1) * share] for name, value in batch.items()}
            oracle.outer_step(model, optimizer, own, s, method, noise, t)
        if (t + 1) % every and t + 1 < len(batches):
            continue
        with torch.no_grad():
            for before, residue, *parameters in zip(met, residues, *map(oracle.trained, models), strict=True):
                mean = torch.stack(parameters).mean(0)
                if rounded:
                    moves = [(p - before).flatten() for p in parameters]
                    mean = before + mean_of_rounded(moves, rounded, residue).view_as(before)
                before.copy_(mean)
                for p in parameters:
                    p.copy_(mean)
                states = [o.state[p] for o, p in zip(optimizers, parameters, strict=True)] if average_moments else [{}]
                for name in states[0].keys() - {"step"}:
                    mean = torch.stack([state[name] for state in states]).mean(0)
                    for state in states:
                        state[name].copy_(mean)
    return {name: p.detach() for name, p in models[0].named_parameters() if p.requires_grad}
