"""Help, and what is wrong with options, paths and files, is said before torch and other large libraries are imported."""

import json
import subprocess
import sys

import pytest

from mat_ds.cli import COMMANDS
from tests.support.launch import ROOT, environment

LARGE = {"torch", "deepspeed", "transformers", "datasets", "mlflow", "sklearn", "numpy", "pyarrow", "optuna", "matplotlib"}

# Runs command lines in one new process, then calls from Python, then a command line as a launcher starts it; prints exit code,
# output and the large libraries imported so far, for each.
RUN = """
import contextlib, io, json, os, sys
import mat_ds
from mat_ds import cli

def answer(code, said):
    print(json.dumps([code, said, sorted(sys.modules.keys() & set(sys.argv[2:]))]))

def run(words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = cli.main(words)
        except SystemExit as end:  # as --help does
            code = end.code
    answer(code, out.getvalue())

for words in json.loads(sys.argv[1]):
    run(words)
for call in (
    lambda: mat_ds.train(max_step=3),
    lambda: mat_ds.train({"method": {"lam": -1}}, ds_config={"gradient_clipping": 0.5}),
    lambda: mat_ds.evaluate("/nowhere"),
    lambda: mat_ds.evaluate("/nowhere", limit=0),
    lambda: mat_ds.load("/nowhere"),
    lambda: mat_ds.predict("/nowhere", ["a text"]),
):
    try:
        call()
    except mat_ds.UserError as error:
        answer(2, str(error))
os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_SIZE": "2"}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
del os.environ["OMP_NUM_THREADS"]
run(["train", "--local_rank=0", "train.batch_size=7"])
"""

# Parts of the answers to the calls from Python, and to a rank.
GONE = "there is no such folder"
CALLED = ("max_step", "2 problems", GONE, "limit", GONE, GONE, "by the 2 ranks")

# Command line -> a part of the answer.
WRONG = {
    "train max_step=3": "max_step",
    "train --recipe nosuch": "--recipe",
    "train --recipe cola method.lam=-1": "method.lam",
    "train --ds_config nosuch": "--ds_config",
    "train --ds_config BROKEN": "is not JSON",
    "train --ds_config CLIPPING": "contradicts optimizer.max_grad_norm",
    "train --plugin nosuch.py": "--plugin",
    "train task=nosuch": "task",
    "train task=TASK": "acuracy",
    "train task=cola data.path=/nowhere": "is not a folder",
    "train task=cola data.path=EMPTY": "has no folder 'cola'",
    "train model.name=/nowhere": "there is no such folder",
    "train model.name=EMPTY": "has no config.json",
    "train train.batch_size=7 train.micro_batch_size=2": "train.micro_batch_size",
    "train train.resume=/nowhere": "train.resume",
    "train output_dir=TASK/run": "output_dir",
    "train data.max_length=1 model.dropout=2 optimizer.lr=x tracking.uri=ftp://x": "4 problems",
    "train --ranks 3 train.batch_size=32": "is not divisible by the 3 ranks",
    "train --ranks 0": "--ranks",
    "train data.train=nosuch.csv": "data.train",
    "train data.train=OWN.csv data.text=body": "lacks the column label",
    "train data.train=OWN.csv data.label=body": "lacks the column text",
    "evaluate /nowhere": "there is no such folder",
    "evaluate EMPTY attack.norm=3 noise.rates=[2]": "2 problems",
    "predict /nowhere TASK --format text": "there is no such folder",
    "predict EMPTY nosuch.txt": "there is no such file",
    "export /nowhere out": "there is no such folder",
    "prepare out optimizer.lrr=1": "did you mean 'lr'?",
    "prepare out task=cola data.path=/nowhere": "is not a folder",
    "plan --gpus 2 --gpu_memory 16GX": "--gpu_memory",
    "plan --gpus 2 --gpu_memory 16GB method.lamm=1": "did you mean 'lam'?",
    "sweep --space nosuch": "--space",
    "sweep --space demo method.lamm=1": "did you mean 'lam'?",
    "seeds method.lamm=1": "did you mean 'lam'?",
    "report /nowhere": "there is no such folder",
    "sync /nowhere": "does not exist",
    "verify /nowhere": "has no checkpoint",
    "doctor nosuch": "neither a flag nor key=value",
    "promote name one --alias champion": "VERSION",
    "register": "RUN",
    "models one two": "two",
    "runs EMPTY": "has no run",
    "options optimiser": "did you mean 'optimizer'?",
    "env nosuch": "nosuch",
    "nosuch": "there is no such command",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The exit code, output and large libraries of every command line, in the order in which they ran."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "EMPTY").mkdir()
    (folder / "BROKEN").write_text("{")
    (folder / "OWN.csv").write_text("title,body\na,b\n")
    (folder / "CLIPPING").write_text('{"gradient_clipping": 0.5}')
    (folder / "TASK.yaml").write_text("text: [a]\nlabels: [x, y]\nmetrics: [acuracy]\n")
    (folder / "TASK").touch()
    lines = [*(f"{command} --help" for command in COMMANDS), "--help", "--version", *WRONG]
    asked = [line.replace("task=TASK", "task=TASK.yaml").split() for line in lines]
    command = [sys.executable, "-c", RUN, json.dumps(asked), *LARGE]
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=120)
    return dict(zip([*lines, *range(len(CALLED))], map(json.loads, done.stdout.splitlines()), strict=True))


def test_every_command_explains_itself_without_large_libraries(answers):
    for command in COMMANDS:
        code, said, imported = answers[f"{command} --help"]
        assert (code, imported) == (0, []) and said.startswith(f"usage: mat-ds {command} "), command
    assert answers["--help"][1].count("\n") > len(COMMANDS)


def test_what_is_wrong_is_said_without_large_libraries(answers):
    for line, part in WRONG.items():
        code, said, imported = answers[line]
        assert (code, imported) == (2, []), (line, said)
        assert part in said and "fix:" in said, (line, said)


def test_so_it_is_from_python_and_on_a_rank(answers):
    for number, part in enumerate(CALLED):
        code, said, imported = answers[number]
        assert (code, imported) == (2, []) and part in said, (number, said, imported)
