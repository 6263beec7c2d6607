"""A run is built with the loss that is asked for, says so, and goes on with no other."""

from types import SimpleNamespace

import pytest

from mat_ds.errors import UserError
from mat_ds.ranks.world import World
from mat_ds.runs.resume import changed_input
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.kinds.forms import LossForm
from mat_ds.training.announce import plan_lines
from mat_ds.training.setup import Size
from tests.support.run_folders import QUICK, ZERO2, prepare, run_folder


def built(*arguments):
    return prepare(["--ds_config", str(ZERO2), *map(str, arguments)], World())


def problems(*arguments):
    with pytest.raises(UserError) as caught:
        built(*arguments)
    return {problem.key: problem.reason for problem in caught.value.problems}


def reviews(path, last=2.0):
    """A file of eight rows, every fourth of them good; the last weighs `last`, the others 1."""
    rows = [f"text {i},{'good' if i % 4 == 0 else 'bad'},{last if i == 7 else 1}" for i in range(8)]
    path.write_text("\n".join(["text,label,trust", *rows, ""]))
    return f"data.train={path}", "train.batch_size=4", "data.dev_share=0.25"


def test_a_run_is_built_with_its_loss_and_says_so(tmp_path):
    own = (*reviews(tmp_path / "my.csv"), "data.weight=trust")
    setup = built(*own, "loss.class_weights={good: 3, bad: 1}", "loss.focal_gamma=2")
    objective, rows = setup.data.objective, setup.data.examples.train
    weights = [example.weight * (1 if example.label == 0 else 3) for example in rows]
    assert objective.form == LossForm(0.0, 2.0, (1.0, 3.0)) and objective.mean_weight == sum(weights) / len(weights)
    lines = plan_lines(setup, SimpleNamespace(steps_per_epoch=1, dropped_per_epoch=0), Size(1, 1), 3, 1, "cpu", "")
    shares = [weight / objective.mean_weight for weight in (1, 3)]
    said = f"class weights bad {shares[0]:.4g}, good {shares[1]:.4g}; rows weighted by trust; focal gamma 2"
    assert [line for line in lines if line.startswith("loss ")] == [f"loss       {said}"]
    plain = built(*reviews(tmp_path / "my.csv"))
    assert plain.data.objective is None and {example.weight for example in plain.data.examples.train} == {1.0}


def test_what_the_loss_cannot_be_is_refused_before_ranks_connect(tmp_path):
    own = reviews(tmp_path / "my.csv")
    assert problems(*own, "loss.class_weights={good: 3, bed: 1}").keys() == {"loss.class_weights"}
    assert (
        "is not defined for regression"
        in problems(*own, "data.labels=[]", "data.label=trust", "loss.class_weights=auto")["loss.class_weights"]
    )
    assert "lacks the column trast" in problems(*own, "data.weight=trast").popitem()[1]
    assert "belongs to data.train" in problems(*QUICK, "data.weight=trust")["data.weight"]
    assert "is a text or label column too" in problems(*own, "data.weight=label")["data.weight"]


@pytest.mark.parametrize("form", ["[{:.2f}, {:.2f}]", '{{"bad": {:.2f}, "good": {:.2f}}}'])
def test_own_files_of_probabilities_need_the_names_of_the_labels_alone(form, tmp_path):
    rows = [f'{{"text": "text {i}", "label": {form.format(i / 10, 1 - i / 10)}}}' for i in range(10)]
    (tmp_path / "my.jsonl").write_text("\n".join(rows))
    own = (f"data.train={tmp_path}/my.jsonl", "train.batch_size=4")
    assert "have a probability for each label" in problems(*own)["data.labels"]
    setup = built(*own, "data.labels=bad,good")
    assert setup.data.objective.soft and setup.data.kind.name == "classification"
    assert all(example.probabilities[0] in {i / 10 for i in range(10)} for example in setup.data.examples.train)


def test_a_run_goes_on_only_with_the_loss_that_it_began_with(tmp_path):
    own = ("loss.class_weights=auto", "loss.label_smoothing=0.1")
    step = run_folder(tmp_path / "run", *own)
    again = (*QUICK, f"output_dir={tmp_path}/run", "train.resume=auto")
    assert built(*again, *own).start.checkpoints == [step]
    assert problems(*again).keys() == {"loss.class_weights", "loss.label_smoothing"}


def test_weights_of_rows_are_part_of_the_data_that_a_run_goes_on_with(tmp_path):
    digests = [built(*reviews(tmp_path / "my.csv", last), "data.weight=trust").start.data_digest for last in (1.0, 2.0, 1.0)]
    assert digests[0] == digests[2] != digests[1]
    run_folder(tmp_path / "run")
    assert len(list(changed_input(digests[1], "", RunDirectory(tmp_path / "run")))) == 1
