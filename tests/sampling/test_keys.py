"""Randomness by key: a draw depends on what it is for, and a slice of a vector on nothing but the vector."""

import torch

from mat_ds.sampling.keys import CHUNK, generator, normal_slice, seed_from

CPU = torch.device("cpu")


def test_a_slice_is_the_same_however_the_vector_is_cut():
    total = 2 * CHUNK + 1000
    whole = normal_slice(CPU, (7, 3, "theta", 1, 0), total, 0, total)
    for offset, numel in ((0, 10), (5, 1), (CHUNK - 3, 7), (CHUNK, CHUNK), (1, total - 2), (total - 1, 1)):
        piece = normal_slice(CPU, (7, 3, "theta", 1, 0), total, offset, numel)
        assert torch.equal(piece, whole[offset : offset + numel]), (offset, numel)


def test_different_keys_draw_different_numbers():
    keys = [(seed, step, "theta", k, parameter) for seed in (0, 1) for step in (0, 1) for k in (1, 2) for parameter in (0, 1)]
    drawn = torch.stack([normal_slice(CPU, key, 64, 0, 64) for key in keys])
    assert len(torch.unique(drawn, dim=0)) == len(keys)


def test_noise_is_standard_normal_and_chunks_are_uncorrelated():
    total = 4 * CHUNK
    x = normal_slice(CPU, ("statistics",), total, 0, total).double()
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01
    assert abs((x[:CHUNK] * x[CHUNK : 2 * CHUNK]).mean()) < 0.02


def test_parts_of_a_key_do_not_run_together():
    assert seed_from(1, 23) != seed_from(12, 3) != seed_from(123)
    assert seed_from("a", 1) != seed_from("a1")


def test_a_generator_is_a_function_of_its_key():
    a, b = (torch.randn(5, generator=generator(CPU, 1, "x")) for _ in range(2))
    assert torch.equal(a, b)
