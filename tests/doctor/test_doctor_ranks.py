"""The doctor's conclusions from the answers of many ranks, and its table."""

import json

from transformers import AutoConfig

from mat_ds.commands.doctor import worth_of_chains
from mat_ds.doctor.consultation import precisions_to_test, slowest_between
from mat_ds.doctor.differences import Answer, clock_skew, different_versions, missing_ranks, mixed_cards, spell, unshared_folder
from mat_ds.doctor.inputs import Inputs
from mat_ds.doctor.links import Links, check_links, neighbours
from mat_ds.doctor.rows import Row, Status, failed, passed, warned
from mat_ds.doctor.table import as_json, as_text, merge, worst
from mat_ds.methods import METHODS
from mat_ds.models.build import build_skeleton
from mat_ds.ranks.world import World
from mat_ds.runs.options import RunConfig
from mat_ds.tasks.registry import TASKS
from mat_ds.terminal.units import duration, scaled

V100, RTX3090 = ("Tesla V100-SXM2-16GB", (7, 0)), ("NVIDIA GeForce RTX 3090", (8, 6))
GB = 1e9


def answer(rank, cards=(), host=None, **versions):
    return Answer(rank, host or f"node{rank // 2}", {"torch": "2.13.0", **versions}, list(cards), [])


FOUR = [answer(0, [RTX3090]), answer(1, [RTX3090]), answer(2, [V100]), answer(3, [V100])]


def test_ranks_are_printed_as_ranges():
    assert spell([3]) == "rank 3" and spell([5, 0, 1, 2]) == "ranks 0-2, 5"


def test_an_answer_is_read_back_from_the_store():
    given = Answer(1, "node0", {"torch": "2"}, [V100], [Row("a", Status.WARN, "b", "c", "d", (1,))])
    assert Answer.from_json(json.loads(json.dumps(given.as_json()))) == given


def test_ranks_that_do_not_answer_are_named():
    (row,) = missing_ranks([FOUR[0], FOUR[2]], 4, 60.0)
    assert row.name == "ranks 1, 3" and row.status is Status.FAIL
    assert "did not answer within 60 s; ranks 0, 2 (node0, node1) did" in row.found
    (row,) = missing_ranks(FOUR, 4, 60.0)
    assert row.status is Status.PASS and "2 nodes" in row.found


def test_different_versions_are_reported_with_their_ranks():
    (row,) = different_versions([answer(0), answer(1), answer(2, torch="2.12.0"), answer(3)])
    assert row.status is Status.FAIL and row.name == "torch"
    assert row.found == "2.13.0 on ranks 0-1, 3 (node0, node1); 2.12.0 on rank 2 (node1)"
    assert not list(different_versions(FOUR))


def test_the_oldest_card_decides_on_the_precision_of_all():
    (row,) = mixed_cards(FOUR)
    assert row.status is Status.WARN and "--ds_config zero2_v100_fp16)" in row.fix and "ranks 2-3 (node1)" in row.found
    assert not list(mixed_cards(FOUR[2:])) and not list(mixed_cards([answer(0), answer(1)]))
    assert [row.name for row in mixed_cards([*FOUR[:2], answer(2)])] == ["GPUs"]
    assert precisions_to_test(FOUR, None) == ["fp32", "fp16"] and precisions_to_test(FOUR[:2], None)[-1] == "bf16"
    assert precisions_to_test(FOUR[:2], "fp16") == ["fp32", "fp16"]


def test_clocks_two_seconds_apart_are_reported():
    (row,) = clock_skew(FOUR, {0: 100.0, 1: 100.3, 2: 97.0, 3: 101.9})
    assert row.status is Status.WARN and "rank 2 (node1) is -3 s" in row.found and "rank 3" not in row.found
    (row,) = clock_skew(FOUR, {0: 100.0, 1: 100.3})
    assert row.status is Status.PASS and "0.3 s" in row.found


