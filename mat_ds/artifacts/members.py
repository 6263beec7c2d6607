"""The members of a mixture: snapshots, one folder each, in `snapshots/` beside the `model/` of a run: `step-<n>`, or
`step-<n>-chain-<i>` of each of several chains of the parameters.

They are model folders or adapters; those of a registered model hold only the tensors in which they differ from `model/`
(`mat_ds.artifacts.member_weights`).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mat_ds.errors import Problem, UserError
from mat_ds.storage.checkpoints import name_of, step_of
from mat_ds.storage.disk import remove
from mat_ds.storage.folders import clear, restore

# Beside them: when their mixture abstains (`mat_ds.evaluation.abstention`).
SNAPSHOTS, ABSTENTION = "snapshots", "abstention.json"


def member_names(step: int, chains: int | None = None) -> list[str]:
    """Names of the folders of the members after a step: the run's parameters, or those of each of so many chains."""
    return [name_of(step)] if chains is None else [f"{name_of(step)}-chain-{chain}" for chain in range(chains)]


def step_of_member(name: str) -> int | None:
    """The step in the name of a member's folder; None if it is not such a name."""
    step, dash, chain = name.partition("-chain-")
    return step_of(step) if not dash or (chain.isascii() and chain.isdecimal()) else None


def listed(snapshots: Path) -> dict[str, Path]:
    """The snapshots in a folder by their names, in the order of their steps; empty if there is no such folder."""
    found = [path for path in (snapshots.iterdir() if snapshots.is_dir() else ()) if step_of_member(path.name)]
    ordered = sorted(found, key=lambda path: (step_of_member(path.name), len(path.name), path.name))
    return {path.name: path for path in ordered if path.is_dir() and not path.is_symlink()}


def keep_only(snapshots: Path, steps: Collection[int]) -> None:
    """Removes all snapshots but those of some steps, and what a process that died has left; no other may be writing there."""
    for name in {hidden.name[1:].partition(".")[0] for hidden in snapshots.glob(".step-*.*")}:
        restore(snapshots / name)
        clear(snapshots / name, alone=True)
    (snapshots / ABSTENTION).unlink(missing_ok=True)  # it is of other members
    for name, path in listed(snapshots).items():
        if step_of_member(name) not in steps:
            remove(path)


def members_of(folder: Path, name: str) -> list[Path]:
    """The folders of the members that belong to a model.

    Args:
        folder: of the model.
        name: of the model in messages.

    Raises:
        UserError: if it has none.
    """
    if not (found := list(listed(folder.parent / SNAPSHOTS).values())):
        raise UserError(Problem("mixture", True, f"{name} has no snapshots, which are its members",
                                "train it with train.snapshots=8, or ask for the model alone"))  # fmt: skip
    return found
