"""Several chains of the parameters in plain torch and float64; see `oracle.py`."""

import copy

import torch

from tests.equivalence import oracle


def run_chains(model, batches, s, noises, average_moments=False, method="mat", every=1):
    """`run` with several chains: each makes its outer steps on its own equal share of every global batch, with moments of its
    own. After every so many outer steps, and after the last, all go on from the mean of what they came to: with `vanilla` local
    SGD (Stich 2019, Algorithm 1).

    Args:
        noises: the random numbers of each chain.
        average_moments: whether their moments are averaged like their parameters.
        every: outer steps from one meeting to the next.
    """
    models = [copy.deepcopy(model).double().eval() for _ in noises]
    optimizers = [oracle.make_optimizer(model, s) for model in models]
    for t, batch in enumerate(batches):
        share = len(batch["labels"]) // len(models)
        for g, (model, optimizer, noise) in enumerate(zip(models, optimizers, noises, strict=True)):
            own = {name: value[g * share : (g + 1) * share] for name, value in batch.items()}
            oracle.outer_step(model, optimizer, own, s, method, noise, t)
        if (t + 1) % every and t + 1 < len(batches):
            continue
        with torch.no_grad():
            for parameters in zip(*map(oracle.trained, models), strict=True):
                mean = torch.stack(parameters).mean(0)
                for p in parameters:
                    p.copy_(mean)
                states = [o.state[p] for o, p in zip(optimizers, parameters, strict=True)] if average_moments else [{}]
                for name in states[0].keys() - {"step"}:
                    mean = torch.stack([state[name] for state in states]).mean(0)
                    for state in states:
                        state[name].copy_(mean)
    return {name: p.detach() for name, p in models[0].named_parameters() if p.requires_grad}