def test_an_output_dir_that_other_nodes_do_not_see_fails(tmp_path):
    (row,) = unshared_folder(FOUR, {0: True, 1: True, 2: False, 3: False}, str(tmp_path))
    assert row.status is Status.FAIL and "ranks 2-3 (node1)" in row.found
    assert not list(unshared_folder(FOUR[:2], {0: True, 1: False}, "")), "one node shares with itself"


def measured(rank, **changes):
    return Links(**{"stage": "taking leave", "latency": 1e-4, "size": 2**26, "seconds": 0.01, **changes})


def links(results, answers=FOUR):
    rows = list(check_links(answers, results, "export NCCL_SOCKET_IFNAME=eth0"))
    return {row.name: row for row in rows}


def test_the_ring_has_each_link_once():
    assert neighbours(2) == [(0, 1)] and neighbours(4) == [(0, 1), (1, 2), (2, 3), (3, 0)]


def test_a_link_much_slower_than_the_others_is_found():
    answers = [answer(rank, [V100], "node0") for rank in range(4)]
    speeds = [(0, 1, 10 * GB), (1, 2, 9 * GB), (2, 3, 1 * GB), (3, 0, 10 * GB)]
    results = {rank: measured(rank, pairs=[speeds[rank]]) for rank in range(4)}
    row = links(results, answers)["links in a node"]
    assert row.status is Status.WARN and "ranks 2 and 3 (node0): 1.0 GB/s, their median 9.5 GB/s" in row.found
    # Links between nodes are slower than those within a node, and are compared only with each other.
    rows = links(results)
    assert rows["links between nodes"].status is Status.PASS and "links in a node" in rows


def test_wrong_sums_are_named_with_precision_and_rank_and_slow_ones_with_their_time():
    rows = links({rank: measured(rank, wrong=["fp16 (rank 2)"], seconds=1.0, latency=0.1) for rank in range(4)})
    assert rows["sums"].status is Status.FAIL and rows["sums"].found == "wrong in fp16 (rank 2)"
    assert rows["latency"].status is rows["bandwidth"].status is Status.WARN
    assert "1 GB of gradients takes 14.9 s" in rows["bandwidth"].found
    rows = links({rank: measured(rank) for rank in range(4)})
    assert {row.status for row in rows.values()} == {Status.PASS} and "6.7 GB/s" in rows["bandwidth"].found


def test_a_slow_link_between_nodes_is_told_in_its_own_unit_with_what_can_be_done_about_it():
    """100 Mbit/s, and no other interface than the one in use."""
    slow = {0: measured(0, size=2**24, seconds=1.34), 1: measured(1, pairs=[(1, 2, 12.3e6)]), 2: measured(2), 3: measured(3)}
    rows = {row.name: row for row in check_links(FOUR, slow, "")}
    assert rows["links between nodes"].found == "ranks 1 and 2 (node0 and node1): 12.3 MB/s"
    assert "12.5 MB/s; 1 GB of gradients takes 79.9 s" in rows["bandwidth"].found
    assert rows["bandwidth"].fix == "use a faster interface, fewer nodes, fewer and larger updates, or method.chains=per_node"


def test_an_interrupted_self_test_says_where_and_what_to_try():
    stuck = {"stage": "ranks 1 and 2 to each other", "error": "timed out"}
    rows = list(check_links(FOUR, {0: measured(0, **stuck), 1: measured(1, **stuck)}, "export NCCL_SOCKET_IFNAME=eth0"))
    assert "ranks 2-3 (node1) died in it" in rows[0].found
    assert "ranks 0-1 (node0) stopped at ranks 1 and 2 to each other (timed out)" in rows[1].found
    for setting in ("NCCL_P2P_DISABLE=1", "NCCL_IB_DISABLE=1", "NCCL_SOCKET_IFNAME=eth0"):
        assert setting in rows[1].fix
    assert len(rows) == 2 and {row.status for row in rows} == {Status.FAIL}


HOSTS = {0: "node0", 1: "node0", 2: "node1", 3: "node1"}


def by(rank, row, group="disks"):
    return Row(row.name, row.status, row.found, row.fix, group, (rank,))


