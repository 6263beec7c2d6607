"""Conditions on an evaluation: what they mean, what they make it measure, and what is refused before a model is loaded."""

import math

import pytest

from mat_ds.cli import main
from mat_ds.commands.evaluate import parse
from mat_ds.errors import ExitCode, UserError
from mat_ds.evaluation.gate.conditions import completed, read_conditions, unmeasured_problems
from mat_ds.evaluation.gate.verdict import Gate, gate_rows, gate_sentence
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import TASKS

CALIBRATION = {"nll": 0.4, "brier": 0.3, "ece": 0.04, "ece_adaptive": 0.05, "aurc": 0.1}
SPLIT = {
    "clean": {"matthews_correlation": 0.5, "accuracy": 0.8, "loss": 0.4},
    "calibration": {"before": CALIBRATION},
    "attack": [{"radius": 0.0, "accuracy": 0.8, "loss": 0.4}, {"radius": 1e-3, "accuracy": 0.6, "loss": 0.9}],
    "noise": {"word_drop": [{"rate": 0.1, "accuracy": 0.7, "matthews_correlation": 0.3, "loss": 0.5}]},
    "shift": {"noise": {"word_drop": [{"rate": 0.1, "ece": 0.2}]}, "text_attacks": {"benign_words": {"ece": 0.3}}},
    "text_attacks": {"benign_words": {"flip_rate": 0.25, "robust_accuracy": 0.55, "queries": 12.0}},
    "smoothing": {"points": [{"radius": 0.0, "certified_accuracy": 0.75}, {"radius": 0.05, "certified_accuracy": 0.375}]},
}
TESTED = {"invariance": {"tests": [{"name": "short", "failure_rate": 0.5}, {"name": "who,  says so", "failure_rate": 0.2}]}}


def verdict(text, split=SPLIT, task="cola", **splits):
    return Gate(read_conditions([text])).verdict(TASKS[task], {**TESTED, "splits": splits or {"validation": split}})


@pytest.mark.parametrize(
    ("quantity", "found"),
    [
        ("clean", 0.8), ("accuracy", 0.8), ("matthews_correlation", 0.5), ("loss", 0.4), ("ece", 0.04), ("nll", 0.4),
        ("aurc", 0.1), ("robust_accuracy(linf, 1e-3)", 0.6), ("accuracy(linf, 0.001)", 0.6), ("loss(linf,.001)", 0.9),
        ("accuracy(word_drop, 0.1)", 0.7), ("matthews_correlation( word_drop , 1e-1 )", 0.3), ("ece(word_drop, 0.1)", 0.2),
        ("flip_rate(benign_words)", 0.25), ("robust_accuracy(benign_words)", 0.55), ("ece(benign_words)", 0.3),
        ("certified_accuracy(0.05)", 0.375), ("certified_accuracy( 5e-2 )", 0.375), ("certified_accuracy(0)", 0.75),
    ],
)  # fmt: skip
def test_a_quantity_is_the_number_of_the_report_and_each_comparison_means_what_it_says(quantity, found):
    for comparison, below, equal, above in (("<=", 0, 1, 1), ("<", 0, 0, 1), (">=", 1, 1, 0), (">", 1, 0, 0)):
        for bound, met in ((found - 0.01, below), (found, equal), (found + 0.01, above)):
            told = verdict(f"{quantity} {comparison} {bound!r}")
            assert told["met"] == bool(met) and told["required"][0]["found"] == {"validation": found}


def test_a_test_of_behaviour_is_of_the_model_whatever_its_splits():
    told = verdict("failure_rate(short) <= 0.5, failure_rate(who, says so) < 0.2", task="mnli", one=SPLIT, other=SPLIT)
    assert [(one["found"], one["met"]) for one in told["required"]] == [({"model": 0.5}, True), ({"model": 0.2}, False)]
    assert gate_rows(told)[1] == ["failure_rate(short) <= 0.5", "model", 0.5, "yes"]


