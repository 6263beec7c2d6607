"""What is sent in fewer than four bytes a number, and what is read of it."""

import pytest
import torch

from mat_ds.ranks.compressed import BLOCK, COMPRESSIONS

LENGTHS = (1, BLOCK, BLOCK + 1, 3 * BLOCK - 5)


def read(how, rows):
    return COMPRESSIONS[how].decode(COMPRESSIONS[how].encode(rows), rows.shape[1])


def rows(length, count=3):
    return torch.randn(count, length, generator=torch.Generator().manual_seed(0)) * 1e-4


@pytest.mark.parametrize("length", LENGTHS)
def test_int8_is_within_half_a_step_of_each_block_in_a_byte_a_number_and_a_scale_a_block(length):
    given = rows(length)
    largest = torch.stack([block.abs().amax(1) for block in given.split(BLOCK, 1)], 1)
    step = (largest / 127).repeat_interleave(BLOCK, 1)[:, :length]
    assert ((read("int8", given) - given).abs() <= 0.5001 * step).all()
    assert COMPRESSIONS["int8"].encode(given).numel() == 3 * (length + 4 * largest.shape[1])


@pytest.mark.parametrize("length", LENGTHS)
def test_bf16_is_rounded_to_eight_bits_in_two_bytes_a_number(length):
    given = rows(length)
    assert ((read("bf16", given) - given).abs() <= given.abs() / 256).all()
    assert COMPRESSIONS["bf16"].encode(given).numel() == 3 * 2 * length


def test_the_bytes_that_plan_counts_are_those_of_whole_blocks():
    for how in COMPRESSIONS.values():
        assert how.encode(rows(4 * BLOCK)).numel() == how.bytes * 3 * 4 * BLOCK


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_zeros_stay_zeros_and_what_is_not_finite_stays_so(how):
    assert not read(how, torch.zeros(2, BLOCK + 1)).any()
    for value in (float("nan"), float("inf")):
        given = rows(2 * BLOCK, 1)
        given[0, 7] = value
        found = read(how, given)
        assert not found[0, 7].isfinite() and found[0, BLOCK:].isfinite().all()
