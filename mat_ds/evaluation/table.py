"""The table of an evaluation, as it is printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# What a point is measured at, and counts that stand last.
PLACES, COUNTS = ("radius", "rate"), ("broken", "changed", "examples")


def table_of(report: dict[str, Any]) -> list[list[Any]]:
    """A row of headings and a row per measurement, given the report of `evaluate_subject`."""
    several = len(report["splits"]) > 1
    points = [(split, name, point) for split, found in report["splits"].items() for name, point in _points(found, report)]
    met = dict.fromkeys(key for *_, point in points for key in point if key not in (*PLACES, *COUNTS))
    keys = [*met, *(key for key in COUNTS if any(key in point for *_, point in points))]
    first = ["split"] * several + ["measured"]
    return [[*first, *keys], *([*[split] * several, name, *map(point.get, keys)] for split, name, point in points)]


def _points(found: dict[str, Any], report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the measurements on a split, each with a name that says what was done to its texts or their embeddings."""
    yield "clean", found["clean"]
    yield from ((f"clean, {name}", point) for name, point in found.get("groups", {}).items())
    for point in found["attack"]:
        if point["radius"]:  # at radius 0 it is clean
            yield f"attack, {report['attack']['norm']} {point['radius']:g}", point
    for kind, noisy in found["noise"].items():
        yield from ((f"{kind} {point['rate']:g}", point) for point in noisy)


def calibration_rows(report: dict[str, Any]) -> list[list[Any]]:
    """The calibration of each split as it is, and at the model's temperature; empty if the task has no probabilities."""
    found = {split: one["calibration"] for split, one in report["splits"].items() if "calibration" in one}
    rows = [
        [split, "as it is" if when == "before" else f"at T = {one['temperature']:.3f}", *one[when].values()]
        for split, one in found.items()
        for when in ("before", "after")
        if when in one
    ]
    return [["split", "calibration", *next(iter(found.values()))["before"]], *rows] if found else []


def masking_rows(report: dict[str, Any]) -> list[list[Any]]:
    """What the checks of the attack on embeddings left at each radius on each split; empty if there were none."""
    found = {split: one["masking"] for split, one in report["splits"].items() if "masking" in one}
    points = [(split, point) for split, one in found.items() for point in one["points"]]
    keys = list(dict.fromkeys(key for _, point in points for key in point if key != "radius"))
    rows = [
        [split, f"{report['attack']['norm']} {point['radius']:g}", *map(point.get, keys)]
        for split, one in found.items()
        for point in [*one["points"], *([one["everything"]] if "everything" in one else [])]
    ]
    return [["split", "checks", *keys], *rows] if rows else []


def masking_lines(report: dict[str, Any]) -> list[str]:
    """Whether the checks found signs of gradient masking on each split, in words; empty if there were none."""
    lines = []
    for split, one in report["splits"].items():
        if "masking" in one:
            signs = one["masking"]["signs"]
            lines.append(f"{split}: {'looks like gradient masking' if signs else 'no sign of gradient masking'}")
            lines += [f"  {sign}" for sign in signs]
    return lines


def smoothing_rows(report: dict[str, Any]) -> list[list[Any]]:
    """The certified accuracy of the smoothed classifier at each L2 radius in embedding space; empty if none was certified."""
    rows = [
        [
            split,
            f"L2 {point['radius']:.3g}, sigma {one['sigma']:g}",
            point["certified_accuracy"],
            one["abstained"],
            one["examples"],
        ]
        for split, one in ((split, found["smoothing"]) for split, found in report["splits"].items() if "smoothing" in found)
        for point in one["points"]
    ]
    keys = ("certified_accuracy", "abstained", "examples")
    return [["split", "smoothed, certified in embedding space", *keys], *rows] if rows else []


def text_attack_rows(report: dict[str, Any]) -> list[list[Any]]:
    """What each attack on the text did on each split; empty if there was none."""
    keys = ("examples", "clean", "robust_accuracy", "flip_rate", "queries", "broken")
    rows = [
        [split, name, *map(point.get, keys)]
        for split, found in report["splits"].items()
        for name, point in found.get("text_attacks", {}).items()
    ]
    return [["split", "text attack", *keys], *rows] if rows else []


def invariance_rows(report: dict[str, Any]) -> list[list[Any]]:
    """What came of each test of the model's behaviour, with the first failing case; empty if there was none."""
    keys = ("kind", "cases", "failures", "failure_rate")
    rows = [
        [test["name"], *map(test.get, keys), _told(test["shown"][0]) if test["shown"] else None]
        for test in report.get("invariance", {}).get("tests", ())
    ]
    return [["behaviour test", *keys, "a failing case"], *rows] if rows else []


def _told(case: list[dict[str, Any]]) -> str:
    """A failing case in one line: its texts, each with the answer."""
    told = (f"{' / '.join(each['texts'])!r}: {each['label']} {max(each['probabilities'].values()):.2f}" for each in case)
    return "; ".join(told)
