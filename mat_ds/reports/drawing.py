"""The style of figures: colours, markers and lines that remain distinguishable without colour, in print and on a phone."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

# The Okabe-Ito palette without yellow, which is too pale on white.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
PALETTE = (BLUE, "#D55E00", GREEN, "#CC79A7", ORANGE, "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", "-.", ":")
# Colour and hatching of last, best and median.
KIND_COLOURS = {"last": BLUE, "best": ORANGE, "median": GREEN}
KIND_HATCHES = {"last": "", "best": "////", "median": "xxx"}
LINE = 64  # characters of a legend in a line
BESIDE = 26  # characters of a line beside an axis
WIDTH = 5.2  # inches: a phone shrinks it to three quarters, a desktop puts two side by side
SETTINGS: dict[Any, Any] = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "legend.fontsize": 9, "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 5, "axes.titlesize": 10,
    "axes.titlelocation": "left", "hatch.linewidth": 0.5,
    # Names of runs must not be parsed as formulae; the fixed salt makes SVG files reproducible.
    "text.parse_math": False, "svg.hashsalt": "mat_ds", "axes.formatter.use_mathtext": False,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn once for each file that is asked for.

    Attributes:
        figure: laid out by its first drawing.
        task: that it shows.
        part: the part of the report that it belongs to.
        caption: what it shows and how to read it.
    """

    figure: Figure
    task: str
    part: str
    caption: str

    @property
    def name(self) -> str:
        """The name of its files, without suffix."""
        return file_name(f"{self.task}-{self.part}")

    @cached_property
    def png(self) -> bytes:
        """Contents of the PNG file."""
        out = io.BytesIO()
        with house_style():
            self.figure.set_dpi(200)
            # `savefig` would draw everything twice: once to lay it out
            FigureCanvasAgg(self.figure).print_png(out)
        self.figure.set_layout_engine("none")
        return out.getvalue()

    @cached_property
    def svg(self) -> bytes:
        """Contents of the SVG file, laid out like the PNG file."""
        assert self.png
        out = io.BytesIO()
        with house_style():
            FigureCanvasSVG(self.figure).print_svg(out, metadata={"Date": None})
        return out.getvalue()


@contextmanager
def house_style() -> Iterator[None]:
    """A context with the style settings of all figures."""
    with matplotlib.rc_context(SETTINGS):
        yield


def sheet(rows: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with panels below each other; `height` of each in inches."""
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, 1, squeeze=False, **options)[:, 0])


def looks(number: int) -> list[dict[str, Any]]:
    """Distinct combinations of colour, marker and line for a number of series."""
    series = zip(cycle(PALETTE), cycle(MARKERS), cycle(LINES), strict=False)
    return [{"color": color, "marker": marker, "linestyle": line} for color, marker, line in islice(series, number)]


def legend_below(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    """Adds a legend of all panels below the last, with as many columns as fit."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(4, LINE // (8 + longest)))  # a symbol and a gap count as eight
    # Enlarge the figure for it; constrained layout would shrink the panels instead.
    width, height = figure.get_size_inches()
    lines = sum(1 + str(handle.get_label()).count("\n") for handle in handles)
    figure.set_size_inches(width, height + 0.2 * -(-lines // columns) + 0.1)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.2)


def sample(words: str, **look: Any) -> Line2D:
    """A legend entry of a line or marker."""
    return Line2D([], [], label=textwrap.fill(words, LINE), **look)


def picture(figure: Figure, task: str, part: str, title: str, caption: str) -> Picture:
    """A figure with its title, ready to be drawn."""
    figure.suptitle(f"{task}: {title}", x=0.01, horizontalalignment="left", fontsize=11, fontweight="bold")
    return Picture(figure, task, part, f"{task}: {caption}")


def file_name(text: str) -> str:
    """A file name valid on every disk; task names come from users' files."""
    return re.sub(r"[^\w.-]+", "_", text.replace("λ", "lambda"), flags=re.ASCII).lstrip(".")[:100]
