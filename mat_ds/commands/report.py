"""`mat-ds report`: writes a page with curves, tables (beside published results) and box plots of many runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.ranks.exits import attempt
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser
from mat_ds.terminal.process import importing
from mat_ds.terminal.units import numbered
from mat_ds.terminal.waiting import waiting

EXAMPLE = "mat-ds report runs/cola-seeds runs/vanilla --out report"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    return attempt(lambda: _report(arguments))


def _report(arguments: Sequence[str]) -> None:
    parser = Parser("report", __doc__, EXAMPLE)
    parser.add_argument("runs", metavar="RUNS", type=Path, nargs="*", help="run directories, or folders that contain some")
    parser.add_argument("--experiment", metavar="NAME", help="an MLflow experiment, instead of RUNS or in addition")
    parser.add_argument("--uri", help="MLflow's address (default: MLFLOW_TRACKING_URI, or sqlite:///runs/mlflow.db)")
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder of the report (report); an older one is replaced"
    )
    parsed = parser.parse_args(arguments)
    if not parsed.runs and not parsed.experiment:
        parser.error("RUNS or --experiment: there is nothing to report")
    for line in compare(parsed.runs, parsed.experiment, parsed.uri, parsed.out):
        show(line)


def compare(paths: Sequence[Path], experiment: str | None, uri: str | None, out: Path) -> list[str]:
    """Writes a report of runs in folders and in an MLflow experiment; returns notes for the user.

    Raises:
        UserError: if there are no runs, or `out` exists and is not a report.
    """
    from mat_ds.reports.runs import each_once, read_runs

    found = read_runs(paths)
    with importing(what="Matplotlib"):
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
    try:
        with waiting("drawing the curves"):
            left_out = write_page(out, groups)
    except OSError as error:
        raise UserError(Problem("--out", str(out), f"cannot be written: {error.strerror}", "name another folder")) from None
    finished = sum(run.finished for run in runs)
    told = f"{numbered(len(runs), 'run')} ({finished} finished) of {numbered(len(groups), 'experiment')}"
    return [*copies, *left_out, f"{told}: {out / PAGE}"]
