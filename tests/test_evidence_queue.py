"""The queue of benchmarks/evidence: which runs it makes, when it goes on, and what it leaves out and says so."""

import json

import numpy as np
import pytest

from benchmarks.evidence import design
from benchmarks.evidence.__main__ import claimed, main
from benchmarks.evidence.arms import Trial
from benchmarks.evidence.records import append, chosen, read_records
from benchmarks.evidence.running import NoRadius, Runner
from benchmarks.evidence.tasks import TASKS, Task
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.runs.load import read_run_config
from mat_ds.runs.options import budget_steps, cost_of
from mat_ds.tasks.registry import TASKS as GLUE


def test_every_run_is_one_of_the_product_and_costs_the_same_work():
    for entry in design.queue(1):
        options = [*entry.options(entry.trial or Trial(1.0), 1e-3), "model.name=some", f"output_dir={entry.name}"]
        run, problems = read_run_config(None, options, None)
        assert run and not problems, (entry, problems)
        assert not (TASKS[entry.task].scores and run.method.needs_distributions), entry
        task, steps = TASKS[entry.task], budget_steps(run)
        if entry.arm == "vanilla_updates":
            assert run.train.max_steps == 3 * task.steps
        else:
            cost = cost_of(run.method) * run.train.batch_size
            assert task.budget - cost < steps * cost <= task.budget, entry
        if entry.arm == "mat_mixed_mixed":
            assert steps == task.steps
    names = [entry.name for entry in design.queue()]
    assert len(set(names)) == len(names)
    for name, task in TASKS.items():
        assert len({len(task.trials(arm)) for arm in task.arms}) == 1
        assert all(any(f"{name}/{arm}/seed-{design.SEEDS - 1}" == one for one in names) for arm in task.arms)


def test_records_survive_a_crash_in_the_middle_of_a_line_and_tuning_needs_all_trials(tmp_path):
    file = tmp_path / "evidence.jsonl"
    trials = TASKS["grammar"].trials("sam")
    own = [{"name": f"grammar/sam/trial-{trial}", "endpoints": {"nll": abs(trial.multiple - 0.5)}} for trial in trials]
    for one in own[:-1]:
        append(one, file)
    with file.open("a") as out:
        out.write(json.dumps(own[-1])[:30])
    assert read_records(file) == own[:-1] and chosen(own[:-1], "grammar", "sam") is None
    append(own[-1], file)
    assert read_records(file) == own and chosen(own, "grammar", "sam") == (Trial(0.5), 0.0)


def going_on(tmp_path, monkeypatch, *words, runner=None):
    """The exit code of the command with a record file in a folder, by a runner that makes no runs."""
    fake = runner or FakeRunner()
    monkeypatch.setattr("benchmarks.evidence.running.Runner", lambda *given: fake)
    files = ["--work", str(tmp_path / "work"), "--records", str(tmp_path / "evidence.jsonl")]
    monkeypatch.setattr("sys.argv", ["evidence", "--continue", *files, *words])
    return main()


class FakeRunner:
    """Makes the record of a run without the run.

    Args:
        accuracy: of all runs.
        failing: tasks that have no radius.
    """

    def __init__(self, accuracy=90.0, failing=()):
        self.accuracy, self.failing = accuracy, failing

    def lacks(self, task):
        return None if task in ("grammar", "rte", "stsb") else "there is no model"

    def radius(self, task, records):
        if task in self.failing:
            raise NoRadius("there is none")
        return 0.5

    def run(self, entry, trial, radius):
        assert radius == 0.5 or (radius is None and not entry.perturbs and entry.trial)
        return {"name": entry.name, "task": entry.task, "arm": entry.arm, "seed": entry.seed, "wall_seconds": 1,
                "trial": entry.trial and str(entry.trial), "radius": radius,
                "endpoints": {"nll": abs(trial.multiple - 0.25), "accuracy": self.accuracy}}  # fmt: skip

    def forget(self, entry):
        pass


def test_a_task_is_left_to_vanilla_while_it_does_not_learn_it(tmp_path, monkeypatch, capsys):
    least = TASKS["rte"].least_accuracy
    assert going_on(tmp_path, monkeypatch, "--task", "rte", "--seeds", "2", runner=FakeRunner(accuracy=least - 0.1)) == 0
    made = read_records(tmp_path / "evidence.jsonl")
    assert {one["arm"] for one in made} == {"vanilla"} and len(made) == 5 and all(one["trial"] for one in made)
    assert f"left out: rte: vanilla reaches {least - 0.1:.1f}%" in capsys.readouterr().err
    (tmp_path / "evidence.jsonl").unlink()
    assert going_on(tmp_path, monkeypatch, "--task", "rte", "--seeds", "2", runner=FakeRunner(accuracy=least)) == 0
    assert len(read_records(tmp_path / "evidence.jsonl")) == len(TASKS["rte"].arms) * (5 + 2)


def test_a_task_without_a_radius_does_not_hold_up_the_others(tmp_path, monkeypatch, capsys):
    runner = FakeRunner(failing=("stsb",))
    assert going_on(tmp_path, monkeypatch, "--seeds", "1", "--only", "mat_random", "--only", "vanilla", runner=runner) == 0
    made, said = read_records(tmp_path / "evidence.jsonl"), capsys.readouterr().err
    assert {(one["arm"], one["trial"] is None) for one in made if one["task"] == "stsb"} == {("vanilla", False)}
    assert len([one for one in made if one["task"] == "rte"]) == 2 * (5 + 1)
    assert "stsb: there is none" in said and "cola is left out: there is no model" in said


