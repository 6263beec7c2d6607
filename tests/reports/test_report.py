"""Reports: their numbers, groups, published rows, and a self-contained page."""

import csv
import html.parser
import json
import re
import shutil
import subprocess
import sys

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.reports.curves import plot_run
from mat_ds.reports.labels import group_runs
from mat_ds.reports.runs import read_runs
from mat_ds.storage.rundir import RunDirectory
from tests.support.reported import attack, judge, make_run

SCORES = {0: (0.2, 0.6, 0.4), 1: (0.1, 0.5, 0.5)}  # three evaluations per seed
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of MAT, one of vanilla, one still running, one with another lambda and an attack, one with another K."""
    tmp_path = tmp_path_factory.mktemp("reported")
    for seed, scores in SCORES.items():
        run = make_run(tmp_path / "runs" / "mat" / f"seed-{seed}", scores, seed)
        judge(run, 0.4 + 0.2 * seed, [[10 + seed, 1], [2, 20]])
    make_run(tmp_path / "runs" / "vanilla", (0.1, 0.2, 0.3), name="vanilla")
    make_run(tmp_path / "runs" / "going", (0.0, 0.1, 0.2), seed=2, end=None)
    attacked = make_run(tmp_path / "runs" / HOSTILE, (0.3, 0.3, 0.3), lam=3.0)
    attack(attacked, "linf", (0.9, 0.9, 0.9))
    attack(attacked, "linf", (0.8, 0.5, 0.1), folder="evaluation-2")
    attack(attacked, "l2", (0.8, 0.4, 0.2), folder="evaluation-10")
    make_run(tmp_path / "runs" / "=K", (0.3, 0.3, 0.7), theta_steps=1, delta_steps=1)
    return tmp_path / "runs"


def made(runs, out):
    assert main(["report", str(runs), "--out", str(out)]) == ExitCode.OK
    return out


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    return made(runs, tmp_path_factory.mktemp("out") / "report")


def rows(report, name):
    with (report / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_last_best_and_median_scores_are_means_over_finished_seeds(report):
    mat = next(row for row in rows(report, "scores") if row["label"] == "MAT")
    assert (mat["task"], mat["seeds"], mat["evaluations"]) == ("cola", "2 (+1 unfinished)", "3")
    # The last two evaluations are in the second half of the steps.
    expected = {"last": (40, 50), "best": (60, 50), "median": (50, 50)}
    for kind, values in expected.items():
        assert float(mat[kind]) == pytest.approx(sum(values) / 2), kind
    assert mat["last sd"] == "" and ">40.0, 50.0<" in (report / "index.html").read_text()
    assert (float(mat["cost"]), float(mat["seconds"])) == (3 * 5 + 6 * 10, 6.0)
    assert float(mat["passes"]) == pytest.approx((3 * 5 + 6 * 10) * 12 * 32 / 1000)


def test_runs_that_differ_only_in_their_seed_are_one_experiment_and_labels_name_other_differences(runs):
    groups = [(group.label, [run.seed for run in group.runs]) for group in group_runs(read_runs([runs]))]
    assert groups == [("vanilla", [0]), ("MAT Kδ=1 Kθ=1", [0]), ("MAT", [0, 1, 2]), ("MAT λ=3", [0])]


def test_unfinished_runs_are_marked_and_every_run_has_its_own_scores(report):
    found = {row["name"]: row for row in rows(report, "runs")}
    assert (found["runs/going"]["status"], found["runs/vanilla"]["status"]) == ("unfinished", "finished")
    assert found["runs/going"]["reached"] == "12 steps, epoch 1.00 of 3" and found["runs/vanilla"]["reached"] == "12 steps"
    assert [float(found["runs/mat/seed-0"][kind]) for kind in ("last", "best", "median")] == pytest.approx([40, 60, 50])


def test_k_and_lambda_have_one_table_each_with_a_column_of_published_scores(report):
    for name, expected in (("ablation-K", {"1": 70, "10/5": 45}), ("ablation-lambda", {"1": 45, "3": 30})):
        own = {row["value"]: float(row["last"]) for row in rows(report, name) if row["source"] == "measured"}
        assert own == pytest.approx(expected), name
    quoted = {row["value"]: row for row in rows(report, "ablation-lambda") if row["source"].startswith("published")}
    assert quoted["3"]["published"] == "62.6" and quoted["50"]["published"] == "57.8" and not quoted["3"]["best"]


def test_the_curves_file_has_mean_lowest_and_highest_seed(report):
    found = [row for row in rows(report, "curves") if row["label"] == "MAT" and row["quantity"] == "dev score, %"]
    at = {float(row["step"]): [float(row[name]) for name in ("mean", "low", "high")] for row in found}
    assert at == {4: pytest.approx([10, 0, 20]), 8: pytest.approx([40, 10, 60]), 12: pytest.approx([110 / 3, 20, 50])}


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.targets, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_self_contained_and_run_names_are_escaped(report):
    text = (report / "index.html").read_text()
    page = Links()
    page.feed(text)
    assert "script" not in page.tags and f"runs/{HOSTILE}" in page.text and "link" not in page.tags
    assert page.tags.count("img") == 5
    for target in page.targets:
        assert target.startswith("data:image/svg+xml;base64,") or (report / target).is_file(), target[:80]
    assert not re.search(r"url\(|@import", text)


def test_unusual_names_are_safe_as_file_names_and_in_spreadsheets(tmp_path, capsys):
    make_run(tmp_path / "=1+1", (0.1, 0.2, 0.3), task="cola", name="vanilla")
    run = make_run(tmp_path / "b", (0.1, 0.2, 0.3), name="vanilla", model="../../$\\frac{")
    results = json.loads(run.results.read_text()) | {"task": "../../$x_1$ <b>"}
    run.results.write_text(json.dumps(results))
    assert main(["report", str(tmp_path / "=1+1"), str(run.path), "--out", str(tmp_path / "out" / "r")]) == ExitCode.OK
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["r"], capsys.readouterr().err
    assert [row["name"] for row in rows(tmp_path / "out" / "r", "runs")] == ["b", "'=1+1"]
    assert "<b>" not in (tmp_path / "out" / "r" / "index.html").read_text()


def test_calibration_is_a_mean_over_seeds_and_confusion_their_sum(report):
    before, after = rows(report, "calibration")
    assert (before["when"], after["when"]) == ("as trained", "at the temperature")
    assert [float(row["nll"]) for row in (before, after)] == pytest.approx([0.5, 0.25]) and before["temperature"] == ""
    assert float(after["temperature"]) == 2.0
    assert ">0.400, 0.600<" in (report / "index.html").read_text() and before["nll sd"] == ""
    table = [(row["gold"], row["answer 0"], row["answer 1"]) for row in rows(report, "confusion-cola")]
    assert table == [("unacceptable", "21", "2"), ("acceptable", "4", "40")]


def test_there_is_a_figure_for_each_kind_of_data(report):
    names = {path.stem for path in report.glob("*.svg")}
    assert names == {f"cola-{part}" for part in ("curves", "seeds", "robustness", "calibration", "differences")}
    assert {path.stem for path in report.glob("*.png")} == names


def test_two_reports_of_the_same_runs_are_equal_and_the_second_replaces_the_first(report, runs, capsys):
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    (report / "of an earlier one.csv").touch()
    capsys.readouterr()
    made(runs, report)
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before
    said = capsys.readouterr().out
    assert "6 runs (5 finished) of 4 experiments" in said
    assert re.findall(r"left out: (.*) \(", said) == ["ANLI table", "attacks on texts"]


def test_missing_runs_and_folders_that_would_be_overwritten_are_refused(runs, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert main(["report", str(runs), "--out", str(tmp_path / "mine")]) == ExitCode.USER_ERROR
    assert main(["report", str(tmp_path / "mine"), str(tmp_path / "none")]) == ExitCode.USER_ERROR
    assert main(["report", str(runs), "--out", str(tmp_path / "mine" / "thesis.tex" / "report")]) == ExitCode.USER_ERROR
    make_run(tmp_path / "torn", (0.1, 0.2, 0.3)).results.write_text("[")
    assert main(["report", str(runs), str(tmp_path / "torn"), "--out", str(tmp_path / "r")]) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert all(words in said for words in ("is not a report", "has no run", "there is no such folder", "cannot be written"))
    assert re.search(r"torn/results\.json\n +why: cannot be read", said)
    assert main(["report"]) == ExitCode.USER_ERROR and "mat-ds report runs/" in capsys.readouterr().err


def test_parts_without_data_are_replaced_by_a_line(runs, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    made(runs / "vanilla", tmp_path / "one")
    said = capsys.readouterr().out
    parts = (
        "box plot over seeds",
        "differences by seed",
        "calibration",
        "K ablation",
        "λ ablation",
        "ANLI table",
        "robustness curves",
        "attacks on texts",
    )
    assert re.findall(r"left out: (.*) \(", said) == list(parts)


def test_a_run_without_a_step_does_not_prevent_a_report(tmp_path):
    run = make_run(tmp_path / "run", (0.1, 0.2, 0.3), end=None)
    run.events.unlink()
    page = (made(run.path, tmp_path / "report") / "index.html").read_text()
    assert "1 (1 unfinished)" in page and "no run has been evaluated yet" in page


def test_a_run_draws_its_own_curves(runs):
    folder = RunDirectory(runs / "vanilla")
    plot_run(folder)
    assert (folder.plots / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_imports_neither_deepspeed_nor_mlflow(runs, tmp_path):
    program = "import sys; from mat_ds.cli import main; main(sys.argv[1:]); print({'deepspeed', 'mlflow'} & set(sys.modules))"
    command = [sys.executable, "-c", program, "report", str(runs), "--out", str(tmp_path / "report")]
    assert subprocess.run(command, capture_output=True, text=True, timeout=300).stdout.endswith("set()\n")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the page with")
def test_the_page_does_not_scroll_sideways_on_a_phone_and_no_table_on_a_laptop(report, tmp_path):
    # Windows cannot be narrower than 500 pixels, frames can.
    frames = "".join(
        f'<iframe src="index.html" width="{width}" height="800" style="border:0"></iframe>' for width in (390, 1366)
    )
    script = """onload = () => {
        let pages = [...document.querySelectorAll("iframe")].map(frame => frame.contentDocument.documentElement)
        let tables = [...pages[1].querySelectorAll(".scroll")]
        let lost = tables.filter(table => table.scrollWidth > table.clientWidth).map(table => table.getAttribute("aria-label"))
        document.title = JSON.stringify([pages.map(page => [page.scrollWidth, page.clientWidth]), tables.length, lost])
    }"""
    (report / "frames.html").write_text(f"<!doctype html><title></title><script>{script}</script>{frames}")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--virtual-time-budget=5000")
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{report}/frames.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    pages, count, lost = json.loads(re.search(r"<title>(.+)</title>", shown)[1])
    assert all(needed <= there for needed, there in pages) and pages[0][1] <= 390
    assert count >= 5 and lost == []