def test_what_was_not_measured_or_is_no_number_meets_nothing():
    for text in ("ece(word_drop, 0.2) <= 1", "robust_accuracy(linf, 1) >= 0", "flip_rate(benign_words) <= 1", "loss >= 0",
                 "certified_accuracy(0.04) >= 0", "failure_rate(long) >= 0"):  # fmt: skip
        odd = {**SPLIT, "text_attacks": {"benign_words": {"flip_rate": None}}, "clean": {"accuracy": 1.0, "loss": math.nan}}
        assert not verdict(text, odd)["met"]
        assert not verdict(text.replace("<", "#").replace(">", "<").replace("#", ">"), odd)["met"], "nor the opposite"


def test_conditions_hold_on_every_dev_split_and_test_splits_do_not_count():
    worse = {**SPLIT, "clean": {"accuracy": 0.7}}
    splits = {"validation_matched": SPLIT, "validation_mismatched": worse, "test": {**SPLIT, "clean": {"accuracy": 0.1}}}
    assert verdict("clean >= 0.7", task="mnli", **splits)["met"]
    told = verdict("clean >= 0.75, clean >= 0.6", task="mnli", **splits)
    assert not told["met"] and [one["met"] for one in told["required"]] == [False, True]
    assert gate_rows(told)[1:3] == [
        ["clean >= 0.75", "validation_matched", 0.8, "no"],
        ["clean >= 0.75", "validation_mismatched", 0.7, "no"],
    ]
    assert "1 of 2" in gate_sentence(told)


def test_without_right_and_wrong_clean_is_the_score():
    regression = {"clean": {"pearson": 0.9, "spearman": 0.7, "mse": 0.1}, "attack": [], "noise": {}}
    told = verdict("clean >= 0.75, loss <= 0.1, pearson > 0.8", regression, "stsb")
    assert told["met"] and [round(one["found"]["validation"], 6) for one in told["required"]] == [0.8, 0.1, 0.9]


def test_a_bound_may_be_the_champions_number():
    conditions = read_conditions(["clean >= champion - 0.01, flip_rate(benign_words) <= champion"])
    assert [str(one) for one in conditions] == ["clean >= champion - 0.01", "flip_rate(benign_words) <= champion"]

    def met(clean, flips):
        champion = {"clean": {"validation": clean}, "flip_rate(benign_words)": {"validation": flips}}
        told = Gate(conditions, champion).verdict(TASKS["cola"], {"splits": {"validation": SPLIT}})
        return [one["met"] for one in told["required"]]

    assert met(0.805, 0.25) == [True, True] and met(0.82, 0.2) == [False, False] and met(None, 0.3) == [False, True]
    assert Gate(conditions).verdict(TASKS["cola"], {"splits": {"validation": SPLIT}})["met"], "there is no champion yet"


def test_what_a_condition_needs_is_measured_and_nothing_else():
    def options(*overrides):
        return parse(["x", *overrides])[1]

    nothing = options("--require", "clean >= 0.5")
    assert nothing.attack.curve == () and nothing.noise.rates == () and nothing.text_attack.names == ()
    assert options() == EvaluationOptions() and options().attack.curve and options().noise.rates, "without, all as before"
    asked = options("--require", "accuracy(word_drop, 0.1) > 0, robust_accuracy(l2, 0.1) > 0", "--require",
                    "flip_rate(benign_words) < 1")  # fmt: skip
    assert (asked.noise.kinds, asked.noise.rates) == (("word_drop",), (0.1,))
    assert (asked.attack.norm, asked.attack.curve, asked.text_attack.names) == ("l2", (0.0, 0.1), ("benign_words",))
    more = options("attack.radii=[1e-2]", "noise.rates=[0.2]", "--require", "loss(linf, 1e-3) < 9, loss(keyboard, 0.1) < 9")
    assert more.attack.curve == (0.0, 1e-3, 1e-2) and more.noise.rates == (0.1, 0.2) and len(more.noise.kinds) == 6
    assert completed(EvaluationOptions(), []) == EvaluationOptions()
    sure = options("smoothing.sigma=0.1", "--require", "certified_accuracy(0.05) > 0, certified_accuracy(0.02) > 0")
    assert sure.smoothing.radii == (0.02, 0.05) and sure.attack.curve == ()


