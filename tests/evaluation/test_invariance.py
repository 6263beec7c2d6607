"""Tests of a model's behaviour from templates: how they expand, what is refused, and which cases fail."""

import math
from itertools import product

import numpy as np
import pytest

from mat_ds.config.yaml_files import as_yaml
from mat_ds.errors import UserError
from mat_ds.evaluation.invariance.measured import SHOWN, results_of_tests, worst_of
from mat_ds.evaluation.invariance.suite import BehaviourTest, read_tests
from mat_ds.evaluation.invariance.templates import combinations, count_of, filled, slots_in
from mat_ds.evaluation.table import invariance_rows
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import TASKS
from tests.support.launch import ROOT

SST2, MNLI = TASKS["sst2"], TASKS["mnli"]
MFT = {"name": "a", "kind": "mft", "template": "It is {w}.", "slots": {"w": ["good", "fine"]}, "label": "positive"}
INV = {"name": "b", "kind": "inv", "template": "{who} is {w}.", "slots": {"who": ["Al", "Bo", "Cy"], "w": ["up", "on"]}}
DIR = {"name": "c", "kind": "dir", "template": "It is {w}.", "slots": {"w": ["so"]}, "label": "negative"}


def read(folder, *tests, spec=SST2, seed=0, **more):
    path = folder / "tests.yaml"
    path.write_text(as_yaml({"tests": list(tests), **more}), encoding="utf-8")
    return read_tests(str(path), spec, seed)


def texts(suite, test=0):
    return [[example.texts for example in case] for case in suite.tests[test].cases]


def test_braces_that_are_doubled_are_braces_and_fills_are_no_templates():
    assert slots_in("{a} {b}{a} {{c}}") == ["a", "b"]
    assert filled("{{{a}}} {b}", {"a": "{b}", "b": "x"}) == "{{b}} x"
    for wrong in ("{", "}", "{a", "{}", "{0}", "{a.b}", "{a!r}", "{a:>3}", "{a b}"):
        with pytest.raises(ValueError):
            slots_in(wrong)


def test_all_combinations_are_taken_or_different_ones_that_the_key_draws():
    slots = {"a": ["1", "2", "3"], "b": ["x", "y"], "c": ["p", "q"]}
    every = [dict(zip(slots, fills, strict=True)) for fills in product(*slots.values())]
    assert combinations(slots, 12, (0,)) == combinations(slots, 99, (1,)) == every and count_of(slots) == 12
    some = combinations(slots, 5, (0,))
    assert some == combinations(slots, 5, (0,)) != combinations(slots, 5, (1,))
    places = [every.index(one) for one in some]
    assert places == sorted(set(places)) and len(places) == 5
    many = {str(i): [str(fill) for fill in range(100)] for i in range(20)}  # 1e40 combinations
    assert len({tuple(one.values()) for one in combinations(many, 50, (0,))}) == 50
    assert combinations({}, 5, (0,)) == [{}]


def test_a_case_holds_the_texts_that_are_compared(tmp_path):
    variants = ["{w} it is.", "IT IS {w}."]
    suite = read(tmp_path, MFT, {**INV, "vary": "who"}, {**DIR, "variants": variants}, {**DIR, "name": "d", "variants": ["no"]})
    assert texts(suite, 0) == [[("It is good.",)], [("It is fine.",)]]
    assert texts(suite, 1) == [[(f"{who} is {w}.",) for who in ("Al", "Bo", "Cy")] for w in ("up", "on")]
    assert texts(suite, 2) == [[("It is so.",), ("so it is.",), ("IT IS so.",)]]
    assert [test.label for test in suite.tests] == [1, None, 0, 0] and suite.tests[0].combinations == 2
    assert len(suite.examples) == 2 + 6 + 3 + 2 and texts(suite, 3) == [[("It is so.",), ("no",)]]
    drawn = {**INV, "vary": "who", "cases": 1}
    assert texts(read(tmp_path, drawn)) == texts(read(tmp_path, drawn)) and read(tmp_path, drawn).tests[0].combinations == 2


def test_pairs_have_a_template_for_each_column_and_slots_in_common(tmp_path):
    template = {"hypothesis": "{who} sleeps.", "premise": "{who} {does}."}
    test = {"name": "a", "kind": "mft", "template": template, "slots": {"does": ["runs", "eats"]}, "label": "neutral"}
    suite = read(tmp_path, test, spec=MNLI, slots={"who": ["Al"], "unused": ["x"]})
    assert texts(suite) == [[("Al runs.", "Al sleeps.")], [("Al eats.", "Al sleeps.")]]
    with pytest.raises(UserError, match="reads premise and hypothesis"):
        read(tmp_path, {**test, "template": "{does}"}, spec=MNLI)


