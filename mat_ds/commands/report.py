"""`mat-ds report`: writes a page with curves, tables (beside published results) and box plots of many runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.ranks.exits import attempt
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser
from mat_ds.terminal.process import importing
from mat_ds.terminal.units import numbered, positive
from mat_ds.terminal.waiting import waiting

EXAMPLE = "mat-ds report runs/cola-seeds --against runs/vanilla --out report"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    return attempt(lambda: _report(arguments))


def _report(arguments: Sequence[str]) -> None:
    parser = Parser("report", __doc__, EXAMPLE)
    parser.add_argument("runs", metavar="RUNS", type=Path, nargs="*", help="run directories, or folders that contain some")
    parser.add_argument("--experiment", metavar="NAME", help="an MLflow experiment, instead of RUNS or in addition")
    parser.add_argument("--uri", help="MLflow's address (default: MLFLOW_TRACKING_URI, or sqlite:///runs/mlflow.db)")
    parser.add_argument(
        "--against",
        metavar="RUNS",
        type=Path,
        help="runs that others are compared with (default: the first experiment of a task)",
    )
    parser.add_argument(
        "--margin",
        metavar="POINTS",
        type=positive,
        default=1.0,
        help="a difference that does not matter, in points (default: 1)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder of the report (report); an older one is replaced"
    )
    parsed = parser.parse_args(arguments)
    paths = [*parsed.runs, *([parsed.against] if parsed.against else [])]
    if not paths and not parsed.experiment:
        parser.error("RUNS or --experiment: there is nothing to report")
    for line in report(paths, parsed.experiment, parsed.uri, parsed.out, parsed.against, parsed.margin):
        show(line)


def report(
    paths: Sequence[Path], experiment: str | None, uri: str | None, out: Path, against: Path | None, margin: float
) -> list[str]:
    """Writes a report of runs in folders and in an MLflow experiment; returns what it found, and notes for the user.

    Raises:
        UserError: if there are no runs, or none to compare with, or `out` exists and is not a report.
    """
    from mat_ds.reports.runs import each_once, read_runs

    found = read_runs(paths)
    with importing(what="Matplotlib"):
        from mat_ds.reports.comparison import compare_groups
        from mat_ds.reports.comparison_table import comparison_lines
        from mat_ds.reports.experiments import tracked_runs
        from mat_ds.reports.labels import group_runs
        from mat_ds.reports.page import MARK, PAGE, write_page

    out = out.absolute()
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(Problem("--out", str(out), "exists and is not a report", "name a new folder"))
    runs, copies = each_once([*found, *(tracked_runs(experiment, uri) if experiment else [])])
    if not runs:
        raise UserError(Problem("--experiment", experiment, "has no runs of mat_ds", "name another experiment"))
    groups = group_runs(runs)
    comparisons = compare_groups(groups, against, margin)
    try:
        with waiting("drawing the curves"):
            left_out = write_page(out, groups, comparisons)
    except OSError as error:
        raise UserError(Problem("--out", str(out), f"cannot be written: {error.strerror}", "name another folder")) from None
    finished = sum(run.finished for run in runs)
    told = f"{numbered(len(runs), 'run')} ({finished} finished) of {numbered(len(groups), 'experiment')}"
    return [*copies, *left_out, *comparison_lines(comparisons), f"{told}: {out / PAGE}"]