def test_a_task_that_cannot_be_run_is_said_and_the_queue_ends_where_its_limit_is(tmp_path, monkeypatch, capsys):
    assert going_on(tmp_path, monkeypatch, "--task", "cola") == 2
    assert capsys.readouterr().err == "cola is left out: there is no model\n"
    assert going_on(tmp_path, monkeypatch, "--task", "grammar", "--limit", "3") == 0
    assert len(read_records(tmp_path / "evidence.jsonl")) == 3
    with pytest.raises(SystemExit):
        going_on(tmp_path, monkeypatch, "--model", "folder")


def test_what_another_process_makes_is_waited_for_only_if_a_run_depends_on_it(tmp_path, monkeypatch, capsys):
    waits = []
    monkeypatch.setattr("benchmarks.evidence.__main__.time.sleep", waits.append)
    words = ("--task", "rte", "--only", "vanilla", "--seeds", "1")
    with claimed(tmp_path / "work" / "locks" / "rte-vanilla-trial-1") as ours:
        assert ours and going_on(tmp_path, monkeypatch, *words, "--limit", "4") == 0  # its other trials
        monkeypatch.setattr("benchmarks.evidence.__main__.time.sleep", lambda seconds: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # its seed waits
            going_on(tmp_path, monkeypatch, *words)
    assert not waits and going_on(tmp_path, monkeypatch, *words, "--limit", "1") == 0
    with claimed(tmp_path / "work" / "locks" / "rte-vanilla-seed-0"):
        assert going_on(tmp_path, monkeypatch, *words) == 0
    assert capsys.readouterr().err == "1 left out: another process makes them\n"


def test_what_a_task_lacks_is_named(tmp_path):
    for name in ("minilm/config.json", "cola/train.jsonl", "cola/validation.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    runner = Runner(tmp_path / "work", tmp_path, tmp_path)
    assert runner.lacks("grammar") is None and str(tmp_path / "minilm" / "model.safetensors") in runner.lacks("cola")
    (tmp_path / "minilm" / "model.safetensors").write_text("")
    assert runner.lacks("cola") is None and str(tmp_path / "sst2" / "train.jsonl") in runner.lacks("sst2")
    assert "--models" in Runner(tmp_path, None, None).lacks("cola")


def test_a_radius_that_a_record_has_is_kept(tmp_path):
    made = [{"task": "cola", "radius": None}, {"task": "mrpc", "radius": 0.1}, {"task": "cola", "radius": 0.2}]
    assert Runner(tmp_path, tmp_path, tmp_path).radius("cola", made) == 0.2
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rte-radius.json").write_text('{"smallest": {"fp32": null}}')
    with pytest.raises(NoRadius, match="none of the radii"):
        Runner(tmp_path, tmp_path, tmp_path).radius("rte", made)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("text, scores", [(("sentence",), False), (("one", "two"), False), (("one", "two"), True)])
def test_a_task_of_each_form_is_tuned_and_run_to_its_record(tmp_path, monkeypatch, text, scores):
    generator = np.random.default_rng(10)
    words = ("good", "fine", "bad", "poor", "film", "plot")
    (tmp_path / "made").mkdir()
    for split, count in (("train", 80), ("validation", 20)):
        rows = [
            {column: " ".join(generator.choice(words, 5)) for column in text}
            | {"label": float(generator.uniform(0, 5)) if scores else int(generator.integers(2))}
            for _ in range(count)
        ]
        (tmp_path / "made" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = build_tokenizer(ModelConfig(), words)
    build_model(ModelConfig(), GLUE["cola"], tokenizer, 0).module.roberta.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    monkeypatch.setitem(TASKS, "made", Task("made", "tiny", 2, 1e-3, batch=8, max_length=16, text=text, scores=scores,
                                            multiples=(1,), weak=(), without=(1,), arms=("mat_mixed_mixed",)))  # fmt: skip
    monkeypatch.setattr("benchmarks.evidence.running.RADII", (1.0, 10.0, 100.0))
    asked = ["--continue", "--task", "made", "--seeds", "1", "--models", str(tmp_path), "--data", str(tmp_path)]
    file = tmp_path / "evidence.jsonl"
    monkeypatch.setattr("sys.argv", ["evidence", *asked, "--work", str(tmp_path / "work"), "--records", str(file)])
    assert main() == 0
    trial, final = read_records(file)
    assert (trial["name"], final["name"]) == ("made/mat_mixed_mixed/trial-1", "made/mat_mixed_mixed/seed-0")
    assert trial["radius"] == final["radius"] in (1.0, 10.0, 100.0) and trial["model_sha256"] == final["model_sha256"]
    assert len(trial["nll_by_example"]) == 8
    assert f"method.delta_max_norm={final['radius']}" in final["options"] and len(final["nll_by_example"]) == 20
    assert {"nll", "auc", "noise"} <= set(final["endpoints"]) and ("attack" in final["endpoints"]) is not scores


def test_a_run_is_made_by_one_process_at_a_time(tmp_path):
    with claimed(tmp_path / "locks" / "one") as first, claimed(tmp_path / "locks" / "one") as second:
        assert first and not second
    with claimed(tmp_path / "locks" / "one") as again:
        assert again
