"""The certificate in embedding space: against a model whose distance to its boundary is known."""

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import distributed

from mat_ds.evaluation.attacks.embedding_measured import Perturbable
from mat_ds.evaluation.scores import Evaluator
from mat_ds.evaluation.smoothed import certify_split
from mat_ds.evaluation.smoothing import Certified, certificate, certified_curve, lower_bound
from mat_ds.evaluation.smoothing_options import SmoothingOptions, smoothing_problems
from mat_ds.evaluation.table import smoothing_rows
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.ranks.world import World
from mat_ds.tasks.registry import TASKS
from tests.support.kinds import CLASSIFICATION, REGRESSION
from tests.support.linear_classifier import Bag, collate, examples

COLA = TASKS["cola"]


@pytest.fixture(scope="module", autouse=True)
def alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def certified(options, rows, seed=0, at_a_time=500):
    model = Bag()
    evaluator = Evaluator(COLA, collate, at_a_time, World(), torch.device("cpu"))
    perturbable = Perturbable(lambda inputs: model(**inputs).logits, EmbeddingPerturbation(model))
    return certify_split(options, perturbable, collate, evaluator, rows, "dev", seed, at_a_time)


def test_the_radius_stays_below_the_distance_to_the_boundary_and_comes_near_it():
    """Noise crosses a linear boundary at distance d with probability Phi(-d / sigma), so sigma Phi^-1(p) is d itself."""
    rows, model = examples(8), Bag()
    sigma = 0.2
    report, lines = certified(SmoothingOptions(sigma=sigma, samples=4000), rows)
    near = 0
    for row, line in zip(rows, lines, strict=True):
        distance = model.distance(row)
        assert line["radius"] <= distance
        assert line["answer"] in (row.label, None)
        if 0.2 * sigma < distance < 2 * sigma:  # where 4000 votes tell p well
            near += 1
            assert line["radius"] > distance - 0.15 * sigma
    assert near >= 4 and report["examples"] == 8
    for point in report["points"]:
        assert (
            point["certified_accuracy"] == sum(line["radius"] >= point["radius"] > 0 for line in lines) / 8
            or not point["radius"]
        )


def test_votes_depend_on_the_seed_and_on_nothing_of_batching():
    options = SmoothingOptions(sigma=0.2, select=10, samples=90, limit=5)
    rows = examples(12)
    assert certified(options, rows, at_a_time=7) == certified(options, rows, at_a_time=90)
    assert certified(options, rows)[1] != certified(options, rows, seed=1)[1]
    assert len(certified(options, rows)[1]) == 5


@pytest.mark.parametrize("hits", [0, 1, 500, 990, 1000])
def test_the_bound_is_that_of_clopper_and_pearson(hits):
    exact = binomtest(hits, 1000).proportion_ci(confidence_level=1 - 2 * 0.001, method="exact").low
    assert lower_bound(hits, 1000, 0.001) == pytest.approx(exact, abs=1e-12)


def test_it_abstains_without_a_clear_majority_and_the_class_is_chosen_by_other_votes():
    options = SmoothingOptions(sigma=0.5)
    unclear = certificate(torch.tensor([40, 60]), torch.tensor([480, 520]), options)
    assert (unclear.answer, unclear.radius) == (None, 0.0) and unclear.share < 0.5
    other = certificate(torch.tensor([60, 40]), torch.tensor([100, 900]), options)
    assert other.answer is None, "what was chosen lost"
    clear = certificate(torch.tensor([1, 99]), torch.tensor([0, 1000]), options)
    assert clear.answer == 1 and clear.radius == pytest.approx(0.5 * norm.ppf(0.001 ** (1 / 1000)))
    curve = certified_curve([(unclear, 1), (clear, 1), (clear, 0)], options)
    assert curve["abstained"] == 1 and {point["certified_accuracy"] for point in curve["points"]} == {1 / 3}
    assert curve["largest_radius"] == clear.radius >= curve["points"][-1]["radius"]


def test_what_cannot_be_certified_is_refused():
    def told(kind, **options):
        return [problem.key for problem in smoothing_problems(SmoothingOptions(**options), kind)]

    assert told(REGRESSION, sigma=0.1) == ["smoothing.sigma"] and told(CLASSIFICATION, sigma=0.1) == told(REGRESSION) == []
    assert told(CLASSIFICATION, sigma=0.1, samples=9) == ["smoothing.samples"], "0.001 ** (1 / 9) < 1/2"
    assert told(CLASSIFICATION, sigma=0.1, samples=10) == []
    most = 0.1 * norm.ppf(0.001 ** (1 / 1000))
    assert told(CLASSIFICATION, sigma=0.1, radii=(0.0, most * 1.01)) == ["the certified radius"]
    assert told(CLASSIFICATION, sigma=0.1, radii=(0.0, most * 0.99)) == []


def test_the_curve_is_read_at_the_radii_that_are_asked_for_too():
    found = [(Certified(1, 0.9, radius), 1) for radius in (0.01, 0.029, 0.031, 0.06)]
    plain, asked = (certified_curve(found, SmoothingOptions(sigma=0.1, radii=radii))["points"] for radii in ((), (0.03, 0.0)))
    assert [point for point in asked if point not in plain] == [{"radius": 0.03, "certified_accuracy": 0.5}]
    assert [point for point in asked if point["radius"] != 0.03] == plain


def test_table_and_report_name_it_for_what_it_is():
    found = certified_curve([(certificate(torch.tensor([0, 9]), torch.tensor([0, 1000]), SmoothingOptions(sigma=0.1)), 1)],
                            SmoothingOptions(sigma=0.1))  # fmt: skip
    assert "embedding space" in found["what"] and "nor about texts" in found["what"]
    head, first, *_ = smoothing_rows({"splits": {"dev": {"smoothing": found}}})
    assert "certified in embedding space" in head[1] and first[:3] == ["dev", "L2 0, sigma 0.1", 1.0]
    assert smoothing_rows({"splits": {"dev": {}}}) == []
