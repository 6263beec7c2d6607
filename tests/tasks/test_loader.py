"""The order of examples: a permutation per epoch, the same for any number of ranks."""

import itertools

import pytest
import torch

from mat_ds.runs.options import TrainConfig
from mat_ds.tasks.example import Example
from mat_ds.tasks.loader import TrainLoader, evaluation_batches
from mat_ds.tasks.options import DataConfig

CPU = torch.device("cpu")
EXAMPLES = [Example(("x" * (1 + 7 * i % 40),), i) for i in range(50)]


def labels_only(examples, device):
    return {"attention_mask": torch.ones(len(examples), 1)}, torch.tensor([example.label for example in examples])


def loader(rank=0, ranks=1, micro=2, batch=8, seed=0, **data):
    train = TrainConfig(batch_size=batch, micro_batch_size=micro)
    return TrainLoader(
        EXAMPLES, labels_only, train.batch_size, train.micro_batch_size, DataConfig(**data), seed, rank, ranks, CPU
    )


def step_rows(loader, step):
    """By number, whatever the order in which a rank passes over them."""
    return sorted((batch.index, batch.labels.tolist()) for batch in loader.micro_batches(step))


def test_epochs_follow_each_other_and_drop_the_last_partial_batch():
    own = loader()
    assert own.steps_per_epoch == 6 and own.dropped_per_epoch == 2
    assert step_rows(own, 6) != step_rows(own, 0) and [index for index, _ in step_rows(own, 6)] == [0, 1, 2, 3]


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_micro_batches_do_not_depend_on_the_number_of_ranks(ranks, group):
    parts = [loader(rank, ranks, group_by_length=group) for rank in range(ranks)]
    for step in (0, 3, 5, 7, 20):
        assert sorted(row for part in parts for row in step_rows(part, step)) == step_rows(loader(group_by_length=group), step)
        assert len({len(step_rows(part, step)) for part in parts}) == 1


@pytest.mark.parametrize("group", [False, True])
def test_an_epoch_visits_each_example_at_most_once_and_epochs_differ(group):
    shuffled = loader(group_by_length=group)
    epochs = []
    for epoch in range(3):
        rows = [row for step in range(6) for _, batch in step_rows(shuffled, 6 * epoch + step) for row in batch]
        assert len(rows) == len(set(rows)) == 48
        epochs.append(rows)
    assert epochs[0] != epochs[1] != epochs[2]
    assert step_rows(loader(group_by_length=group), 8) == step_rows(shuffled, 8)  # only the step's number matters
    assert step_rows(loader(seed=1), 0) != step_rows(loader(seed=0), 0)


def test_micro_batches_are_cut_from_the_sorted_global_batch_whatever_their_size():
    def rows(micro):
        return [row for _, batch in step_rows(loader(micro=micro), 1) for row in batch]

    lengths = [EXAMPLES[row].length for row in rows(2)]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]
    # Noise depends on an example's place in the global batch.
    assert rows(1) == rows(2) == rows(4) == rows(8)


def test_all_ranks_pass_over_like_lengths_at_the_same_moment_and_begin_with_any():
    parts, turns = [loader(rank, 2, micro=1) for rank in range(2)], set()
    for step in range(40):
        indices = [[batch.index for batch in part.micro_batches(step)] for part in parts]
        assert all(one // 2 == other // 2 for one, other in zip(*indices, strict=True))
        assert [sorted(own) for own in indices] == [[0, 3, 4, 7], [1, 2, 5, 6]]
        turns.add(indices[0][0])
    assert turns == {0, 3, 4, 7}


def test_grouping_by_length_evens_out_the_lengths_within_a_batch():
    def spread(loader):
        batches = [[EXAMPLES[row].length for _, b in step_rows(loader, t) for row in b] for t in range(6)]
        return sum(max(batch) - min(batch) for batch in batches)

    assert spread(loader(group_by_length=True)) < spread(loader()) / 3


@pytest.mark.parametrize("ranks, micro, count", list(itertools.product((1, 2, 3, 5), (1, 4, 7), (1, 7, 50))))
def test_evaluation_covers_every_example_once_in_equally_many_passes(ranks, micro, count):
    passes = [list(evaluation_batches(EXAMPLES[:count], micro, rank, ranks)) for rank in range(ranks)]
    assert len({len(own) for own in passes}) == 1
    rows = sorted(row for own in passes for batch in own for row in batch if row >= 0)
    assert rows == list(range(count))
    assert all(batch for own in passes for batch in own)
