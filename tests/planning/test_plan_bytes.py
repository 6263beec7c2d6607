"""The formulae of a plan, worked out by hand on a model of three matrices and two vectors."""

import math
from types import SimpleNamespace

import pytest
import torch

from mat_ds.engine.zero import read_zero
from mat_ds.methods.settings import Divided
from mat_ds.planning.buffers import transient
from mat_ds.planning.costs import PassBytes
from mat_ds.planning.counts import PassCounts, Work
from mat_ds.planning.plan import Cards, Plan, gather_of, memory_rows
from mat_ds.planning.states import MemoryRow, Weight, model_states, parts, reaching
from mat_ds.planning.traffic import Traffic, meeting_bytes, traffic
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import complete
from mat_ds.runs.options import RunConfig
from mat_ds.sampling.average import Average
from mat_ds.sampling.chain import Chain
from mat_ds.terminal.units import GIB
from tests.support.kinds import CLASSIFICATION

WEIGHTS = [*(Weight(numel, True, True) for numel in (100, 30, 7)), *(Weight(numel, True, False) for numel in (10, 3))]
BF16 = {"bf16": {"enabled": True}}
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
MIXED = Chain(samples=3, beta_s=0.3, beta_p=0.3)


def zero(stage, precision=None, **options):
    run = RunConfig.model_validate({"train": {"batch_size": 8, "micro_batch_size": 1}})
    tree = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 5, **options}, **(precision or {})}
    return read_zero(complete(tree, run, World(size=4)))


def held(stage, precision=None, ranks=4, chain=MIXED, update="adam", weights=WEIGHTS, to_meet=(), **options):
    rows = model_states(weights, zero(stage, precision, **options), ranks, chain, update, to_meet)
    return {row.name: (row.card, row.host) for row in rows if row.card or row.host}


def test_a_ranks_shard_is_aligned_by_group_or_by_parameter():
    assert parts(WEIGHTS, zero(0), 4) == [137, 13]
    assert parts(WEIGHTS, zero(2), 4) == [36, 4]  # 137 -> 144 and 13 -> 16, multiples of 2 x 4
    assert parts(WEIGHTS, zero(3), 4) == [25 + 8 + 2, 3 + 1]


def test_the_fullest_rank_holds_whole_gradients_of_parameters_that_its_shard_cuts():
    # Rank 2 has elements 72 to 107 of the 144 of matrices, and 8 to 11 of the 16 of vectors: parts of two parameters each.
    assert reaching(WEIGHTS, zero(2), 4) == 100 + 30 + 10 + 3
    assert reaching(WEIGHTS, zero(2), 1) == 150
    assert held(2)["gradients"] == (4 * 143, 0) and held(2, BF16)["gradients"] == (2 * 143, 0)


def test_weights_masters_moments_and_averages():
    assert held(0) == {"weights": (600, 0), "gradients": (600, 0), "moments": (1200, 0), "mixture": (600, 0)}
    assert held(0, BF16)["masters"] == (600, 0) and held(0, BF16)["weights"] == (300, 0)
    assert held(1) == {
        "weights": (640, 0),
        "gradients": (640, 0),
        "masters": (160, 0),
        "moments": (320, 0),
        "mixture": (160, 0),
    }
    averaged = Chain(averages={"teacher": Average(0.9), "average": Average(None)})
    sgd = held(2, chain=averaged, update="sgd")
    assert sgd["teacher"] == sgd["average"] == (160, 0) and not {"moments", "mixture"} & sgd.keys()
    assert held(2, update="rmsprop")["moments"] == (160, 0)


def test_zero_3_keeps_small_parameters_whole_on_several_ranks():
    assert held(3, BF16)["weights"] == (2 * (39 + 3), 0) and held(3, BF16)["gradients"] == (2 * 39, 0)
    assert held(3, ranks=1)["weights"] == (600, 0)
    accumulated = held(3, {**BF16, "data_types": {"grad_accum_dtype": "fp32"}})
    assert accumulated["gradients"] == (4 * 39, 0)


