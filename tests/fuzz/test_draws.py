"""Random numbers of any batch: an example's numbers do not depend on how the batch is cut and padded."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mat_ds.methods.batch import MicroBatch
from mat_ds.sampling import philox

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def rows(draw, lengths, sizes, paddings, key, width):
    """The numbers of each example's real tokens, in micro-batches that are padded differently."""
    found = []
    for index, (padding, left) in enumerate(paddings):
        part = lengths[index * sizes : (index + 1) * sizes]
        mask = torch.zeros(len(part), max(part) + padding, dtype=torch.long)
        for row, length in enumerate(part):
            mask[row, slice(-length, None) if left else slice(0, length)] = 1
        batch = MicroBatch({"input_ids": mask, "attention_mask": mask}, torch.zeros(len(part)), index)
        delta = draw(key, batch.examples, batch.tokens, width)
        found += [values[real.bool()] for values, real in zip(delta, mask, strict=True)]
    return found


@settings(max_examples=60, deadline=2000)
@given(st.data(), LENGTHS, st.integers(1, 40), st.integers(0, 2**64 - 1), st.sampled_from([philox.normal, philox.uniform]))
def test_an_examples_numbers_do_not_depend_on_the_batch(data, lengths, width, key, draw):
    whole = rows(draw, lengths, len(lengths), [(0, False)], key, width)
    micro = data.draw(st.sampled_from([n for n in range(1, len(lengths) + 1) if len(lengths) % n == 0]))
    paddings = st.lists(
        st.tuples(st.integers(0, 5), st.booleans()), min_size=len(lengths) // micro, max_size=len(lengths) // micro
    )
    parts = rows(draw, lengths, micro, data.draw(paddings), key, width)
    assert [tuple(part.shape) for part in parts] == [(length, width) for length in lengths]
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    everything = torch.cat([part.flatten() for part in whole])
    assert everything.dtype == torch.float32 and everything.isfinite().all() and everything.abs().max() < 7
    if draw is philox.uniform:
        assert everything.min() >= -1 and everything.max() < 1


@settings(max_examples=60, deadline=2000)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4), st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2))
def test_the_generator_equals_one_in_python_integers(counter, key):
    """The ten published rounds in Python's integers, which do not overflow."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [second >> 32 ^ c[1] ^ k[0], second % 2**32, first >> 32 ^ c[3] ^ k[1], first % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    words = philox.philox(tuple(torch.tensor(word) for word in counter), tuple(key))
    assert list(map(int, words)) == c
