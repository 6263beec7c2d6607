"""`mat-ds evaluate` as users call it: on a finished run, on any number of ranks, for classification and regression."""

import json
import shutil

import pytest
import yaml

from mat_ds.errors import ExitCode
from mat_ds.evaluation.noise import NOISES
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.runs.load import load_run_config
from mat_ds.tasks.registry import TASKS
from tests.support.launch import run_cli

pytestmark = pytest.mark.dist

ATTACKS = ("characters", "benign_words", "hotflip", "importance", "triggers")
OPTIONS = (
    "attack.radii=[1e-3,1e-2,3e-2]", "attack.steps=3", "noise.rates=[0.1]", f"text_attack.names=[{','.join(ATTACKS)}]",
    "text_attack.limit=7", "text_attack.max_queries=40", "groups=label", "invariance=tests/distributed/behaviour.yaml",
)  # fmt: skip


def evaluate(*arguments, ranks=None):
    done = run_cli(*arguments, ranks=ranks, script="evaluate")
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the demo, evaluated by one process into the run's folder."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    options = ("method.name=vanilla", "train.max_steps=12", "data.train_limit=768", "data.eval_limit=101")
    done = run_cli("--ds_config", "ds_configs/zero2.json", *options, f"output_dir={folder}")
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(evaluate(folder, *OPTIONS, "--json").stdout)
    assert printed.pop("folder") == str(folder / "evaluation")
    assert printed == json.loads((folder / "evaluation" / "robustness.json").read_text())
    return folder


@pytest.fixture(scope="module")
def report(run):
    return json.loads((run / "evaluation" / "robustness.json").read_text())


def test_radius_zero_gives_the_clean_score_that_training_reported(run, report):
    found = report["splits"]["validation"]
    results = json.loads((run / "results.json").read_text())
    assert found["clean"]["matthews_correlation"] == results["export"]["score"]
    own, trained = found["calibration"], results["calibration"]
    assert own["before"] == pytest.approx(trained["splits"]["validation"]["before"], rel=1e-5)
    # In-sample: no temperature has a lower NLL.
    assert own["temperature"] == trained["temperature"] and own["after"]["nll"] <= own["before"]["nll"]
    assert {name: found["attack"][0][name] for name in found["clean"]} == found["clean"]
    assert found["attack"][0]["broken"] == 0