def test_conditions_stand_in_a_yaml_file_too(tmp_path):
    for text in ("- clean >= 0.5\n- ece <= 0.1\n", "require:\n- clean >= 0.5, ece <= 0.1\n", '["clean >= 0.5", "ece <= 0.1"]'):
        (tmp_path / "gate.yaml").write_text(text)
        assert [str(one) for one in read_conditions([str(tmp_path / "gate.yaml")])] == ["clean >= 0.5", "ece <= 0.1"]
    for text in ("clean: 0.5", "require: 3", "- 3", "[", ""):
        (tmp_path / "gate.yaml").write_text(text)
        with pytest.raises(UserError, match="--require"):
            read_conditions([str(tmp_path / "gate.yaml")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clen >= 0.5", "did you mean 'clean'"),
        ("flip_rat(benign_words) <= 1", "did you mean 'flip_rate'"),
        ("flip_rate(benign) <= 1", "write flip_rate("),
        ("flip_rate <= 1", "not measured on texts as they are"),
        ("robust_accuracy(linf) >= 1", "no place to measure"),
        ("robust_accuracy(linf, 0) >= 1", "no place to measure"),
        ("accuracy(word_drop, 2) >= 1", "no place to measure"),
        ("clean(linf, 1e-3) >= 1", "write clean"),
        ("clean >= half", "is not a condition"),
        ("clean = 0.5", "is not a condition"),
        ("clean >= 0.5 and ece <= 1", "is not a condition"),
        (" , ", "holds no condition"),
        ("loss(linf, 1) < 1, loss(l2, 1) < 1", "attacks in one ball"),
        ("clean >= champion", "no champion in an evaluation"),
        ("nowhere.yaml", "cannot be read"),
        ("certified_accuracy > 0", "write certified_accuracy(RADIUS)"),
        ("certified_accuracy(-1) > 0", "no place to measure"),
        ("certified_accuracy(0.05) > 0", "pass smoothing.sigma"),
        ("failure_rate <= 0", "write failure_rate(NAME OF A TEST)"),
        ("failure_rate(characters) <= 0", "pass invariance=TESTS.yaml"),
    ],
)
def test_a_condition_that_cannot_be_checked_is_one_clear_error_before_the_model_is_looked_for(text, said, capsys):
    assert main(["evaluate", "no/such/model", "--require", text]) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert "--require" in told and said in told and "no/such/model" not in told


def test_a_quantity_of_another_kind_of_task_is_refused_and_two_balls_are_named():
    def told(text, task):
        options = EvaluationOptions(invariance="tests.yaml", smoothing={"sigma": 1.0})
        found = unmeasured_problems(read_conditions([text]), kind_of(TASKS[task]), options, ["negation, plain", "names"])
        return [str(problem) for problem in found]

    assert (
        told("failure_rate(negation, plan) <= 0", "cola")
        and "negation, plain" in told("failure_rate(negation, plan) <= 0", "cola")[0]
    )
    assert not told("failure_rate(negation,plain) <= 0, certified_accuracy(1) > 0", "cola")
    assert told("failure_rate(names) <= 0", "stsb") and told("certified_accuracy(1) > 0", "stsb")
    assert told("f1 >= 0", "cola") and "not measured on cola" in told("f1 >= 0", "cola")[0]
    assert told("ece <= 1", "stsb") and told("robust_accuracy(linf, 1) > 0", "stsb") and not told("loss < 1", "stsb")
    assert not told("clean > 0, mse(linf, 1) < 1, pearson > 0", "stsb")
    with pytest.raises(UserError, match="leave attack"):
        parse(["x", "attack.norm=l2", "--require", "loss(linf, 1) < 1"])
