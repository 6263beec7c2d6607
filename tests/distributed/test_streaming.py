"""`mat-ds predict` in an endless pipe."""

import json
import subprocess

import pytest

from tests.support.heads import finished_run
from tests.support.launch import ROOT, cli, environment
from tests.support.processes import Process

pytestmark = pytest.mark.dist


def test_predictions_are_printed_as_texts_arrive_and_a_closed_output_is_no_error(tmp_path):
    run = finished_run(tmp_path / "run", "cola")
    command = cli("predict", run, "-", "--format", "text", "--batch_size", "2", module="mat_ds.cli")
    with Process(
        command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for batch in range(3):
            process.stdin.write("the key is golden.\nthe keys is golden.\n")
            process.stdin.flush()
            answers = [json.loads(process.stdout.readline()) for _ in range(2)]
            assert [answer["index"] for answer in answers] == [2 * batch, 2 * batch + 1]
        process.stdout.close()
        process.stdin.write("one more.\nand another.\n")
        process.stdin.flush()
        assert process.wait(120) == 0 and process.stderr.read() == ""
