"""A minimal engine with a few numbers, on one rank and without DeepSpeed, to test saving and exporting."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import torch
import torch.distributed as dist

from mat_ds.engine.engine import Engine
from mat_ds.engine.shards import Shards
from mat_ds.sampling.average import Average
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.sampler import Sampler


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(5, 3))
        self.bias = torch.nn.Parameter(torch.zeros(4))

    def save_pretrained(self, folder, state_dict):
        with open(f"{folder}/config.json", "wb") as file:
            file.write(json.dumps({"dtype": "float16"}).encode())
        with open(f"{folder}/model.safetensors", "wb") as file:
            file.write(bytes([int(state_dict["bias"][0])]) * 64)


class SmallEngine:
    """All its parameters, moments and averages are `value`; `noise` is the noise of its chain."""

    check, averaged_weights, _swap = Engine.check, Engine.averaged_weights, Engine._swap
    device, _outer_step, _tracked = torch.device("cpu"), 0, False

    def __init__(self, value=0.0, noise=0.0):
        module = Module()
        self.ds = SimpleNamespace(
            module=module,
            zero_optimization_stage=lambda: 0,
            zero_optimization=lambda: False,
            fp16_enabled=lambda: False,
            bfloat16_enabled=lambda: False,
            optimizer=None,
            device=self.device,
            dp_world_size=1,
        )
        parameters = list(module.parameters())
        self.shards = Shards(self.ds)
        self.sampler = Sampler([{"params": parameters}], "adam", Chain(noise=noise, averages={"average": Average(0.5)}), 0)
        self.sampler.arm(self.shards.slices, self.device)
        self.fill(value)

    @torch.no_grad()
    def fill(self, value):
        for master in self.shards.slices:
            for tensor in (master, *self.sampler.kept(master).values()):
                tensor.fill_(value)

    @property
    def value(self):
        """The value of all its tensors; None if they differ."""
        found = {float(x) for m in self.shards.slices for t in (m.detach(), *self.sampler.kept(m).values()) for x in t.view(-1)}
        return found.pop() if len(found) == 1 else None


class Tokenizer:
    def save_pretrained(self, folder):
        with open(f"{folder}/tokenizer.json", "wb") as file:
            file.write(b"{}")


@contextmanager
def one_rank():
    """A process group with this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
