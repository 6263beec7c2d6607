"""Writes a report as files: a self-contained page, tables as CSV, figures as SVG and PNG."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from jinja2 import Environment, PackageLoader

from mat_ds.errors import printable
from mat_ds.reports import figures
from mat_ds.reports.ablations import VARIED, ablation_table
from mat_ds.reports.attacks import changed_texts_table, shift_table, text_attack_bars, text_attacks_table
from mat_ds.reports.checks import checks_table
from mat_ds.reports.comparison import Comparison
from mat_ds.reports.comparison_table import comparison_table
from mat_ds.reports.confusion import confusion_tables
from mat_ds.reports.curves import curves_table, learning_curves
from mat_ds.reports.drawing import Picture, file_name, house_style
from mat_ds.reports.groups import Group
from mat_ds.reports.labels import unsaid_options
from mat_ds.reports.reliability import calibration_table, reliability
from mat_ds.reports.table import Table
from mat_ds.reports.tables import anli_table, glue_tables, runs_table, scores_table
from mat_ds.storage.disk import write_text
from mat_ds.storage.folders import write_folder
from mat_ds.terminal.units import numbered

PAGE = "index.html"
# Marks a folder as a report, which may be overwritten by another.
MARK = ".mat_ds-report"
# Parts of a report, by the start of the names of their figures or tables -> title, and why it may be missing.
PARTS = {
    "scores": ("scores", "no run has been evaluated yet"),
    "curves": ("learning curves", "no run has made a step yet"),
    "seeds": ("box plot over seeds", "no experiment has two finished seeds: mat-ds seeds"),
    "differences": ("differences by seed", "no two finished experiments on one dev set share a seed"),
    "calibration": ("calibration", "no finished run has probabilities of labels"),
    "ablation-K": ("K ablation", "no two finished experiments differ in K alone"),
    "ablation-lambda": ("λ ablation", "no two finished experiments differ in λ alone"),
    "glue": ("GLUE table", "no run is on one of its tasks"),
    "anli": ("ANLI table", "no run is on ANLI"),
    "robustness": ("robustness curves", "mat-ds evaluate has measured none of the runs"),
    "attacks": ("attacks on texts", "mat-ds evaluate text_attack.names=[...] has attacked none of the runs"),
}

# Long tables, which stand behind the figures.
LAST = ("changed-texts", "runs")


def write_page(folder: Path, groups: Sequence[Group], comparisons: Sequence[Comparison]) -> list[str]:
    """Writes or replaces a report; returns notes about missing parts.

    Args:
        folder: does not exist yet, is empty, or contains a report.
        groups: the experiments.
        comparisons: of them.
    """
    pictures = list(draw_figures(groups, comparisons))
    tables = [table for table in tables_of(groups, comparisons) if table.rows]
    left_out = missing(tables, pictures)
    text = render(groups, tables, pictures, left_out)

    def fill(aside: Path) -> None:
        write_text(aside / PAGE, text)
        for table in tables:
            write_text(aside / f"{file_name(table.name)}.csv", table.csv())
        for drawn in pictures:
            (aside / f"{drawn.name}.svg").write_bytes(drawn.svg)
            (aside / f"{drawn.name}.png").write_bytes(drawn.png)
        (aside / MARK).touch()

    write_folder(folder, fill)
    return left_out


def draw_figures(groups: Sequence[Group], comparisons: Sequence[Comparison]) -> Iterator[Picture]:
    """Yields all figures that there is data for, task by task."""
    with house_style():
        for task in dict.fromkeys(group.task for group in groups):
            own = [group for group in groups if group.task == task]
            for part in (learning_curves, figures.box_plot, figures.robustness, text_attack_bars, reliability):
                yield from part(task, own)
            yield from figures.differences(task, comparisons)


def tables_of(groups: Sequence[Group], comparisons: Sequence[Comparison]) -> Iterator[Table]:
    """Yields all tables, including empty ones."""
    yield scores_table(groups)
    yield comparison_table(comparisons)
    yield from glue_tables(groups)
    yield from filter(None, [anli_table(groups)])
    yield calibration_table(groups)
    yield text_attacks_table(groups)
    yield changed_texts_table(groups)
    yield shift_table(groups)
    yield checks_table(groups)
    yield from confusion_tables(groups)
    for varied in VARIED:
        yield ablation_table(groups, varied)
    yield runs_table(groups)
    yield curves_table(groups)


def missing(tables: Sequence[Table], pictures: Sequence[Picture]) -> list[str]:
    """Notes about the parts of a report that there is no data for."""
    have = [*(table.name for table in tables), *(drawn.part for drawn in pictures)]
    absent = (told for part, told in PARTS.items() if not any(name.startswith(part) for name in have))
    return [f"left out: {title} ({reason})" for title, reason in absent]


def render(groups: Sequence[Group], tables: Sequence[Table], pictures: Sequence[Picture], left_out: Sequence[str]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("mat_ds.reports", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"b64": lambda data: base64.b64encode(data).decode(), "file_name": file_name}
    tasks = list(dict.fromkeys(group.task for group in groups))
    return environment.get_template("page.html.jinja").render(
        title=f"mat_ds: {', '.join(tasks)}",
        facts=_facts(groups),
        notes=list(unsaid_options(groups)),
        left_out=left_out,
        first=[table for table in tables if table.shown and table.name not in LAST],
        last=[table for table in tables if table.name in LAST],
        figures={task: [drawn for drawn in pictures if drawn.task == task] for task in tasks},
    )


def _facts(groups: Sequence[Group]) -> dict[str, str]:
    """A summary of the runs, for the top of the page."""
    runs = [run for group in groups for run in group.runs]
    statuses = [run.status for run in runs]
    told = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
    tasks = ", ".join(dict.fromkeys(group.task for group in groups))
    return {
        "runs": f"{len(runs)} ({told}) of {numbered(len(groups), 'experiment')} on {tasks}",
        "seeds": ", ".join(str(seed) for seed in sorted({run.seed for run in runs})),
        "made on": str(date.today()),
    }