@pytest.mark.parametrize(
    ("change", "key", "told"),
    [
        ({"kind": "MFT"}, "kind", "did you mean 'mft'"),
        ({"labels": "positive"}, "labels", "did you mean 'label'"),
        ({"label": "good"}, "label", "negative, positive"),
        ({"label": None}, "label", "needs it"),
        ({"label": 1}, "label", "label: positive"),
        ({"vary": "w"}, "vary", "is not for a test of kind mft"),
        ({"tolerance": 0.0}, "tolerance", "is not for a test of kind mft"),
        ({"template": "It is {v}{w}."}, "template", "without fills"),
        ({"template": "It is {w."}, "template", "brace"),
        ({"template": "It is fine."}, "slots", "in no template"),
        ({"template": ["a"]}, "template", "neither a text"),
        ({"template": {"text": "a {w}"}}, "template", "one text in quotes"),
        ({"slots": {"w": ["good", "good"]}}, "slots", "twice"),
        ({"slots": {"w": [1]}}, "slots", "quotes"),
        ({"slots": {"w": []}}, "slots", "not a list"),
        ({"slots": {"w": "good"}}, "slots", "not a list"),
        ({"template": "{w}", "slots": {"w": ["a", " "]}}, "", "blank"),
        ({"cases": 0}, "cases", "cases: 200"),
        ({"kind": "inv", "label": None}, "", "needs one of `vary`"),
        ({"kind": "inv", "label": None, "vary": "v"}, "vary", "no slot of the template"),
        ({"kind": "inv", "label": None, "vary": "w", "slots": {"w": ["a"]}}, "vary", "two fills"),
        ({"kind": "inv", "label": None, "vary": "w", "variants": ["{w}"]}, "", "needs one of `vary`"),
        ({"kind": "dir"}, "variants", "needs it"),
        ({"name": None}, "name", "name: "),
    ],
)
def test_a_mistake_is_one_error_that_names_key_and_fix(change, key, told, tmp_path):
    test = {name: value for name, value in {**MFT, **change}.items() if value is not None}
    with pytest.raises(UserError) as caught:
        read(tmp_path, {**MFT, "name": "good"}, test)
    (problem,) = caught.value.problems
    assert problem.key == f"{tmp_path}/tests.yaml: tests[1]" + (f".{key}" if key else "")
    assert told in f"{problem.reason} {problem.fix}"


def test_mistakes_of_the_file_are_all_told(tmp_path):
    def told(*tests, **more):
        with pytest.raises(UserError) as caught:
            read(tmp_path, *tests, **more)
        return [problem.key.removeprefix(f"{tmp_path}/tests.yaml: ") for problem in caught.value.problems]

    assert told(MFT, MFT) == ["tests[1].name"] and told() == ["tests"]
    assert sorted(told(MFT, slots=["x"], test=1)) == ["slots", "test"]
    assert told("a", {**MFT, "kind": "x", "slots": 1}, {**MFT, "label": "x"}) == [
        "tests[0]",
        "tests[1].kind",
        "tests[1].slots",
        "tests[2].label",
    ]
    assert told(MFT, spec=TASKS["stsb"])[0] == "invariance"
    with pytest.raises(UserError):
        read_tests(str(tmp_path / "none.yaml"), SST2, 0)


def answers_by(words, suite):
    """The answers of a model whose probability of `positive` is that of the likeliest word that it knows, else 0.5."""
    logits = []
    for example in suite.examples:
        p = max(words.get(word.strip(".!"), 0.5) for word in example.texts[0].split())
        logits.append([math.log(1 - p), math.log(p)])
    return kind_of(SST2).answers(np.array(logits), suite.examples)


def test_a_model_that_reads_a_name_is_found_out_and_one_that_does_not_is_not(tmp_path):
    inv = {**INV, "vary": "who", "template": "{who} is {w}."}
    lower = {**DIR, "variants": ["It is so. Hated."], "tolerance": 0.2}
    suite = read(tmp_path, MFT, inv, lower)
    found = results_of_tests(suite, answers_by({"Bo": 0.9, "good": 0.8, "Hated": 0.75}, suite))
    by = {test["name"]: test for test in found}
    # p("It is fine.") is 0.5, where the first label is the answer; both cases of `b` have a text of Bo's.
    assert [(by[name]["failures"], by[name]["cases"]) for name in "abc"] == [(1, 2), (2, 2), (1, 1)]
    assert by["a"]["failure_rate"] == 0.5 and by["a"]["shown"][0][0]["texts"] == ["It is fine."]
    first, other = by["b"]["shown"][0]
    assert (first["texts"], first["label"], other["texts"], other["label"]) == (
        ["Al is up."],
        "negative",
        ["Bo is up."],
        "positive",
    )
    assert other["probabilities"]["positive"] == pytest.approx(0.9)
    rows = invariance_rows({"invariance": {"tests": found}})
    assert rows[2] == ["b", "inv", 2, 2, 1.0, "'Al is up.': negative 0.50; 'Bo is up.': positive 0.90"]
    blind = results_of_tests(suite, answers_by({"good": 0.8, "fine": 0.7}, suite))
    assert [test["failures"] for test in blind] == [0, 0, 0]
    assert invariance_rows({"invariance": {"tests": blind}})[1][-1] is None and invariance_rows({}) == []
    many = read(tmp_path, {**MFT, "slots": {"w": [f"w{i}" for i in range(9)]}})
    (one,) = results_of_tests(many, answers_by({}, many))
    assert (one["failures"], len(one["shown"])) == (9, SHOWN)


@pytest.mark.parametrize(("fall", "fails"), [(0.3, True), (0.1001, True), (0.0999, False), (0.0, False), (-0.4, False)])
def test_a_probability_may_fall_by_the_tolerance(fall, fails):
    test = BehaviourTest("a", "dir", 1, 0.1, 1, ())
    answers = [{"label": "x", "probabilities": {"n": 1 - p, "p": p}} for p in (0.5, 0.55, 0.5 - fall)]
    assert worst_of(test, answers) == (2 if fails else None)


def test_the_example_is_read_for_the_task_that_it_names():
    suite = read_tests(str(ROOT / "examples" / "sentiment_tests.yaml"), SST2, 0)
    assert {test.kind for test in suite.tests} == {"mft", "inv", "dir"} and all(test.cases for test in suite.tests)
