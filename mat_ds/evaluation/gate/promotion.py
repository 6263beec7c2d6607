"""The gate of a registry: a version is measured beside the one it would replace, on the same examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mat_ds.config.versions import version_of
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.evaluation.gate.conditions import Condition, unmeasured_problems
from mat_ds.evaluation.gate.verdict import Gate, Numbers, numbers_required
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.request import find_subject
from mat_ds.evaluation.robustness import evaluate_subject
from mat_ds.evaluation.subject import Subject, load_subject
from mat_ds.ranks.world import World
from mat_ds.registry.versions import PREFIX, Registered, download
from mat_ds.storage.disk import write_json
from mat_ds.tasks.kinds import kind_of
from mat_ds.terminal.display import Display

# Tags of a version, without their prefix.
FOUND, MEASURED_AS = "gate.found", "gate.measured_as"


@dataclass(frozen=True)
class VersionGate:
    """What a version must reach.

    Attributes:
        conditions: on its numbers.
        options: of the evaluation, with all that the conditions need.
        uri: the registry.
        scratch: a folder for reports.
    """

    conditions: Sequence[Condition]
    options: EvaluationOptions
    uri: str | None
    scratch: Path

    def load(self, entry: Registered) -> tuple[Subject, EvaluationOptions]:
        """A version to be measured, and the options to do it with.

        Raises:
            UserError: naming every problem with it and its data.
        """
        name = f"models:/{entry.name}/{entry.version}"
        options = self.options.model_copy(update={"output_dir": str(self.scratch / f"version-{entry.version}")})
        asked = replace(find_subject(str(download(name, self.uri)), options), name=name)
        raise_if_any(unmeasured_problems(self.conditions, kind_of(asked.spec), options, asked.test_names))
        return load_subject(asked, options), options

    def champions_numbers(
        self, champion: Registered, candidate: Subject, world: World, device: torch.device, display: Display
    ) -> Numbers:
        """What the conditions are about, of the version in place: as an earlier gate stored it, if that measured the same.

        Args:
            candidate: what it is compared with, on the same examples.

        Raises:
            UserError: also if its task reads other examples.
        """
        tests = candidate.invariance.sha256 if candidate.invariance else None
        stored = _stored_numbers(champion, self.measured_as(candidate.data_sha256, tests))
        if stored is not None and {one.subject for one in self.conditions} <= stored.keys():
            return stored
        display.say(f"measuring version {champion.version}, which it would replace")
        subject, options = self.load(champion)
        if subject.data_sha256 != candidate.data_sha256:
            reason = f"version {champion.version} is of another task or reads other columns: no example is the same"
            raise UserError(Problem("VERSION", champion.version, reason, "pass --force to leave the comparison out"))
        report = evaluate_subject(subject, options, world, device, display)
        return numbers_required(self.conditions, subject.spec, report)

    def measure(
        self, subject: Subject, options: EvaluationOptions, champion: Numbers | None, world: World, device: torch.device,
        display: Display,
    ) -> dict[str, Any]:  # fmt: skip
        """The report of a version with its `gate`, also as `robustness.json` in its `folder`."""
        report = evaluate_subject(subject, options, world, device, display, Gate(self.conditions, champion))
        report["options"] = self.options.model_dump(mode="json")  # not the folder here, which nobody else has
        write_json(Path(report["folder"]) / "robustness.json", {key: report[key] for key in report if key != "folder"})
        return report

    def measured_as(self, data_sha256: str, tests_sha256: str | None) -> str:
        """A digest of all that numbers of one model depend on: examples, tests of behaviour, options, version of mat_ds."""
        options = self.options.model_dump(mode="json", exclude={"output_dir": True, "data": {"path", "validation"}})
        parts = [
            data_sha256,
            json.dumps(options, sort_keys=True),
            version_of("mat_ds"),
            *([tests_sha256] if tests_sha256 else []),
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def tags(self, report: dict[str, Any]) -> dict[str, str]:
        """What is stored with a version, given its report."""
        required = report["gate"]["required"]
        found = {one.subject: entry["found"] for one, entry in zip(self.conditions, required, strict=True)}
        return {
            "gate.met": str(report["gate"]["met"]).lower(),
            "gate.required": ", ".join(entry["condition"] for entry in required),
            FOUND: json.dumps(found),
            MEASURED_AS: self.measured_as(report["data"]["sha256"], report.get("invariance", {}).get("sha256")),
            "gate.data_sha256": report["data"]["sha256"],
        }


def _stored_numbers(entry: Registered, measured_as: str) -> dict[str, dict[str, float | None]] | None:
    """What a gate stored with a version; None if it measured otherwise, or somebody else wrote the tag."""
    if entry.tags.get(PREFIX + MEASURED_AS) != measured_as:
        return None
    try:
        found = json.loads(entry.tags.get(PREFIX + FOUND, ""))
        return {
            str(subject): {str(split): None if value is None else float(value) for split, value in by_split.items()}
            for subject, by_split in found.items()
        }
    except (ValueError, TypeError, AttributeError):
        return None