def test_offload_moves_the_optimizer_state_and_then_the_weights_to_the_host():
    there = held(2, BF16, **OFFLOAD)
    assert there["weights"] == (320, 0) and there["masters"] == (0, 160) and there["gradients"] == (0, 286)
    assert there["update on the host"] == (0, 4 * 40 + 2 * 40)
    assert held(1, BF16, **OFFLOAD)["gradients"] == (300, 0)
    assert held(3, **OFFLOAD, offload_param={"device": "cpu"})["weights"] == (4 * 3, 4 * 39)


def test_frozen_parameters_only_have_weights():
    frozen = [Weight(1000, False, True), *WEIGHTS]
    for stage in (0, 1, 2):
        assert held(stage, weights=frozen) == {**held(stage), "weights": (held(stage)["weights"][0] + 4000, 0)}
    assert held(3, weights=frozen)["weights"] == (held(3)["weights"][0] + 1000, 0)


def tally(forward, backward, input_gradients=0, updates=1):
    """Counts of passes; each backward pass covers one forward pass."""
    return PassCounts(Work(forward, forward), Work(backward, backward), Work(input_gradients, input_gradients), updates)


def sent(stage, counted, precision=None, **options):
    return traffic(WEIGHTS, zero(stage, precision, **options), 4, counted)


def test_bytes_sent_for_gradients_and_new_weights():
    two = tally(4, 4, updates=2)  # two updates of two micro-batches
    assert sent(0, two) == Traffic(2 * 2 * 0.75 * 600)
    assert sent(1, two) == Traffic(2 * 0.75 * 600, 2 * 0.75 * 600)
    assert sent(1, two, **OFFLOAD) == Traffic(2 * 0.75 * 600, 2 * 0.75 * 600)
    assert sent(2, two) == Traffic(4 * 0.75 * 600, 2 * 0.75 * 600)
    fp32_gradients = {**BF16, "data_types": {"grad_accum_dtype": "fp32"}}
    assert sent(1, two, fp32_gradients) == Traffic(2 * 2 * 0.75 * 300, 2 * 0.75 * 300)
    assert sent(2, two, use_multi_rank_bucket_allreduce=True) == Traffic(4 * 2 * 0.75 * 600, 2 * 0.75 * 600)
    assert sent(2, two, BF16, overlap_comm=True) == Traffic(4 * 2 * 0.75 * 300, 2 * 0.75 * 300, beside=4 * 2 * 0.75 * 300)
    assert traffic(WEIGHTS, zero(2), 1, two).total == 0
    taught = tally(4, 4)
    taught.exchanges = 2
    assert sent(1, taught).updates == 3 * 0.75 * 600 and sent(0, taught).updates == 0


def test_chains_send_their_fp32_masters_where_they_meet():
    once = tally(1, 1)
    assert traffic(WEIGHTS, zero(2), 4, once, chains=2).across == 600 / 4
    assert traffic(WEIGHTS, zero(0), 4, once, chains=4).across == 2 * 0.75 * 600
    sent = [
        meeting_bytes(Divided(2, moments, how), "adam") for moments, how in ((True, "none"), (False, "bf16"), (False, "int8"))
    ]
    assert sent == [12, 2, 1 + 4 / 256] and traffic(WEIGHTS, zero(2), 4, once, chains=2, met=sent[1]).across == 300 / 4
    assert traffic(WEIGHTS, zero(2, BF16), 4, once, chains=2, every=10) == Traffic(0.75 * 300, 0.75 * 300, across=600 / 4 / 10)


def test_chains_that_send_their_moves_keep_where_they_met_and_what_was_left_out():
    assert "meeting" not in held(2)
    assert held(2, to_meet=("met", "residue"))["meeting"] == (2 * 4 * 40, 0)


