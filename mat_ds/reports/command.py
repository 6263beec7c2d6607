"""`mat-ds report`: curves, tables beside the published ones and box plots of many runs, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from mat_ds.command import Parser, attempt
from mat_ds.engine.distributed import World
from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.reports.groups import group_runs
from mat_ds.reports.page import MARK, PAGE, write_report
from mat_ds.reports.runs import RunData, read_run, read_runs

EXAMPLE = "mat-ds report runs/cola-seeds runs/vanilla --out report"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command line and returns its exit code."""
    return attempt(lambda: _run(arguments), World(), "")


def _run(arguments: Sequence[str]) -> None:
    parser = Parser(prog="mat-ds report", description=__doc__, epilog=f"example: {EXAMPLE}", allow_abbrev=False)
    parser.add_argument("runs", metavar="RUNS", type=Path, nargs="*", help="run directories, or folders that hold some")
    parser.add_argument("--experiment", metavar="NAME", help="an MLflow experiment, in the place of RUNS or beside them")
    parser.add_argument("--uri", help="MLflow's address (default: MLFLOW_TRACKING_URI, or sqlite:///runs/mlflow.db)")
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder of the report (report); an older one is replaced"
    )
    parsed = parser.parse_args(arguments)
    if not parsed.runs and not parsed.experiment:
        parser.error("RUNS or --experiment: there is nothing to report")
    if parsed.out.exists() and not (parsed.out / MARK).exists() and (not parsed.out.is_dir() or any(parsed.out.iterdir())):
        raise UserError(Problem("--out", str(parsed.out), "exists and holds no report", "name a folder that is new"))
    runs = read_runs(parsed.runs) if parsed.runs else []
    if parsed.experiment:
        known = {run.folder.resolve() for run in runs if run.folder}
        runs += [run for run in _tracked(parsed.experiment, parsed.uri) if not (run.folder and run.folder.resolve() in known)]
    for line in write_report(parsed.out, group_runs(runs)):
        print(line)
    print(f"{len(runs)} runs: {parsed.out / PAGE}", flush=True)


def _tracked(experiment: str, uri: str | None) -> list[RunData]:
    """The runs of an MLflow experiment: their directories where they are still there, else what MLflow holds of them."""
    from mat_ds.tracking.history import runs_of
    from mat_ds.tracking.registry import registry_uri

    found = []
    for run in runs_of(registry_uri(uri), experiment):
        if run.directory and (run.directory / "events.jsonl").exists():
            found.append(read_run(run.directory, run.name))
        elif run.params:
            found.append(RunData(run.name, _nested(run.params), run.records, ended=run.status))
    return found


def _nested(params: dict[str, str]) -> dict[str, object]:
    """Options as `config.yaml` nests them, from text by dotted key."""
    tree: dict[str, object] = {}
    for key, value in params.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})  # type: ignore[assignment]
        place[name] = yaml.safe_load(value)
    return tree
