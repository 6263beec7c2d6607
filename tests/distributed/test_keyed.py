"""Randomness is keyed: with noise and dropout, a run does not depend on ranks, accumulation, stage or repetition."""

import itertools

import pytest
import torch

from tests.equivalence import oracle
from tests.support import families
from tests.support.expected import STAGES, named
from tests.support.launch import run_ranks
from tests.support.tiny import shallow_roberta

pytestmark = pytest.mark.dist
ORIGIN = dict(shallow_roberta(dropout=0.1).named_parameters())
DROPOUTS = ("independent", "frozen")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder into which 1, 2 and 4 ranks write their runs."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "cut").mkdir()
    (folder / "replayed").mkdir()
    for ranks, stages in ((1, "0,1,2,3"), (2, "0,1,2,3"), (4, "2,3")):
        run_ranks("tests.workers.keyed", ranks, str(folder), stages)
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """(dropout, stage, ranks) -> parameters; micro-batches of 2, so 1, 2 and 4 ranks accumulate 4, 2 and 1 of them."""
    found = {}
    for path in folder.glob("*.pt"):
        dropout, _, stage, _, ranks = path.stem.split("-")
        found[dropout, int(stage), int(ranks)] = torch.load(path)
    assert found.keys() == {*itertools.product(DROPOUTS, STAGES, (1, 2)), *itertools.product(DROPOUTS, (2, 3), (4,))}
    return found


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_ranks_accumulation_and_stages_draw_the_same_numbers(dropout, runs):
    reference = {name: p.double() for name, p in runs[dropout, 2, 1].items()}
    distances = {key: oracle.distance(result, reference, ORIGIN) for key, result in runs.items() if key[0] == dropout}
    assert not {key: far for key, far in distances.items() if not far <= 1e-3}


def test_noise_and_dropout_change_the_parameters(runs):
    independent, frozen = (runs[dropout, 2, 1] for dropout in DROPOUTS)
    assert oracle.distance(independent, {name: p.double() for name, p in frozen.items()}, ORIGIN) > 1e-2


def test_runs_whose_passes_are_replayed_are_bit_identical_and_no_layout_moves_the_weights(folder):
    found = {path.stem: torch.load(path) for path in (folder / "replayed").glob("*.pt")}
    assert len(found) == 7
    for name, ((plain, _), (replayed, (captured, known, replays))) in found.items():
        assert all(torch.equal(plain[key], value) for key, value in replayed.items()), name
        # A rank has two micro-batches in each of three steps: two passes for each of two steps of delta.
        assert replays == 3 * 2 * 2 * 2 and 2 <= captured == known, name


def test_two_runs_with_one_seed_are_bit_identical(runs, tmp_path):
    run_ranks("tests.workers.keyed", 2, str(tmp_path), "2,3")
    for dropout, stage in itertools.product(DROPOUTS, (2, 3)):
        again = torch.load(tmp_path / f"{dropout}-zero-{stage}-ranks-2.pt")
        assert all(torch.equal(again[name], p) for name, p in runs[dropout, stage, 2].items())


@pytest.mark.parametrize("method", ["mat", "freelb", "r3f"])
def test_without_dropout_micro_batches_and_ranks_do_not_change_the_run(method, folder):
    found = {path.stem: torch.load(path) for path in (folder / "cut").glob(f"{method}-*.pt")}
    assert found.keys() == named(method + "-micro-{}-ranks-1", (1, 4, 8)) | named(method + "-micro-{}-ranks-2", (1, 2, 4))
    loss, reference = found[f"{method}-micro-8-ranks-1"]
    expected, origin = {name: p.double() for name, p in reference.items()}, dict(families.build("gpt2").named_parameters())
    assert {name: first for name, (first, _) in found.items()} == {name: pytest.approx(loss, rel=1e-5) for name in found}
    distances = {name: oracle.distance(result, expected, origin) for name, (_, result) in found.items()}
    assert not {name: far for name, far in distances.items() if not far <= 1e-3}