def test_equal_findings_of_all_ranks_are_one_line_and_others_name_the_ranks():
    low = warned("temporary", "1 GiB free", "export TMPDIR=...")
    rows = merge([by(0, passed("temporary", "9 GiB free")), by(2, low), *(by(r, passed("a", "b"), "other") for r in range(4))])
    assert len(rows) == 3 and [row.name for row in rows] == ["temporary", "temporary", "a"]
    text = as_text("title", rows, HOSTS)
    assert "WARN  temporary             node1: 1 GiB free\n" in text and "pass  temporary             node0: 9 GiB" in text
    assert "pass  a                     b\n" in text and "fix: export TMPDIR=...\n" in text
    assert text.endswith("WARN  1 to look at (temporary), 2 passed") and worst(rows) is Status.WARN
    part = merge([by(0, passed("x", "y")), by(1, failed("x", "z", "mend"))])
    assert "FAIL  x                     rank 1 (node0): z" in as_text("title", part, HOSTS)


def test_passed_checks_that_differ_in_numbers_are_one_line_and_separate_in_json():
    rows = merge([by(0, passed("temporary", "9 GiB free")), by(2, passed("temporary", "8 GiB free"))])
    assert as_text("title", rows, HOSTS).count("GiB") == 1
    tree = json.loads(as_json(rows, HOSTS))
    assert [row["found"] for row in tree["rows"]] == ["9 GiB free", "8 GiB free"] and tree["rows"][1]["hosts"] == ["node1"]
    assert tree["verdict"] == "pass" and tree["counts"] == {"pass": 2, "warn": 0, "fail": 0}


def test_a_run_on_two_nodes_is_told_what_a_chain_on_each_is_worth(tmp_path):
    """Of T parameters in fp32 at ZeRO-2, each of K updates reduces and gathers 7/8 of 4 T bytes in a ring of 8, and
    two nodes of 4 send each shard once, 4 T bytes in all."""
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 500}
    AutoConfig.for_model("roberta", max_position_embeddings=20, **size).save_pretrained(tmp_path)
    given = {"task": "cola", "model": {"name": str(tmp_path)}, "method": {"name": "mat", "theta_steps": 10}}
    run = RunConfig.model_validate({**given, "train": {"micro_batch_size": 4}})
    elements = sum(weight.numel() for weight in build_skeleton(run.model, TASKS["cola"], None).parameters())
    inputs, two, speed = Inputs(run, {"zero_optimization": {"stage": 2}}), World(size=8, local_size=4), 1e6
    (row,) = worth_of_chains(inputs, two, speed)
    one, each = 10 * 2 * 7 / 8 * 4 * elements, 4 * elements
    said = f"sends at least {scaled(one, 'B')}, {duration(one / speed)} between nodes, with method.chains=per_node "
    said += f"{scaled(each, 'B')}, {duration(each / speed)}"
    assert row.status is Status.PASS and said in row.found and "bf16 half" in row.found
    method = {"name": "mat", "theta_steps": 10, "chains": "per_node", "chains_compression": "bf16"}
    halved = RunConfig.model_validate({**given, "method": method, "train": {"micro_batch_size": 4, "local_steps": 5}})
    (row,) = worth_of_chains(Inputs(halved, inputs.tree), two, speed)
    named = f"method.chains=per_node method.chains_compression=bf16 every 5 outer steps {scaled(each / 10, 'B')}"
    assert named in row.found and "half" not in row.found
    freelb = run.model_copy(update={"method": METHODS["freelb"].Settings()})
    assert not [*worth_of_chains(Inputs(freelb, inputs.tree), two, speed), *worth_of_chains(inputs, two, None)]


def test_the_slowest_link_between_nodes_is_found():
    results = {0: measured(0, pairs=[(0, 1, 9.0)]), 1: measured(1, pairs=[(1, 2, 2.0)]), 3: measured(3, pairs=[(3, 0, 3.0)])}
    assert slowest_between(FOUR, results) == 2.0 and slowest_between(FOUR[:2], {0: results[0]}) is None