def test_zero_3_gathers_for_every_forward_and_backward_what_it_does_not_still_hold():
    steady, broken = tally(4, 4), tally(9, 4, 2)
    gradients, persistent = 4 * 0.75 * 600, 0.75 * 4 * 3
    assert sent(3, steady) == Traffic(gradients, persistent, 4 * 0.75 * 4 * 147, gradients + 4 * 0.75 * 4 * 147)
    assert sent(3, steady, stage3_max_reuse_distance=0).passes == 8 * 0.75 * 4 * 147
    assert sent(3, steady, stage3_max_reuse_distance=40).passes == 0.75 * 4 * (4 * 147 + 4 * 127)
    assert sent(3, broken) == Traffic(gradients, persistent, 15 * 0.75 * 4 * 147, gradients)


def test_zero_3_gathers_the_whole_model_once_for_passes_without_gradients_of_the_weights():
    loop = PassCounts(Work(9, 9), Work(4, 4), Work(2, 2), 1, gathers=2)
    found = traffic(WEIGHTS, zero(3), 4, loop, gathers_whole=True)
    gradients, persistent, training = 4 * 0.75 * 600, 0.75 * 4 * 3, 4 * 0.75 * 4 * 147
    assert found == Traffic(gradients, persistent, training + 2 * 0.75 * 4 * 147, gradients + training)
    assert traffic(WEIGHTS, zero(3, stage3_max_reuse_distance=0), 4, loop, gathers_whole=True).passes == 10 * 0.75 * 4 * 147


def buffers(stage, counted=None, precision=None, options=(), ranks=4, **more):
    run = RunConfig.model_validate({"train": {"telemetry_every": 0}, **dict(options)})
    counted = counted or tally(1, 1)
    rows = transient(WEIGHTS, zero(stage, precision, **more), ranks, run, MIXED, counted, counted.one_by_one)
    return {row.name: (row.card, row.host, row.when) for row in rows}


def test_buckets_take_their_size_and_a_copy_of_their_content():
    assert buffers(2, reduce_bucket_size=120)["reduce bucket"] == (4 * (120 + 120), 0, "passes")
    assert buffers(2, reduce_bucket_size=50)["reduce bucket"] == (4 * (50 + 100), 0, "passes")
    assert buffers(2, precision=BF16, overlap_comm=True)["reduce bucket"] == (2 * (2 * 500_000_000 + 150), 0, "passes")
    assert "reduce bucket" not in buffers(1) and buffers(1)["gradient"] == (400, 0, "passes")
    assert buffers(1, **OFFLOAD)["reduce bucket"] == (4 * (500_000_000 + 150), 0, "passes")
    assert "gradients of a pass" not in buffers(2)
    assert buffers(2, tally(2, 2))["gradients of a pass"] == (4 * 143, 0, "passes")


def test_zero_3_always_holds_its_bucket_and_parameters_while_they_are_used():
    broken = buffers(3, tally(3, 1, 1), reduce_bucket_size=60, stage3_prefetch_bucket_size=20)
    assert broken["reduce bucket"] == (240, 0, "always") and broken["reduce copy"] == (400, 0, "passes")
    assert broken["gathered parameters"] == (4 * 120, 0, "passes") and broken["gather buffer"] == (400, 0, "passes")
    assert buffers(3, stage3_prefetch_bucket_size=20)["gathered parameters"] == (4 * 147, 0, "passes")
    assert "gathered parameters" not in buffers(3, ranks=1)


def test_an_update_copies_its_gradient_and_telemetrys_data():
    assert buffers(2)["copies"] == (4 * 36, 0, "update")
    assert buffers(2, precision=BF16)["copies"] == (2 * 36 + 4 * 36, 0, "update")
    assert buffers(0)["copies"] == (600, 0, "update")
    assert buffers(1)["copies"] == (160, 0, "update") and buffers(1, ranks=1)["copies"] == (0, 0, "update")
    assert buffers(1, precision=BF16)["copies"] == (4 * 40 + 2 * 36, 0, "update")
    summed_in_fp32 = {**BF16, "communication_data_type": "fp32"}
    assert buffers(1, precision=summed_in_fp32)["copies"] == (4 * 40 + 4 * 144, 0, "update")
    rmsprop = {"optimizer": {"name": "rmsprop"}}.items()
    assert buffers(0, options=rmsprop)["copies"] == (600 + 8 * 100, 0, "update")
    assert buffers(2, options=rmsprop)["copies"] == (4 * 36 + 8 * 36, 0, "update")
    watched = buffers(2, options={"train": {"telemetry_every": 7}}.items())
    assert watched["copies"] == (4 * 36 + 20 * 36, 0, "update") and watched["telemetry"] == (160, 0, "always")
    assert buffers(2, options=rmsprop, **OFFLOAD)["copies"] == (0, 8 * 36, "update")


