"""The kernels in C: they compile, draw what is defined, and round alike however they are compiled and cut."""

import ctypes
import logging
import math

import pytest
import torch

from mat_ds.sampling import cpu_kernels, noise_kernel, philox, step_kernel
from mat_ds.sampling.step import Step
from tests.support.drawn import does_what_torch_does

CPU, KEY = torch.device("cpu"), 0x1234567890ABCDEF
FIELDS = "rate decay beta_1 beta_2 root eps scale anchor weight".split()


@pytest.fixture(scope="module")
def compiler():
    try:
        cpu_kernels.loaded()
    except OSError as error:
        pytest.skip(f"no C compiler: {error}")


def numbers(place, numel):
    drawn = torch.zeros(numel)
    cpu_kernels.add_numbers(drawn, 1.0, KEY, place, torch.zeros(()))
    return drawn


def test_each_number_is_that_of_its_place(compiler):
    """Box-Muller of Philox's words in double precision; the words at the ends of their range are in what follows."""
    for place in (0, 3, (1 << 34) + 6):
        for i, number in enumerate(numbers(place, 1500).tolist()):
            counter, which = divmod(place + i, 4)
            at = tuple(torch.tensor(n) for n in (counter & 0xFFFFFFFF, counter >> 32, 0, 0))
            words = [int(word) for word in philox.philox(at, (KEY & 0xFFFFFFFF, KEY >> 32))]
            radius = math.sqrt(-2 * math.log((words[which & 2] + 0.5) / 2**32))
            angle = 2 * math.pi * words[(which & 2) + 1] / 2**32
            assert number == pytest.approx(radius * (math.sin(angle) if which & 1 else math.cos(angle)), abs=2e-6)


def test_they_do_what_plain_torch_does(compiler):
    assert noise_kernel.works(cpu_kernels.add_numbers, CPU)
    assert step_kernel.equals_torch(cpu_kernels.advance, cpu_kernels.add_numbers, CPU)
    does_what_torch_does(cpu_kernels.advance)


def moved():
    """All tensors after a step with everything in it, of more elements than a thread has."""
    count = 3 * cpu_kernels.LEAST + 17
    own = {name: torch.arange(count).mul(0.1 * i).sin().abs() for i, name in enumerate(
        ("theta", "gradient", "exp_avg", "exp_avg_sq", "mixture"), start=1)}  # fmt: skip
    values = dict(zip(FIELDS, (1e-2, 0.99, 0.9, 0.99, 0.3, 1e-8, 0.2, 0.4, 0.2), strict=True))
    step = Step(**values, drift=True, key=KEY, place=(1 << 33) + 3, mixed=True, start=2, last=False)
    cpu_kernels.advance(own, torch.zeros(()), step)
    return torch.stack(list(own.values()))


def test_threads_come_to_the_same_bits(compiler):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = moved()
        torch.set_num_threads(3)
        assert torch.equal(moved(), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("flags", [("-O0",), ("-O2", "-march=native"), ("-O3", "-fno-tree-vectorize")])
def test_other_instructions_come_to_the_same_bits(compiler, monkeypatch, tmp_path, flags):
    """As on another processor: without vectors, and with those that this one has."""
    expected = moved()
    monkeypatch.setattr(cpu_kernels, "FLAGS", tuple(flag for flag in cpu_kernels.FLAGS if flag != "-O3") + flags)
    other = ctypes.CDLL(str(cpu_kernels.compiled(tmp_path)))
    other.advance.argtypes = cpu_kernels.loaded().advance.argtypes
    monkeypatch.setattr(cpu_kernels, "loaded", lambda: other)
    assert torch.equal(moved(), expected)


@pytest.mark.parametrize(
    ("compiler_named", "told"),
    [("false", "does not compile"), ("no-such-compiler", "No such file"), (None, "no C compiler is installed")],
)
def test_without_a_compiler_plain_torch_draws(monkeypatch, caplog, compiler_named, told):
    caplog.set_level(logging.INFO)
    cpu_kernels.loaded.cache_clear()
    if compiler_named:
        monkeypatch.setenv("CC", compiler_named)
    else:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(cpu_kernels, "COMPILERS", ())
    assert noise_kernel.own_kernel.__wrapped__(CPU) is None
    assert told in caplog.text and not [record for record in caplog.records if record.levelno > logging.INFO]


def test_tensors_of_another_type_are_refused(compiler):
    with pytest.raises(ValueError, match=r"torch\.float16 on cpu"):
        cpu_kernels.add_numbers(torch.zeros(8, dtype=torch.float16), 1.0, KEY, 0, torch.zeros(()))
