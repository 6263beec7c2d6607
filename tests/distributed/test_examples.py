"""The examples run: a custom method and task on two ranks, and the engine in a custom loop at every stage."""

import json
import re

import pytest

from mat_ds.errors import UserError
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.request import find_subject
from mat_ds.methods import METHODS
from tests.support.launch import ROOT, run_cli

pytestmark = pytest.mark.dist

PLUGINS = ("--plugin", "examples/my_method.py", "--plugin", "examples/my_task.py")
OPTIONS = (
    "task=parity",
    "method.name=confidence",
    "method.beta=0.2",
    "train.max_steps=4",
    "train.batch_size=16",
    "train.micro_batch_size=4",
    "data.eval_limit=40",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugged") / "run"
    done = run_cli("--ds_config", "ds_configs/zero2.json", *PLUGINS, *OPTIONS, f"output_dir={folder}", ranks=2)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_a_method_and_a_task_from_files_train_on_two_ranks(run):
    results = json.loads((run / "results.json").read_text())
    assert (results["task"], results["method"], results["steps"]) == ("parity", "confidence", 4)
    assert results["export"]["reproduces_reported"]
    config = (run / "config.yaml").read_text()
    assert re.search(r"^plugins:\n  my_method.py: [0-9a-f]{64}\n  my_task.py: [0-9a-f]{64}$", config, re.M)


def test_a_run_is_continued_and_evaluated_only_with_its_plugins(run, tmp_path):
    assert "confidence" not in METHODS
    with pytest.raises(UserError, match=r"pass --plugin <path of my_(method|task)\.py>"):
        find_subject(str(run), EvaluationOptions(output_dir=str(tmp_path / "report")))
    going_on = (
        "--ds_config",
        "ds_configs/zero2.json",
        "--recipe",
        run / "config.yaml",
        f"output_dir={run}",
        "train.resume=auto",
    )
    without = run_cli(*going_on)
    assert without.returncode == 2 and "pass --plugin <path of my_method.py>" in without.stderr
    assert "Traceback" not in without.stderr
    edited = tmp_path / "my_method.py"
    edited.write_text((ROOT / "examples" / "my_method.py").read_text() + "\n# another version\n")
    other = run_cli(*going_on, "--plugin", edited, "--plugin", "examples/my_task.py")
    assert other.returncode == 2 and "plugins.my_method.py" in other.stderr, other.stderr[-2000:]


def test_the_engine_works_in_a_custom_loop_at_every_stage():
    done = run_cli(ranks=2, module="tests.workers.own_loop")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = re.findall(r"ZeRO-(\d), 2 ranks: loss (\d\.\d+) to (\d\.\d+)", done.stdout)
    assert [int(stage) for stage, *_ in found] == [0, 1, 2, 3]
    first, last = zip(*((float(first), float(last)) for _, first, last in found), strict=True)
    assert max(first) - min(first) < 0.002 and max(last) - min(last) < 0.02
    assert max(last) < min(first) - 0.3  # the loss falls
