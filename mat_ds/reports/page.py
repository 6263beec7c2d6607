"""A report as files: one page that needs no other, its tables as CSV, its figures as SVG and PNG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from jinja2 import Environment, PackageLoader

from mat_ds.reports.drawing import Picture
from mat_ds.reports.figures import draw
from mat_ds.reports.groups import Group, unsaid_options
from mat_ds.reports.table import Table
from mat_ds.reports.tables import anli_table, glue_table, runs_table, scores_table
from mat_ds.rundir import write_folder, write_text

PAGE = "index.html"
# By this a folder is known to be a report, which another may take the place of.
MARK = ".mat_ds-report"


def write_report(folder: Path, groups: Sequence[Group]) -> list[str]:
    """Writes or replaces a report; returns what it has nothing to say about.

    Args:
        folder: does not exist yet, or holds a report.
    """
    pictures = list(draw(groups))
    tables = [table for table in (scores_table(groups), glue_table(groups), anli_table(groups), runs_table(groups)) if table]
    tables = [table for table in tables if table.rows]
    left_out = missing(tables, pictures)
    text = render(groups, tables, pictures, left_out)

    def fill(aside: Path) -> None:
        write_text(aside / PAGE, text)
        for table in tables:
            write_text(aside / f"{table.name}.csv", table.csv())
        for drawn in pictures:
            (aside / f"{drawn.name}.svg").write_bytes(drawn.svg)
            (aside / f"{drawn.name}.png").write_bytes(drawn.png)
        (aside / MARK).touch()

    write_folder(folder, fill)
    return left_out


def missing(tables: Sequence[Table], pictures: Sequence[Picture]) -> list[str]:
    """The parts of a report that the runs have no data for, and what would give it some."""
    have = {table.name for table in tables}
    drawn = [picture.name for picture in pictures]
    parts = {
        "scores": ("scores" in have, "no run has been evaluated yet"),
        "GLUE and ANLI tables": (bool(have & {"glue", "anli"}), "no run is on one of their tasks"),
        "box plots": (any("-seeds" in name for name in drawn), "no experiment has two seeds: `mat-ds seeds`"),
        "ablations": (
            any("-theta_steps" in name or "-lam" in name for name in drawn),
            "no two runs of MAT differ in K or λ alone",
        ),
        "robustness curves": (any("-robustness" in name for name in drawn), "`mat-ds evaluate` has measured none of the runs"),
    }
    return [f"left out: {part} ({why})" for part, (there, why) in parts.items() if not there]


def render(groups: Sequence[Group], tables: Sequence[Table], pictures: Sequence[Picture], left_out: Sequence[str]) -> str:
    """The page."""
    environment = Environment(loader=PackageLoader("mat_ds.reports", ""), autoescape=True, trim_blocks=False)
    environment.filters["b64"] = lambda data: base64.b64encode(data).decode()
    runs = [run for group in groups for run in group.runs]
    versions = sorted({str(run.environment.get("packages", {}).get("mat_ds", "?")) for run in runs})
    tasks = list(dict.fromkeys(group.task for group in groups))
    finished = sum(run.finished for run in runs)
    summary = (
        f"{len(runs)} runs ({finished} finished) of {len(groups)} experiments on {', '.join(tasks)}; seeds: "
        f"{', '.join(sorted({str(run.seed) for run in runs}, key=int))}; mat_ds {', '.join(versions)}. Made on {date.today()}."
    )
    said = [f"{method} unless a label says otherwise: {options}." for method, options in unsaid_options(groups).items()]
    figures = {task: [drawn for drawn in pictures if drawn.name.startswith(f"{task}-")] for task in tasks}
    return environment.get_template("page.html.jinja").render(
        title=f"mat_ds: {', '.join(tasks)}", summary=summary, notes=[*said, *left_out], tables=tables,
        figures={task: own for task, own in figures.items() if own},
    )  # fmt: skip
