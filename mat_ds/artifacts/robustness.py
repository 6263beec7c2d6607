"""The section "Robustness" of a model card: what evaluations of the model found, and what a gate required."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mat_ds.artifacts.confusion import markdown

Report = Mapping[str, Any]
# Rows of a table by what each is of, which a later measurement of the same replaces.
Rows = dict[tuple[str, ...], Mapping[str, Any]]
BEFORE, GATE = "\n## Method and settings\n", "\n### The gate\n"
SECTION, GATED = re.compile(r"\n## Robustness\n.*?(?=\n## |\Z)", re.S), re.compile(r"\n### The gate\n.*", re.S)
CALIBRATION = ("nll", "brier", "ece", "ece_adaptive", "aurc")
INTRODUCTION = """
## Robustness

Measured by `mat-ds evaluate` on these weights; of several measurements of one kind that on most examples, of equals the
newest. "Success" is the share of right answers that an attack made wrong, "queries" how many texts it asked the model about for
each. That no attack here breaks the model does not say that none does.

"""
CERTIFICATE = """
Certified accuracy of the classifier that votes under Gaussian noise on the word embeddings: a certificate in embedding space,
which says nothing about the model without noise, nor about texts.

"""


def with_robustness(card: str, section: str) -> str:
    """The text of a card with this section in the place of the one it has; with none if it is empty."""
    without = SECTION.sub("", card)
    if not section:
        return without
    place = without.find(BEFORE)
    head, tail = (without[:place], without[place:]) if place >= 0 else (without.rstrip("\n") + "\n", "")
    return f"{head}{section}{tail}"


def with_gate(card: str, report: Report) -> str:
    """The text of a card with what the gate of a report required; all of the report where the card has no robustness yet."""
    found = SECTION.search(card)
    if found is None:
        return with_robustness(card, robustness_text([report]))
    return with_robustness(card, GATED.sub("", found.group()).rstrip("\n") + "\n" + _gate_text([report]))


def robustness_text(reports: Sequence[Report]) -> str:
    """The section, given reports of `mat-ds evaluate`, the oldest first; empty if there is none."""
    if not reports:
        return ""
    parts = [
        _measurements(reports),
        _masking(reports),
        _calibration(reports),
        _certificates(reports),
        _tests(reports),
        _gate_text(reports),
    ]
    return INTRODUCTION + "".join(parts)


def _table(head: Sequence[str], rows: Rows, columns: Mapping[str, str]) -> str:
    """A table with a row of headings; empty if there are no rows.

    Args:
        head: headings of what the rows are of.
        columns: headings of the numbers, by their key.
    """
    titles = [*head, *columns.values()]
    lines = [titles, ["---"] * len(titles)]
    lines += [[*map(markdown, what), *(_as_cell(found.get(key)) for key in columns)] for what, found in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) if rows else ""


def _as_cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else markdown(str(value))


def _splits(reports: Sequence[Report]) -> Iterator[tuple[Report, str, Any]]:
    yield from ((report, split, found) for report in reports for split, found in report["splits"].items())


def _no_smaller(new: Rows, old: Rows) -> Rows:
    """The new rows that were measured on as many examples as those they replace, or more: a gate often takes a few."""
    return {what: row for what, row in new.items() if (row["examples"] or 0) >= (old.get(what, {}).get("examples") or 0)}


def _measurements(reports: Sequence[Report]) -> str:
    rows: Rows = {}
    for report, split, found in _splits(reports):
        size = {"examples": report.get("data", {}).get("examples", {}).get(split)}
        norm = str(report["attack"]["norm"])
        here: Rows = {(split, "as it is"): size | found["clean"]}
        here |= {(split, f"embeddings, {norm} {one['radius']:g}"): size | one for one in found["attack"] if one["radius"]}
        for kind, points in found["noise"].items():
            here |= {(split, f"noise, {kind} {point['rate']:g}"): size | point for point in points}
        for name, one in found.get("text_attacks", {}).items():
            here[split, f"attack, {name}"] = {**one, "accuracy": one["robust_accuracy"]}
        rows |= _no_smaller(here, rows)
    apart = {"radius", "rate", "broken", "changed", "examples"}
    scores = [key for (_, what), row in rows.items() if not what.startswith("attack, ") for key in row if key not in apart]
    named = dict.fromkeys([*scores, *(["accuracy"] if any("flip_rate" in row for row in rows.values()) else [])])
    order = list(dict.fromkeys(split for split, _ in rows))
    rows = dict(sorted(rows.items(), key=lambda row: order.index(row[0][0])))  # splits apart, whichever report they are from
    shown = {"examples": "examples", **{name: name for name in named}, "flip_rate": "success", "queries": "queries"}
    used = {key: title for key, title in shown.items() if any(row.get(key) is not None for row in rows.values())}
    return _table(("split", "measured"), rows, used)


def _masking(reports: Sequence[Report]) -> str:
    newest = {split: found["masking"]["signs"] for _, split, found in _splits(reports) if found.get("masking")}
    said = {split: "; ".join(map(markdown, signs)) or "none was found" for split, signs in newest.items()}
    return "".join(f"\nSigns of gradient masking on {markdown(split)}: {signs}.\n" for split, signs in said.items())


def _calibration(reports: Sequence[Report]) -> str:
    rows: Rows = {}
    for report, split, found in _splits(reports):
        size = {"examples": report.get("data", {}).get("examples", {}).get(split)}
        shift, attacks = found.get("shift", {}), found.get("text_attacks", {})
        here: Rows = {(split, "as they are"): size | found["calibration"]["before"]} if found.get("calibration") else {}
        for kind, points in shift.get("noise", {}).items():
            here |= {(split, f"{kind} {point['rate']:g}"): size | point for point in points}
        for name, quality in shift.get("text_attacks", {}).items():
            here[split, name] = {"examples": attacks.get(name, {}).get("examples"), **quality}
        rows |= _no_smaller(here, rows)
    table = _table(("split", "calibration on texts"), rows, {name: name for name in CALIBRATION})
    return f"\n{table}" if any(texts != "as they are" for _, texts in rows) else ""


def _certificates(reports: Sequence[Report]) -> str:
    newest = {split: found["smoothing"] for _, split, found in _splits(reports) if found.get("smoothing")}
    rows: Rows = {
        (split, f"{point['radius']:.3g}", f"{one['sigma']:g}"): {"examples": one["examples"], **point}
        for split, one in newest.items()
        for point in one["points"]
    }
    columns = {"examples": "examples", "certified_accuracy": "certified accuracy"}
    return CERTIFICATE + _table(("split", "L2 radius", "noise"), rows, columns) if rows else ""


def _tests(reports: Sequence[Report]) -> str:
    rows: Rows = {}
    for report in reports:
        rows |= {(test["name"], test["kind"]): test for test in (report.get("invariance") or {}).get("tests", ())}
    columns = {name: name.replace("_", " ") for name in ("cases", "failures", "failure_rate")}
    return "\n" + _table(("behaviour test", "kind"), rows, columns) if rows else ""


def _gate_text(reports: Sequence[Report]) -> str:
    """What the newest gate among reports required and found; empty if there is none."""
    gate = next((report["gate"] for report in reversed(reports) if report.get("gate")), None)
    if gate is None:
        return ""
    rows: Rows = {
        (entry["condition"], where): {
            "found": found,
            "champion": entry.get("champion", {}).get(where),
            "met": _yes(entry["met"]),
        }
        for entry in gate["required"]
        for where, found in entry["found"].items()
    }
    compared = {"champion": "champion"} if any(row["champion"] is not None for row in rows.values()) else {}
    table = _table(("required", "on"), rows, {"found": "found", **compared, "met": "met"})
    return f"{GATE}\nThe gate was {'met' if gate['met'] else '**not** met'}.\n\n{table}"


def _yes(met: bool) -> str:
    return "yes" if met else "no"
