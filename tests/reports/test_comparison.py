"""Comparisons in a report: which runs are paired, what of, and what a reader is told."""

import csv
import json
from math import log

import numpy as np
import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode, UserError
from mat_ds.reports.comparison import ACCURACY, NLL, SCORE, compare_groups
from mat_ds.reports.labels import group_runs
from mat_ds.reports.paired import paired
from mat_ds.reports.runs import read_runs
from tests.support.reported import answer, make_run

SCORES = {"vanilla": (0.50, 0.54, 0.52, 0.51, 0.55, 0.50), "mat": (0.56, 0.61, 0.57, 0.56, 0.62, 0.58)}
FOUND = {"vanilla": {"name": "vanilla"}, "mat": {}}


def runs(folder, name, scores, answers=None, **options):
    """A run a seed with these last scores; `answers`: probabilities of the right label, (seeds, examples)."""
    for seed, score in enumerate(scores):
        run = make_run(folder / name / f"seed-{seed}", (0.1, 0.2, score), seed, **FOUND.get(name, {}), **options)
        if answers is not None:
            answer(run, answers[seed])


def compared(folder, against=None, margin=1.0):
    return compare_groups(group_runs(read_runs([folder])), against, margin)


@pytest.fixture
def both(tmp_path):
    for name, scores in SCORES.items():
        runs(tmp_path / "runs", name, scores)
    return tmp_path / "runs"


def test_scores_are_paired_by_seed_in_points_and_the_rest_of_the_seeds_is_left_out(both):
    make_run(both / "mat" / "seed-9", (0.1, 0.2, 0.9), 9)
    (found,) = compared(both)
    assert (found.title, found.quantity, found.seeds) == ("MAT − vanilla", SCORE, (0, 1, 2, 3, 4, 5))
    expected = [100 * (a - b) for a, b in zip(SCORES["mat"], SCORES["vanilla"], strict=True)]
    assert found.found.differences == pytest.approx(expected) and found.found.mean == pytest.approx(np.mean(expected))
    assert found.found.p == pytest.approx(2 / 2**6) and found.verdict == "better"


def test_the_reference_is_the_first_experiment_or_the_one_asked_for(both):
    runs(both, "lam", SCORES["mat"], lam=3.0)
    assert [one.title for one in compared(both)] == ["MAT λ=1 − vanilla", "MAT λ=3 − vanilla"]
    (one, other) = compared(both, both / "lam")
    assert [one.title, other.title] == ["vanilla − MAT λ=3", "MAT λ=1 − MAT λ=3"] and one.found.mean < 0 == other.found.mean
    # 2 / 2^6, and twice that for two comparisons
    assert (one.found.p, one.corrected) == pytest.approx((0.03125, 0.0625)) and one.verdict == "undecided: ±1 takes 9 seeds"
    assert other.verdict == "within 1"
    for folder, reason in (
        (both / "none", "holds none of the runs"),
        (both, "several experiments on cola: vanilla, MAT λ=1, MAT λ=3"),
    ):
        with pytest.raises(UserError, match=reason):
            compared(both, folder)


def test_other_dev_sets_and_unfinished_runs_are_not_compared(both):
    for run in (both / "mat").iterdir():
        file = run / "results.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "dev_sha256": "other"}))
    make_run(both / "going", (0.1, 0.2, 0.3), end=None, lam=5.0)
    assert compared(both) == []


def test_answers_to_examples_are_compared_over_seeds_and_examples(tmp_path):
    generator = np.random.default_rng(0)
    right = {name: generator.uniform(0.05, 0.5, 30) + generator.uniform(0.0, 0.4, (4, 30)) for name in SCORES}
    for name, scores in SCORES.items():
        runs(tmp_path, name, scores[:4], right[name])
    found = {one.quantity: one.found for one in compared(tmp_path)}
    assert list(found) == [SCORE, ACCURACY, NLL]
    each = {
        ACCURACY: 100 * ((right["mat"] > 0.5).astype(float) - (right["vanilla"] > 0.5)),
        NLL: 100 * np.vectorize(lambda one, other: log(other) - log(one))(right["mat"], right["vanilla"]),
    }
    for name, expected in each.items():
        assert found[name].differences == pytest.approx(expected.mean(axis=1)), name
        alone = paired(expected.mean(axis=1), 1.0)
        # The draw of the examples widens the interval, and changes no p of the seeds.
        assert (found[name].low, found[name].high) == pytest.approx((paired(expected).low, paired(expected).high))
        assert found[name].high > alone.high and found[name].p == alone.p, name


def test_answers_to_other_examples_are_left_out_and_damaged_ones_refused(both, capsys):
    for name in SCORES:
        for run in (both / name).iterdir():
            answer(make_run_of(run), [0.9, 0.2, 0.6][: 2 if run.name == "seed-0" and name == "mat" else 3])
    assert [one.quantity for one in compared(both)] == [SCORE]
    (both / "mat" / "seed-3" / "predictions" / "validation.jsonl").write_text('{"label": "x"}')
    assert main(["report", str(both), "--out", str(both.parent / "out")]) == ExitCode.USER_ERROR
    assert "has a line without a gold label" in capsys.readouterr().err


def make_run_of(folder):
    from mat_ds.storage.rundir import RunDirectory

    return RunDirectory(folder)


@pytest.mark.parametrize(
    ("count", "told"), [(1, "+6.00, 1 seed: too few seeds"), (2, "+6.00, +7.00, 2 seeds: too few seeds: ±1 takes")]
)
def test_of_fewer_than_three_seeds_the_values_are_shown_and_nothing_after_a_plus_minus(tmp_path, capsys, count, told):
    for name, scores in SCORES.items():
        runs(tmp_path / "runs", name, scores[:count])
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == ExitCode.OK
    assert f"cola: MAT − vanilla: {told}" in capsys.readouterr().out
    with (tmp_path / "out" / "differences.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["difference"], row["low"], row["p"], row["seeds"]) == ("", "", "", str(count))
    page = (tmp_path / "out" / "index.html").read_text()
    assert not any(f"± {digit}" in page for digit in "0123456789") and "cola-differences.svg" in page


def test_the_command_prints_each_comparison_and_refuses_a_margin_that_is_none(both, capsys):
    out = ["--out", str(both.parent / "out")]
    against = ["--against", str(both / "mat"), "--margin", "9"]
    assert main(["report", str(both / "vanilla"), *against, *out]) == ExitCode.OK
    assert "cola: vanilla − MAT: -6.33 [" in (said := capsys.readouterr().out) and "worse but within 9" in said
    assert main(["report", str(both), "--margin", "0", *out]) == ExitCode.USER_ERROR
    assert "0" in capsys.readouterr().err
