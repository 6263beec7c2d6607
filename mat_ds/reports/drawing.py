"""How figures look: colours, markers and lines that can be told apart without colour, in print and on a phone."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

# Okabe and Ito's colours, without the yellow, which is pale on white.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
PALETTE = (BLUE, "#D55E00", GREEN, "#CC79A7", ORANGE, "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", "-.", ":")
# last, best, median: colour, hatching, line, and how a marker is filled.
KIND_COLOURS = {"last": BLUE, "best": ORANGE, "median": GREEN}
KIND_HATCHES = {"last": "", "best": "////", "median": "xxx"}
KIND_LINES = {"last": "--", "best": ":", "median": "-"}
LINE = 64  # characters of a legend in a line
BESIDE = 26  # characters of a line beside an axis
WIDTH = 5.2  # inches: a phone shrinks it to three quarters, a desktop puts two side by side
SETTINGS: dict[Any, Any] = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "legend.fontsize": 9, "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 5, "axes.titlesize": 10,
    "axes.titlelocation": "left", "hatch.linewidth": 0.5,
    # Names of runs are no formulae; files are the same whenever they are drawn.
    "text.parse_math": False, "svg.hashsalt": "mat_ds", "axes.formatter.use_mathtext": False,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
        name: of its files.
        task: whose it is.
        part: which question of a report it answers.
        caption: what it shows and how to read it.
        svg, png: the files' contents.
    """

    name: str
    task: str
    part: str
    caption: str
    svg: bytes
    png: bytes


@contextmanager
def house_style() -> Iterator[None]:
    """Figures made within it look alike."""
    with matplotlib.rc_context(SETTINGS):
        yield


def sheet(rows: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of panels, one below the other, each of a height in inches."""
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, 1, squeeze=False, **options)[:, 0])


def looks(number: int) -> list[dict[str, Any]]:
    """Colour, marker and line of so many series, no two alike."""
    series = zip(cycle(PALETTE), cycle(MARKERS), cycle(LINES), strict=False)
    return [{"color": color, "marker": marker, "linestyle": line} for color, marker, line in islice(series, number)]


def legend_below(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    """The legend of all panels, below the last, in as many columns as its words leave room for."""
    columns = next(columns for columns in (4, 3, 2, 1) if columns == 1 or _length(handles, columns) <= LINE)
    # Room for it: constrained layout would take it from the panels.
    width, height = figure.get_size_inches()
    lines = sum(1 + str(handle.get_label()).count("\n") for handle in handles)
    figure.set_size_inches(width, height + 0.2 * -(-lines // columns) + 0.1)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.2)


def _length(handles: Sequence[Line2D | Patch], columns: int) -> int:
    """Characters of a line of the legend, which is filled column by column; samples and gaps count as eight."""
    parts = np.array_split([len(str(handle.get_label())) for handle in handles], columns)
    return sum(8 + int(part.max()) for part in parts if len(part))


def sample(words: str, **look: Any) -> Line2D:
    """A line or a marker in a legend."""
    return Line2D([], [], label=textwrap.fill(words, LINE), **look)


def filled(kind: str, color: str) -> dict[str, Any]:
    """How a marker of last, best or median is filled: half, not at all, wholly."""
    return {
        "color": color,
        "fillstyle": "left" if kind == "last" else "full",
        "markerfacecoloralt": "white",
        "markerfacecolor": "white" if kind == "best" else color,
    }


def fewer(shown: int, whole: int) -> str:
    """What a caption says of a figure that shows the best of the experiments; nothing, where it shows all."""
    return f" Of {whole} experiments the {shown} with the highest median scores." if shown < whole else ""


def number(value: float, _: object = None) -> str:
    """A tick's number, as short as it can be told."""
    return f"{value:g}"


def picture(figure: Figure, task: str, part: str, caption: str) -> Picture:
    """The figure as files; it must have been made in the house style, and this be called within it."""
    files = {}
    for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 200})):
        out = io.BytesIO()
        figure.savefig(out, format=kind, **options)
        files[kind] = out.getvalue()
    return Picture(file_name(f"{task}-{part}"), task, part, f"{task}: {caption}", files["svg"], files["png"])


def file_name(text: str) -> str:
    """A name that is one on every disk: tasks are called what their files say."""
    return re.sub(r"[^\w.-]+", "_", text.replace("λ", "lambda"), flags=re.ASCII).lstrip(".")[:100]
