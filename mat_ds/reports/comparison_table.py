"""Comparisons as a table, and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mat_ds.reports.comparison import SCORE, Comparison
from mat_ds.reports.paired import FEWEST
from mat_ds.reports.table import Column, Row, Table, text

NOTE = (
    "Each experiment less the first on its dev set, or less that of --against, seed by seed. In points: hundredths of a score "
    "or an accuracy, or of the NLL in nats, of which less is better. Intervals (95%) of the score are over the seeds, those of "
    "the exported model's accuracy, NLL or squared error over seeds and examples, both taken as drawn. p: sign-flip test over "
    "the seeds, by Holm's method corrected for the whole table; 5 seeds never come below 0.06. p, margin: two one-sided tests "
    f"that the difference is the margin or more. Of fewer than {FEWEST} seeds the values alone are shown. Seeds needed: for an "
    "interval no wider than the margin to each side, given the spread seen; 0: none, as the examples are too few."
)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """All comparisons, with what they were computed from in the CSV file."""
    rows: list[Row] = [
        {
            "task": one.task, "comparison": one.title, "quantity": one.quantity, "seeds": str(len(one.seeds)),
            "difference": one.found.mean if one.found.low is not None else None,
            "low": one.found.low, "high": one.found.high, "estimate": one.estimate, "p": one.found.p, "Holm": one.corrected,
            "equivalence": one.found.equivalence, "needed": one.found.needed, "verdict": one.verdict,
        }
        for one in comparisons
    ]  # fmt: skip
    columns = (
        *(text(name, name) for name in ("comparison", "task", "quantity", "seeds")),
        Column("difference", ("difference", "low", "high"), shown="estimate"),
        Column("p", ("p",), digits=4),
        Column("p, Holm", ("Holm",), digits=4),
        Column("p, margin", ("equivalence",), digits=4),
        text("at 0.05", "verdict"),
        Column("seeds needed", ("needed",), digits=0),
    )
    return Table("differences", "Differences, seed by seed", columns, rows, NOTE)


def comparison_lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """A line for each comparison of scores."""
    for one in comparisons:
        if one.quantity == SCORE:
            tested = "" if one.found.p is None or one.corrected is None else f", p {one.found.p:.3g}, Holm {one.corrected:.3g}"
            seeds = f"{len(one.seeds)} seed{'s' if len(one.seeds) > 1 else ''}"
            yield f"{one.task}: {one.title}: {one.estimate}, {seeds}{tested}: {one.verdict}"