def test_the_whole_model_is_gathered_where_it_takes_a_third_of_what_is_free_and_counts_beyond_training_passes():
    # Ten layers, which all have activations of 90 bytes in training passes and of 30 in the others.
    layers, counted = [Weight(100, True, True)] * 10, PassCounts(Work(3, 3), Work(1, 1), Work(1, 1), 1, gathers=1)
    costs = SimpleNamespace(weights=layers, parameters=(1000, 1000), kind=CLASSIFICATION, longest=8)
    costs.tally, costs.pass_bytes = lambda *of: counted, lambda *of: PassBytes(900, 300)
    small = {"reduce_bucket_size": 50, "stage3_prefetch_bucket_size": 20, "stage3_max_reuse_distance": 0}

    def planned(gather, free):
        run = RunConfig.model_validate(
            {"model": {"gather": gather}, "train": {"batch_size": 8, "micro_batch_size": 2, "telemetry_every": 0}}
        )
        # Weights, gradients, masters, two moments and the mixture take 4 x 250 each, the bucket 200.
        cards = Cards(4, math.ceil((GIB + 6 * 1000 + 200 + free) / 0.95), None, 1.0)
        rows = memory_rows(costs, run, zero(3, **small), cards)
        assert sum(row.card for row in rows if row.when == "always") == 6200 + cards.reserve
        whole = {row.name: row.card for row in rows}.get("whole model")
        return gather_of(costs, run, zero(3, **small), cards), whole

    # Training: a copy of what is in the bucket, parameters in use, the buffer of a gather, and 900.
    beyond = 4 * 1000 + 300 - (400 + 4 * 120 + 400 + 900)
    assert planned("model", 0) == planned("auto", 12000) == ("model", beyond)
    assert planned("layer", 10**9) == planned("auto", 11998) == ("layer", None)
    assert gather_of(costs, RunConfig(), zero(2), Cards(4, 10**12, None, 1.0)) is None


def plan(*rows, memory=100, traffic=None, compute=0.0, communication=0.0):
    return Plan(RunConfig(), zero(2), rows, traffic or Traffic(0.0), compute, communication, memory)


def test_the_peak_is_the_larger_of_passes_and_updates():
    rows = (
        MemoryRow("a", 10),
        MemoryRow("b", 20, when="passes"),
        MemoryRow("c", 15, when="passes"),
        MemoryRow("d", 30, 7, when="update"),
    )
    assert plan(*rows).card == 45 and plan(*rows).host == 7
    assert plan(*rows, memory=45).fits and not plan(*rows, memory=44).fits


def test_a_rank_waits_for_communication_that_does_not_overlap_with_passes():
    half = Traffic(1.0, 1.0, beside=1.0)
    assert plan(traffic=half, compute=10.0, communication=4.0).exposed == 2.0
    assert plan(traffic=half, compute=1.0, communication=4.0).seconds == pytest.approx(1.0 + 3.0)
    assert plan(traffic=Traffic(2.0), compute=1.0, communication=4.0).exposed == 4.0


def test_a_part_of_every_gpus_memory_is_reserved():
    assert Cards(8, 16 * 2**30, None, 1.0).reserve == pytest.approx(1.8 * 2**30)


def test_missing_keys_have_deepspeeds_defaults():
    default = zero(3)
    assert (default.bucket, default.prefetch, default.reuse) == (500_000_000, 50_000_000, 1_000_000_000)
    assert default.overlap and not zero(2).overlap and default.sent == torch.float32
    assert zero(2, {**BF16, "communication_data_type": "fp32"}).sent == torch.float32
