"""A report says what its runs say: numbers, groups, published rows, and a page that needs nothing but itself."""

import csv
import html.parser
import json
import re
import shutil
import subprocess

import pytest
import yaml

from mat_ds.cli import main
from mat_ds.config.schema import RunConfig
from mat_ds.errors import ExitCode
from mat_ds.reports.figures import plot_run
from mat_ds.reports.groups import group_runs
from mat_ds.reports.runs import read_runs
from mat_ds.rundir import RunDirectory
from mat_ds.tracking.events import EventLog

SCORES = {0: (0.2, 0.6, 0.4), 1: (0.1, 0.5, 0.5)}  # by seed: three evaluations
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def make_run(folder, scores, seed=0, task="cola", end="FINISHED", **method):
    """A run directory with everything that a report reads."""
    run = RunDirectory(folder)
    folder.mkdir(parents=True)
    config = RunConfig().model_dump(mode="json")
    config |= {"task": task, "seed": seed, "method": {**config["method"], **method}}
    if method.get("name") == "vanilla":
        config["method"] = {"name": "vanilla"}
    run.config.write_text(yaml.safe_dump(config))
    run.environment.write_text(
        json.dumps({"data_sha256": "d" * 8, "world_size": 2, "devices": ["cpu"], "git_commit": "c0ffee" * 4})
    )
    log = EventLog(run.events, 0)
    for step in range(1, 13):
        log.log(
            {
                "event": "step",
                "step": step,
                "epoch": step / 12,
                "loss": 1 / step,
                "L": 1 / step,
                "R": 0.1,
                "samples_per_second": 64.0,
            }
        )
        log.log({"event": "telemetry", "step": step, "R": 0.2, "R_without": 0.1})
        if step % 4 == 0:
            score = scores[step // 4 - 1]
            metric = "matthews_correlation" if task == "cola" else "accuracy"
            log.log({"event": "evaluation", "step": step, "score": score, "validation": {metric: score}})
    if end:
        log.log({"event": "end", "step": 12, "status": end})
        run.results.write_text(json.dumps({"task": task, "steps": 12, "seconds": 6.0, "last": {"score": scores[-1]}}))
    log.close()
    return run


@pytest.fixture
def runs(tmp_path):
    """Two seeds of MAT, one of vanilla, one that still runs, one at another lambda and attacked."""
    for seed, scores in SCORES.items():
        make_run(tmp_path / "runs" / "mat" / f"seed-{seed}", scores, seed)
    make_run(tmp_path / "runs" / "vanilla", (0.1, 0.2, 0.3), name="vanilla")
    make_run(tmp_path / "runs" / "going", (0.0, 0.1, 0.2), seed=2, end=None)
    attacked = make_run(tmp_path / "runs" / "<script>alert(1)</script>", (0.3, 0.3, 0.3), lam=3.0)
    evaluation = attacked.path / "evaluation"
    evaluation.mkdir()
    points = [{"accuracy": value, "radius": radius} for radius, value in ((0.0, 0.8), (1e-3, 0.5), (1e-2, 0.1))]
    attack = {"norm": "linf", "radii": [0.0, 1e-3, 1e-2], "steps": 5}
    report = {"attack": attack, "splits": {"validation": {"attack": points, "noise": {}}}}
    (evaluation / "robustness.json").write_text(json.dumps(report))
    return tmp_path / "runs"


@pytest.fixture
def report(runs, tmp_path, capsys):
    assert main(["report", str(runs), "--out", str(tmp_path / "report")]) == ExitCode.OK, capsys.readouterr().err
    return tmp_path / "report"


def rows(report, name):
    with (report / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_means_over_the_finished_seeds_with_last_best_and_median(report):
    mat = next(row for row in rows(report, "scores") if row["label"] == "MAT λ=1")
    assert (mat["task"], mat["seeds"], float(mat["seconds"])) == ("cola", "2", 6.0)
    # Evaluations at or after half of the steps: the last two.
    expected = {"last": (40, 50), "best": (60, 50), "median": (50, 50)}
    for kind, values in expected.items():
        assert float(mat[kind]) == pytest.approx(sum(values) / 2), kind
    assert float(mat["last sd"]) == pytest.approx(50**0.5)
    assert float(mat["passes"]) == 3 * 5 + 6 * 10


def test_runs_that_differ_in_their_seed_alone_are_one_experiment_and_labels_say_what_differs(runs):
    groups = {group.label: [run.seed for run in group.runs] for group in group_runs(read_runs([runs]))}
    assert groups == {"vanilla": [0], "MAT λ=1": [0, 1, 2], "MAT λ=3": [0]}


def test_published_rows_stand_beside_measured_ones_and_are_marked(report):
    glue = rows(report, "glue")
    published = [row for row in glue if row["source"].startswith("published")]
    assert {("MAT", "BERT-base", "62.6"), ("MAT", "RoBERTa-large", "71.3")} <= {
        (r["label"], r["model"], r["cola"]) for r in published
    }
    own = {row["kind"]: row["cola"] for row in glue if row["source"] == "measured, 2 seeds" and row["label"] == "MAT λ=1"}
    assert own == {"last": "45.0", "best": "55.0", "median of the last half": "50.0"}
    assert all(row["sst2"] == "–" for row in glue if row not in published)


def test_a_run_that_goes_on_is_shown_as_such(report):
    status = {row["name"]: (row["status"], row["reached"]) for row in rows(report, "runs")}
    assert status["runs/going"][0] == "unfinished" and status["runs/vanilla"] == ("finished", "12 steps")


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.targets = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_but_itself_and_names_of_runs_are_no_markup(report):
    text = (report / "index.html").read_text()
    page = Links()
    page.feed(text)
    assert "script" not in page.tags and "&lt;script&gt;" in text and "link" not in page.tags
    assert page.tags.count("img") >= 4
    for target in page.targets:
        assert target.startswith("data:image/svg+xml;base64,") or (report / target).is_file(), target[:80]


def test_there_is_a_figure_for_each_question_the_runs_can_answer(report):
    names = {path.stem for path in report.glob("*.svg")}
    assert names == {"cola-curves", "cola-seeds", "cola-lam", "cola-robustness-linf", "cola-cost"}
    assert {path.stem for path in report.glob("*.png")} == names


def test_two_reports_of_the_same_runs_are_the_same_and_the_second_replaces_the_first(report, runs, capsys):
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    assert main(["report", str(runs), "--out", str(report)]) == ExitCode.OK
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before
    assert "left out: ablations" not in capsys.readouterr().out


def test_what_is_missing_or_would_be_overwritten_is_told(runs, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert main(["report", str(runs), "--out", str(tmp_path / "mine")]) == ExitCode.USER_ERROR
    assert main(["report", str(tmp_path / "mine"), str(tmp_path / "none")]) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert "holds no report" in said and "holds no run" in said and "there is no such folder" in said
    assert main(["report"]) == ExitCode.USER_ERROR and "mat-ds report runs/" in capsys.readouterr().err
    assert main(["report", str(runs / "vanilla"), "--out", str(tmp_path / "one")]) == ExitCode.OK
    said = capsys.readouterr().out
    assert all(f"left out: {part}" in said for part in ("box plots", "ablations", "robustness curves"))


def test_a_run_draws_its_own_curves(runs):
    folder = RunDirectory(runs / "vanilla")
    plot_run(folder)
    assert (folder.plots / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the page with")
def test_on_a_phone_the_page_does_not_scroll_sideways(report, tmp_path):
    measure = "<script>document.title = document.documentElement.scrollWidth + '/' + innerWidth</script></body>"
    (report / "copy.html").write_text((report / "index.html").read_text().replace("</body>", measure))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,800", f"--user-data-dir={tmp_path}/profile")
    command = [CHROMIUM, *options, "--dump-dom", f"file://{report}/copy.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    needed, there = map(int, re.search(r"<title>(\d+)/(\d+)</title>", shown).groups())
    assert needed <= there
