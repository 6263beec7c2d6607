"""Noise by place: an element's number depends on key and place alone, however shards are cut and whoever draws it."""

import math
import os
import subprocess
import sys

import pytest
import torch

from mat_ds.sampling import noise_kernel, philox
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.slices import Slice, blocks_of, places
from tests.support.drawn import by_place
from tests.support.launch import ROOT

CPU = torch.device("cpu")
SHAPES = [(5, 3), (5,), (2, 2, 2), (), (7,)]
# What `.ci/run` installs, for this test alone: torch's build for CPUs has no Triton.
TRITON = ROOT / ".venv" / "triton"


def test_numbers_of_a_sequence_are_those_of_its_counters():
    key, whole = 0x1234567890ABCDEF, philox.normal_run(0x1234567890ABCDEF, 0, 64, CPU)
    for counter in (0, 5, 15):
        words = philox.philox(tuple(torch.tensor(n) for n in (counter, 0, 0, 0)), (key & 0xFFFFFFFF, key >> 32))
        for i in (0, 2):
            radius = math.sqrt(-2 * math.log((words[i].item() + 0.5) / 2**32))
            angle = 2 * math.pi * words[i + 1].item() / 2**32
            pair = whole[4 * counter + i : 4 * counter + i + 2]
            assert pair.tolist() == pytest.approx([radius * math.cos(angle), radius * math.sin(angle)], abs=1e-5)
    for place, numel in ((1, 3), (7, 20), (63, 1)):
        assert torch.equal(philox.normal_run(key, place, numel, CPU), whole[place : place + numel])
    assert not torch.equal(philox.normal_run(key, 1 << 34, 8, CPU), whole[:8])


def test_matrices_come_before_vectors():
    assert places(SHAPES) == [0, 23, 15, 28, 29]


def test_consecutive_places_are_one_run():
    first, second, apart, other = (
        Slice(0, 15, 5, 2, 10, 0),
        Slice(2, 8, 0, 12, 8, 15),
        Slice(1, 5, 0, 20, 5, 23),
        Slice(4, 7, 0, 25, 7, 29),
    )
    (block,) = blocks_of([first, second, apart, other])
    assert block.runs == [(slice(0, 23), 5), (slice(23, 30), 29)]


def drawn(cuts):
    """The noise of one sample, by parameter, if the elements of all parameters in the order of their places are cut so."""
    first, whole = places(SHAPES), torch.full((36,), math.nan)
    order = sorted(range(len(SHAPES)), key=first.__getitem__)
    masters = {}
    for begin, end in cuts:
        master = torch.zeros(end - begin, requires_grad=True)
        masters[master] = begin
    slices = {}
    for master, begin in masters.items():
        pieces = []
        for index in order:
            total = math.prod(SHAPES[index])
            low, high = max(first[index], begin), min(first[index] + total, begin + master.numel())
            if low < high:
                pieces.append(Slice(index, total, low - first[index], low - begin, high - low, first[index]))
        slices[master] = pieces
    chain = Sampler([{"params": list(masters)}], "sgd", Chain(noise=1.0), seed=3)
    chain.arm(slices, CPU, by_place)
    chain.begin(4, lr=0.5)
    chain.step()
    for master, begin in masters.items():
        whole[begin : begin + master.numel()] = master.detach()
    return whole


def test_the_sampler_adds_the_numbers_of_places_however_its_shards_are_cut():
    whole = drawn([(0, 36)])
    assert not whole.isnan().any() and len(whole.unique()) == 36
    for cuts in ([(0, 18), (18, 36)], [(0, 3), (3, 24), (24, 36)]):
        assert torch.equal(drawn(cuts), whole)


def test_a_checkpoint_says_that_noise_was_drawn_by_place():
    chain = Sampler([{"params": [torch.zeros(3)]}], "sgd", Chain(noise=1.0), seed=3)
    assert chain.noise_device == "cpu"
    chain.arm({}, CPU, by_place)
    assert chain.noise_device == "cpu by Philox"


def test_a_wrong_kernel_is_not_used():
    assert noise_kernel.works(by_place, CPU)
    assert not noise_kernel.works(lambda theta, scale, key, place, void: by_place(theta, scale, key, place + 1, void), CPU)
    assert not noise_kernel.works(lambda theta, scale, key, place, void: by_place(theta, scale, key, place, void * 0), CPU)
    assert noise_kernel.agreed_kernel(torch.device("meta")) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="it works on a card")
def test_where_triton_does_not_work_the_log_says_why(caplog):
    assert noise_kernel.own_kernel.__wrapped__(torch.device("cuda")) is None
    assert "Triton's kernel does not work here" in caplog.text


COMPILED = """
import torch
try:
    import triton
except ImportError:
    raise SystemExit("no Triton")
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mat_ds.sampling import triton_noise, triton_step

def compiles(kernel, capability, numbers, **constants):
    types = {name: numbers.get(name, "fp32") for name in kernel.arg_names}
    constants = {"SIZE": triton_noise.COUNTERS, **constants}
    source = ASTSource(kernel, {**types, **dict.fromkeys(constants, "constexpr")}, constants)
    assert triton.compile(source, GPUTarget("cuda", capability, 32)).asm["cubin"]

tensors = dict.fromkeys(("theta", "void", "gradient", "exp_avg", "exp_avg_sq", "mixture"), "*fp32")
# Triton types a number by its size: the first places of a model, and those beyond 2^31.
for capability, place in ((70, "i32"), (90, "i64")):
    numbers = {**tensors, "key": "i64", "place": place, "numel": "i32"}
    compiles(triton_noise._add_numbers, capability, numbers)
    compiles(triton_step._advance, capability, numbers, DRIFT=True, NOISE=True, MIXED=True, START=1, LAST=True)
"""
INTERPRETED = """
import torch
from mat_ds.sampling import noise_kernel, step_kernel, triton_noise, triton_step
from tests.support.drawn import does_what_torch_does
assert noise_kernel.works(triton_noise.add_numbers, torch.device("cpu"))
assert step_kernel.equals_torch(triton_step.advance, triton_noise.add_numbers, torch.device("cpu"))
does_what_torch_does(triton_step.advance)
"""


def test_tritons_kernels_compile_for_cards_and_do_what_plain_torch_does(tmp_path):
    """The oldest and a newer card's machine code, and Triton's interpreter: none of them needs a card."""
    path = os.pathsep.join([str(ROOT), str(TRITON), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path)}
    for program, interpret in ((COMPILED, "0"), (INTERPRETED, "1")):
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, env={**env, "TRITON_INTERPRET": interpret})
        if "no Triton" in done.stderr:
            pytest.skip("Triton is not installed")
        assert done.returncode == 0, done.stderr[-2000:]