def test_the_card_says_where_inputs_were_cut_and_the_log_is_strict_json(run):
    """The demo's model reads fewer tokens than data.max_length asks for."""
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["max_length"] > 128
    assert json.loads((run / "model" / "mat_ds.json").read_text())["max_length"] == 128
    assert "Inputs are cut at 128 tokens" in (run / "model" / "README.md").read_text()
    for line in (run / "events.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_accuracy_falls_with_the_radius_and_the_report_has_every_setting(run, report):
    points = report["splits"]["validation"]["attack"]
    assert [point["radius"] for point in points] == report["attack"]["radii"] == [0.0, 1e-3, 1e-2, 3e-2]
    accuracies = [point["accuracy"] for point in points]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[0] > accuracies[-1]
    assert all(round(101 * (accuracies[0] - point["accuracy"])) == point["broken"] for point in points)
    assert set(report["splits"]["validation"]["noise"]) == set(NOISES)
    assert {point["changed"] > 0 for found in report["splits"]["validation"]["noise"].values() for point in found} == {True}
    assert set(report) == {"task", "model", "data", "seed", "attack", "noise", "splits", "options", "versions", "invariance"}
    assert (report["attack"]["steps"], report["data"]["examples"]) == (3, {"validation": 101})
    assert {path.name for path in (run / "evaluation").iterdir()} == {
        "robustness.json", *(f"validation.{name}.jsonl" for name in ATTACKS),
    }  # fmt: skip


def test_groups_make_up_their_split_and_behaviour_is_tested_once(report):
    """The accuracy of the split is the mean of its groups' by their sizes."""
    clean, groups = report["splits"]["validation"]["clean"], report["splits"]["validation"]["groups"]
    assert groups.keys() == {"0", "1"} and sum(group["examples"] for group in groups.values()) == 101
    right = sum(group["accuracy"] * group["examples"] for group in groups.values())
    assert right / 101 == pytest.approx(clean["accuracy"])
    tests = report["invariance"]["tests"]
    assert [(test["name"], test["cases"], test["combinations"], test["texts"]) for test in tests] == [
        ("agreement", 16, 16, 16), ("number", 3, 4, 12), ("error", 16, 16, 32),
    ]  # fmt: skip
    assert all(len(test["shown"]) == min(5, test["failures"]) for test in tests)
    assert all(case[0]["label"] != "acceptable" for case in tests[0]["shown"])


def test_each_attack_on_texts_writes_a_line_for_each_example_of_the_same_seven(run, report):
    for name, found in report["splits"]["validation"]["text_attacks"].items():
        lines = [json.loads(line) for line in (run / "evaluation" / f"validation.{name}.jsonl").read_text().splitlines()]
        assert len(lines) == found["examples"] == 7 and all(line["queries"] <= 40 for line in lines)
        broken = [line for line in lines if line["right_before"] and not line["right_after"]]
        assert len(broken) == found["broken"] and all(line["texts"] != line["changed"] for line in broken)
        assert [line["row"] for line in broken[:5]] == [line["row"] for line in found["shown"]]
    characters, benign_words, *_, triggers = report["splits"]["validation"]["text_attacks"].values()
    assert characters["broken"] and benign_words["broken"] and triggers["triggers"]
    assert characters["examples_sha256"] == benign_words["examples_sha256"]
    assert max(characters["by_change"].values()) <= characters["flip_rate"]
    assert benign_words["by_added"]["3"] == benign_words["flip_rate"]


def test_the_whole_report_is_the_same_on_one_two_and_three_ranks(run, tmp_path):
    """An existing evaluation is kept, and the second is written next to it. Two ranks refuse a model as one would."""
    expected = (run / "evaluation" / "robustness.json").read_bytes()
    required = "clean >= 0, accuracy(linf, 3e-2) > 1, failure_rate(number) <= 1"
    gated = run_cli(run, *OPTIONS, "--require", required, ranks=2, script="evaluate")
    assert gated.returncode == ExitCode.UNMET, gated.stderr[-3000:]
    printed = gated.stdout.splitlines()
    (first, second, third, then), (refused, said) = [i for i, line in enumerate(printed) if not line], printed[-2:]
    table, attacks, calibration = printed[:first], printed[first + 1 : second], printed[third + 1 : then]
    assert [line.split()[0] for line in printed[second + 1 : third]] == ["behaviour", "agreement", "number", "error"]
    assert "2 of 3 conditions" in refused and [line.split()[-1] for line in printed[then + 2 : -2]] == ["yes", "no", "yes"]
    assert said == f"report: {run}/evaluation-2"
    assert all(len({len(line) for line in lines}) == 1 for lines in (table, attacks, calibration)), "aligned"
    assert [line.split()[1] for line in attacks[1:]] == list(ATTACKS)
    assert [line.split()[0] for line in calibration] == ["split", "validation", "validation"]
    assert [line.split("  ")[0] for line in table[:2]] == ["measured", "clean"]
    assert {line.split("  ")[0] for line in table[2:5]} == {"clean, 0", "clean, 1", "attack, linf 0.001"}
    assert len(table) == 1 + 1 + 2 + 3 + len(NOISES)
    beside = json.loads((run / "evaluation-2" / "robustness.json").read_text())
    once = json.loads(expected)
    assert [one["met"] for one in beside.pop("gate")["required"]] == [True, False, True] and beside == once
    lines = (run / "evaluation" / "validation.characters.jsonl").read_bytes()
    assert (run / "evaluation-2" / "validation.characters.jsonl").read_bytes() == lines
    shutil.rmtree(run / "evaluation-2")
    evaluate(run, *OPTIONS, f"output_dir={tmp_path}/three", ranks=3)
    three = json.loads((tmp_path / "three" / "robustness.json").read_text())
    once["options"]["output_dir"] = f"{tmp_path}/three"
    assert three == once and (run / "evaluation" / "robustness.json").read_bytes() == expected


def test_radius_looks_at_the_model_of_a_run_and_names_options_that_training_takes(run):
    """The demo's model has no dropout of its own, so it is asked for; a run of vanilla has no radius itself."""
    options = ("--radii", "1e-3,0.5,10", "--examples", "32", "method.delta_steps=1", "model.dropout=0.1", "--json")
    done = run_cli(run, "--recipe", "mat_visible", *options, module="mat_ds.commands.radius")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    points = found["points"]
    assert [point["radius"] for point in points] == [1e-3, 0.5, 10.0]
    assert len({point["r_without"] for point in points}) == 1 and points[0]["r"] < points[1]["r"]
    assert points[0]["ratio"] < 3.0 < points[2]["ratio"] and points[0]["flips"] <= points[2]["flips"] > 0.0
    assert found["smallest"]["fp32"] == next(point["radius"] for point in points if point["ratio"] > 3.0)
    chosen = load_run_config(None, found["options"]["fp32"].split()).method
    assert (chosen.delta_max_norm, chosen.delta_steps, chosen.delta_projection) == (found["smallest"]["fp32"], 1, "clamp")
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]
    for more, said in (((), "has no perturbation"), (("method.name=mat",), "it has no dropout")):
        done = run_cli(run, "--examples", "32", *more, module="mat_ds.commands.radius")
        assert done.returncode == ExitCode.USER_ERROR and said in done.stderr and "Traceback" not in done.stderr


def test_two_ranks_print_wrong_input_once_and_before_they_connect(run):
    done = run_cli(run, f"output_dir={run}", "attack.step=3", ranks=2, script="evaluate")
    everything = done.stdout + done.stderr
    assert done.returncode == ExitCode.USER_ERROR and "Traceback" not in everything
    assert everything.count("there is no such option") == 1


def test_a_regression_reports_correlations_and_an_error_that_rises_with_the_radius(tmp_path):
    (tmp_path / "data" / "stsb").mkdir(parents=True)
    pairs = [{"sentence1": f"text {i}", "sentence2": f"text {i % 3}", "label": float(i % 6)} for i in range(20)]
    (tmp_path / "data" / "stsb" / "validation.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    tokenizer = build_tokenizer(ModelConfig(), ["text 1 2 3"] * 50)
    build_model(ModelConfig(), TASKS["stsb"], tokenizer, 0).module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    evaluate(
        tmp_path / "model",
        "task=stsb",
        f"data.path={tmp_path}/data",
        "attack.norm=l2",
        "attack.radii=[0.1,1.0]",
        "noise.rates=[]",
    )
    report = json.loads((tmp_path / "model" / "evaluation" / "robustness.json").read_text())
    points = report["splits"]["validation"]["attack"]
    assert set(points[0]) == {"radius", "pearson", "spearman", "mse"}
    assert points[0]["mse"] < points[1]["mse"] < points[2]["mse"] and report["splits"]["validation"]["noise"] == {}
