"""Compares experiments on the same dev set with one of them, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mat_ds.errors import Problem, UserError
from mat_ds.reports.answers import ACCURACY, NLL, SQUARED, Answers, answers_of
from mat_ds.reports.groups import Group
from mat_ds.reports.labels import group_runs
from mat_ds.reports.paired import LEVEL, Paired, holm, paired
from mat_ds.reports.runs import RunData, each_once, read_runs

SCORE = "score at the last step"
# A point is a hundredth: of a share, and of the NLL, where it is a hundredth of the likelihood of the right label.
POINTS = {SCORE: 100.0, ACCURACY: 100.0, NLL: 100.0, SQUARED: 1.0}


@dataclass(frozen=True)
class Comparison:
    """One quantity of one experiment, less that of another.

    Attributes:
        task: of both.
        label, against: of the two experiments.
        quantity: what is compared; in points where `in_points`.
        seeds: that both have.
        found: the statistics of the differences.
        margin: the difference that does not matter; None if the quantity is not in points.
        corrected: p of the sign-flip test, corrected for all comparisons of a report; None for too few seeds.
    """

    task: str
    label: str
    against: str
    quantity: str
    seeds: tuple[int, ...]
    found: Paired
    margin: float | None
    corrected: float | None = None

    @property
    def title(self) -> str:
        return f"{self.label} − {self.against}"

    @property
    def less_is_better(self) -> bool:
        return self.quantity in (NLL, SQUARED)

    @property
    def verdict(self) -> str:
        """What the numbers allow to say, at the level 0.05."""
        if self.found.p is None:
            return "too few seeds" + (f": {self._needed}" if self._needed else "")
        better = (self.found.mean > 0) != self.less_is_better
        words = []
        if self.corrected is not None and self.corrected < LEVEL:
            words.append("better" if better else "worse")
        if self.found.equivalence is not None and self.found.equivalence < LEVEL:
            words.append(f"within {self.margin:g}")
        return " but ".join(words) or "undecided" + (f": {self._needed}" if self._needed else "")

    @property
    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        found = asdict(self)
        return {**found, **found.pop("found"), "mean": self.found.mean, "verdict": self.verdict}

    @property
    def _needed(self) -> str:
        if self.found.needed is None or self.margin is None:
            return ""
        return f"±{self.margin:g} takes {self.found.needed} seeds" if self.found.needed else "the dev set is too small"

    @property
    def estimate(self) -> str:
        """The mean difference and its interval; of too few seeds the differences themselves."""
        if self.found.low is None:
            return ", ".join(f"{value:+.2f}" for value in self.found.differences)
        return f"{self.found.mean:+.2f} [{self.found.low:+.2f}, {self.found.high:+.2f}]"


def compare_groups(groups: Sequence[Group], against: Path | None, margin: float) -> list[Comparison]:
    """Compares each experiment with the reference of its task and dev set, quantity by quantity.

    Args:
        groups: in the order of tables.
        against: a folder whose runs are the reference; None: the first experiment of each task and dev set.
        margin: points that do not matter.

    Raises:
        UserError: if `against` holds no run, or several experiments on one dev set, or predictions are damaged.
    """
    found = [one for reference, group in _with_reference(groups, against) for one in _compare(reference, group, margin)]
    tested = [one.found.p for one in found if one.found.p is not None]
    corrected = iter(holm(tested))
    return [one if one.found.p is None else replace(one, corrected=next(corrected)) for one in found]


def compare_folders(own: Path, against: Path, margin: float) -> list[Comparison]:
    """Compares the runs of one folder with those of another, as `compare_groups` does.

    Returns:
        Nothing if no two have a dev set and a seed in common.

    Raises:
        UserError: as `compare_groups`; also if a folder has no run, or one that cannot be read.
    """
    runs, _ = each_once(read_runs([own, against]))
    groups = group_runs(runs)
    mine = {group.label for group in groups if _is_in(own, group)}
    return [one for one in compare_groups(groups, against, margin) if one.label in mine]


def _with_reference(groups: Sequence[Group], against: Path | None) -> Iterator[tuple[Group, Group]]:
    places: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.finished and group.values("last") and (dev := group.counted[0].results.get("dev_sha256")):
            places.setdefault((group.task, str(dev)), []).append(group)
    if against and not any(_is_in(against, group) for group in groups):
        raise UserError(Problem("--against", str(against), "holds none of the runs", "pass the folder of some runs"))
    for (task, _), own in places.items():
        references = [group for group in own if _is_in(against, group)] if against else own[:1]
        if len(references) > 1:
            held = ", ".join(group.label for group in references)
            fix = "pass the folder of one of them"
            raise UserError(Problem("--against", str(against), f"holds several experiments on {task}: {held}", fix))
        yield from ((reference, group) for reference in references for group in own if group is not reference)


def _is_in(folder: Path | None, group: Group) -> bool:
    return folder is not None and any(run.folder and run.folder.is_relative_to(folder.resolve()) for run in group.counted)


def _compare(reference: Group, group: Group, margin: float) -> Iterator[Comparison]:
    """Score at the last step, over the seeds; what the predictions measure, over seeds and examples."""
    theirs = {run.seed: run for run in reference.counted}
    pairs = {
        run.seed: (run, theirs[run.seed])
        for run in group.counted
        if run.seed in theirs and _comparable_runs(run, theirs[run.seed])
    }
    if not pairs:
        return
    share = group.counted[0].factor() == 100
    scores = np.array([run.scores["last"]["score"] - other.scores["last"]["score"] for run, other in pairs.values()])
    differences = {SCORE: scores * (POINTS[SCORE] if share else 1.0)}
    answers = [(answers_of(run), answers_of(other)) for run, other in pairs.values()]
    differences |= {
        name: POINTS[name] * found for name in (ACCURACY, NLL, SQUARED) if (found := _by_example(answers, name)) is not None
    }
    for name, found in differences.items():
        own = margin if name in (ACCURACY, NLL) or (name == SCORE and share) else None
        yield Comparison(group.task, group.label, reference.label, name, tuple(pairs), paired(found, own), own)


def _comparable_runs(run: RunData, other: RunData) -> bool:
    same = run.results.get("dev_sha256") == other.results.get("dev_sha256")
    return same and all("score" in one.scores.get("last", {}) for one in (run, other))


def _by_example(answers: Sequence[tuple[Answers | None, Answers | None]], name: str) -> np.ndarray | None:
    """The differences (seeds, examples); None unless all runs have answered the same examples."""
    rows = []
    for mine, other in answers:
        if mine is None or other is None or name not in mine.measured or name not in other.measured or mine.gold != other.gold:
            return None
        rows.append(mine.measured[name] - other.measured[name])
    return np.array(rows) if len({row.shape for row in rows}) == 1 else None
