"""Records the random numbers of a run where they are drawn, for oracles, which then need not rebuild their keys."""

import copy
import math

import torch

from mat_ds.methods import METHODS
from mat_ds.ranks.chains import ONE_CHAIN
from mat_ds.sampling import philox
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.noise_kernel import own_kernel
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.slices import Slice, places
from mat_ds.tasks.kinds.outputs import read_output
from tests.equivalence.oracle import NoNoise
from tests.support.kinds import CLASSIFICATION, REGRESSION
from tests.support.plain_engine import PlainEngine
from tests.support.tiny import micro_batches


class Recorder(PlainEngine):
    """Records the distribution and the numbers of every draw that a method asks for."""

    def __init__(self, model, seed=0, outer_step=0, read=read_output):
        super().__init__(model, read=read)
        self.seed, self.outer_step, self.draws = seed, outer_step, []

    def drawn(self, law, batch, name):
        self.draws.append((law, super().drawn(law, batch, name)))
        return self.draws[-1][1]


def by_place(theta, scale, key, place, void):
    """What a card's kernel adds, in plain torch."""
    theta.add_((1 - void) * philox.normal_run(key, place, theta.numel(), theta.device), alpha=scale)


def ends(at_once, watch, chain):
    """Where two outer steps of Adam end, with all that is kept, and how far they moved if they are watched.

    Args:
        at_once: a kernel of `mat_ds.sampling.step_kernel`; None for plain torch.
        watch: whether to watch them.
        chain: of which they are.
    """
    # Two parameters with a gap of places between them, and padding.
    master = torch.arange(40.0).sin().requires_grad_()
    pieces = [Slice(0, 15, 5, 2, 10, 3), Slice(1, 20, 0, 12, 20, 40)]
    sampler = Sampler([{"params": [master], "weight_decay": 0.1}], "adam", chain, seed=3)
    sampler.arm({master: pieces}, torch.device("cpu"), by_place, at_once=at_once)
    for step in range(2):
        sampler.begin(step, 0.05, watch=watch)
        for sample in range(chain.samples):
            master.grad = (torch.arange(40.0) * (1 + sample + 7 * step)).cos()
            sampler.step()
    moves = sampler.watched and (sampler.watched.drifts, sampler.watched.noises, sampler.watched.by_chain)
    return torch.stack([master.detach(), *sampler.kept(master).values()]), moves


def does_what_torch_does(kernel):
    """Compares a kernel of `mat_ds.sampling.step_kernel` with plain torch, in chains of each kind, watched and not."""
    for chain in (Chain(3, 0.3, 0.4, 0.2), Chain(3, 0.3, 0.4, 0.2, "first_update"), Chain(2, 0.5, 0.5), Chain(1, noise=0.2)):
        plain, moved = ends(None, True, chain)
        ours, noted = ends(kernel, True, chain)
        assert (ours - plain).abs().max() < 1e-6, (chain, ours - plain)
        assert all(torch.allclose(torch.tensor(a), torch.tensor(b), rtol=1e-5) for a, b in zip(moved, noted, strict=True))
        assert torch.equal(ends(kernel, False, chain)[0], ours)


class StillSampler:
    """The sampler on zero weights without gradients, so that the weights become its noise.

    Args:
        shapes: of the parameters, in their order.
        samples: K of the chain.
        device: where it draws, as an engine there; the numbers depend on the kind of device.
        kernel: that draws, in place of what does on this device.
        chains: of which it is one.
    """

    def __init__(self, shapes, samples, outer_step, seed=0, device="cpu", kernel=None, chains=ONE_CHAIN):
        self.weights = [torch.zeros(shape, requires_grad=True) for shape in shapes]
        self._sampler = Sampler([{"params": self.weights}], "sgd", Chain(samples, noise=1.0), seed)
        first, device = places(shapes), torch.device(device)
        whole = {w: [Slice(i, w.numel(), 0, 0, w.numel(), first[i])] for i, w in enumerate(self.weights)}
        self._sampler.arm(whole, device, kernel or own_kernel(device), chains)
        self._sampler.begin(outer_step, lr=0.5)  # makes sqrt(2 lr) xi equal to xi

    @torch.no_grad()
    def sample(self):
        """xi of the next sample, one tensor per parameter."""
        for weight in self.weights:
            weight.zero_()
        self._sampler.step()
        return [weight.detach().clone() for weight in self.weights]


class DrawnNoise(NoNoise):
    """What a run on global batches draws, however an engine cuts them.

    A draw is identified by its position within the outer step, as the methods are defined, not by its name.

    Args:
        model: a model that the method can perturb; no draw depends on its weights.
        method: the method's options, `name` among them.
        batches: the global batches of the run.
        lr: of the parameters, constant.
        device, kernel: where the engine draws the noise of the parameters, and by what, as for `StillSampler`.
        kind: of the task; by default classification or regression.
        chains: of which these are the draws of one, whose texts are its share of each batch.
    """

    def __init__(self, model, method, batches, lr=1e-3, seed=0, device="cpu", kernel=None, kind=None, chains=ONE_CHAIN):
        self._model, self._batches, self._seed, self._by = model, batches, seed, (device, kernel, chains)
        objective = kind or (REGRESSION if model.config.num_labels == 1 else CLASSIFICATION)
        player = METHODS[method["name"]]
        self._player = player(player.Settings(**method), objective)
        self._delta_scale = math.sqrt(2 * method.get("delta_lr", 0.0)) * method.get("delta_noise", 0.0)
        self._theta_scale = math.sqrt(2 * lr) * method.get("theta_noise", 0.0)
        self._noted = {}

    def draws(self, t):
        """(distribution, numbers) of every draw for the perturbation of outer step t, (B, L, H) over the whole batch."""
        if t not in self._noted:
            (whole,) = micro_batches(self._batches[t], len(self._batches[t]["labels"]))
            recorder = Recorder(copy.deepcopy(self._model), self._seed, t, self._player.objective.read)
            self._player.adversary(recorder, whole)
            self._noted[t] = recorder.draws
        return self._noted[t]

    def _draw(self, law, t, turn):
        found, numbers = self.draws(t)[turn]
        assert found is law, f"draw {turn} is {found.__name__}, by definition it is {law.__name__}"
        share = len(numbers) // self._by[2].count
        return numbers[self._by[2].own * share :][:share].double()

    def normal(self, t):
        """The first draw of outer step t, which must be standard normal."""
        return self._draw(philox.normal, t, 0)

    def uniform(self, t):
        """As `normal`, but uniform on [-1, 1)."""
        return self._draw(philox.uniform, t, 0)

    def first_delta(self, t, shape):
        return self.normal(t)

    def delta_noise(self, t, k, shape):
        if not self._delta_scale:
            return super().delta_noise(t, k, shape)
        return self._delta_scale * self._draw(philox.normal, t, 1 + k)

    def random_direction(self, t):
        """The last draw of an outer step's perturbation."""
        return self._draw(philox.normal, t, -1)

    def theta_noise(self, t, k, parameters):
        if not self._theta_scale:
            return super().theta_noise(t, k, parameters)
        if k == 0:
            self._still = StillSampler([p.shape for p in parameters], self._player.chain.samples, t, self._seed, *self._by)
        return [self._theta_scale * xi.double() for xi in self._still.sample()]
