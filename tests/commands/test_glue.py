"""The GLUE score of finished runs: of their best evaluations, and beside it of their last ones and of the medians."""

import json
from statistics import mean

import pytest

from mat_ds.commands.glue_score import main
from mat_ds.errors import ExitCode
from mat_ds.storage.progress import Progress
from mat_ds.tasks.metrics import GLUE_SCORE_TASKS, selection_score
from mat_ds.tasks.registry import TASKS


def finished(folder, task, values, average=False):
    """A run whose evaluations scored `values` in every metric, the later splits a little more."""
    evaluations = []
    for step, value in enumerate(values, start=1):
        splits = {
            split: {metric: value + 0.01 * i for metric in TASKS[task].metrics} for i, split in enumerate(TASKS[task].dev)
        }
        evaluation = {"step": step, "score": selection_score(splits), **splits}
        if average:
            evaluation["average"] = {"score": 0.99, **{split: {"accuracy": 0.99} for split in splits}}
        evaluations.append(evaluation)
    folder.mkdir(parents=True)
    results = {"task": task, **Progress(step=len(values), evaluations=evaluations).results()}
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    """Each at its best at the second of six evaluations."""
    return [
        finished(tmp_path / task, task, [x + i / 100 for x in (0.3, 0.8, 0.6, 0.5, 0.4, 0.7)], average=task == "cola")
        for i, task in enumerate(GLUE_SCORE_TASKS)
    ]


def printed(capsys):
    return {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}


def test_last_and_median_stand_beside_the_best(runs, capsys):
    assert main(runs) == ExitCode.OK
    table = printed(capsys)
    assert table["best"][:2] == ["last", "median"]
    more = [i / 100 for i in range(8)]
    # The mean of MNLI's two splits is half of what the second scored more.
    more[GLUE_SCORE_TASKS.index("mnli")] += 0.005
    # The last half of six evaluations begins with the third: 0.6, 0.5, 0.4, 0.7.
    assert table["GLUE"] == [f"{100 * (value + mean(more)):.2f}" for value in (0.8, 0.7, 0.55)]
    assert table["cola"][:3] == ["80.00", "70.00", "55.00"] and table["cola"][3:] == ["matthews_correlation", "80.0"]
    assert table["mrpc"][3:] == ["accuracy", "82.0,", "f1", "82.0"]


def test_wnli_is_shown_and_not_counted(runs, tmp_path, capsys):
    main(runs)
    without = printed(capsys)
    assert main([*runs, finished(tmp_path / "wnli", "wnli", [0.1, 0.1])]) == ExitCode.OK
    table = printed(capsys)
    assert table["GLUE"] == without["GLUE"] and table["wnli"][:3] == ["10.00"] * 3


def test_results_that_hold_the_best_alone_have_that_score(tmp_path, capsys):
    folders = []
    for i, task in enumerate(GLUE_SCORE_TASKS):
        (tmp_path / task).mkdir()
        best = {"step": 3, "score": 0.5 + i / 100, "validation": {"accuracy": 0.5 + i / 100}}
        (tmp_path / task / "results.json").write_text(json.dumps({"task": task, "best": best}))
        folders.append(str(tmp_path / task))
    assert main(folders) == ExitCode.OK
    assert capsys.readouterr().out.splitlines()[-1].split() == ["GLUE", "53.50"]


def test_runs_that_make_no_score_are_refused(runs, tmp_path, capsys):
    assert main(runs[:-1]) == ExitCode.USER_ERROR and "missing: rte" in capsys.readouterr().err
    assert main([*runs, runs[0]]) == ExitCode.USER_ERROR and "second run of cola" in capsys.readouterr().err
    assert main([str(tmp_path)]) == ExitCode.USER_ERROR and "no results.json" in capsys.readouterr().err


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"\xff\xfe", b"null", b'"x"', b'{"task": "cola"}', b'{"task": "cola", "best": 3}', b"[" * 100_000,
    b'{"task": "cola", "best": {"step": 3, "score": 0.5}}', b'{"task": "cola", "best": {"validation": {}}}',
    b'{"task": "cola", "best": {"validation": {"accuracy": "high"}}}',
    b'{"task": "cola", "best": {"validation": {"accuracy": null}}}',
    b'{"task": "cola", "best": {"validation": {"accuracy": NaN}}}',
    b'{"task": ["cola"], "best": {"validation": {"accuracy": 0.5}}}',
    b'{"task": "cola", "best": {"validation": {"accuracy": 0.5}}, "median_last_half": "x"}',
    b'{"task": "cola", "best": {"validation": {"accuracy": 0.5}}, "last": []}',
])  # fmt: skip
def test_a_damaged_file_of_results_is_named(content, runs, capsys, tmp_path):
    (tmp_path / "cola" / "results.json").write_bytes(content)
    assert main(runs) == ExitCode.USER_ERROR
    error = capsys.readouterr().err
    assert str(tmp_path / "cola") in error and "does not contain scores" in error and "Traceback" not in error


def test_names_from_a_file_of_results_cannot_write_to_the_terminal(runs, tmp_path, capsys):
    (tmp_path / "odd").mkdir()
    odd = {"task": "\x1b[2Jodd", "best": {"v": {"\x07acc": 0.5}}, "last": {"v": {"a": 0.5}}, "median_last_half": 0.5}
    (tmp_path / "odd" / "results.json").write_text(json.dumps(odd))
    assert main([*runs, str(tmp_path / "odd")]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "odd" in said and all(c.isprintable() or c == "\n" for c in said)
