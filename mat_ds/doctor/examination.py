"""Runs all checks that a rank can make by itself, in the order of the table."""

from __future__ import annotations

import argparse
import socket
from typing import TYPE_CHECKING

from mat_ds.doctor.cards import check_cards, check_precisions, own_cards
from mat_ds.doctor.differences import Answer
from mat_ds.doctor.disks import check_disks
from mat_ds.doctor.inputs import Inputs, check_data, check_inputs, check_model_files, count_model, read_inputs
from mat_ds.doctor.launcher import check_launch, check_limits, check_secrets
from mat_ds.doctor.network import ask_hub, check_hub, check_network
from mat_ds.doctor.packages import check_deepspeed, check_packages, versions
from mat_ds.doctor.rows import Row, brief, collect, warned

if TYPE_CHECKING:
    from mat_ds.ranks.world import World


def examine(parsed: argparse.Namespace, world: World) -> tuple[list[Row], Inputs]:
    """Runs this rank's checks. What all ranks of a node have in common is checked by the first of them.

    Args:
        parsed: the command line.
        world: this rank.

    Returns:
        The rows, and the inputs of the run.
    """
    rows = collect("packages", check_packages)
    rows += collect("devices", check_cards, world) + collect("devices", check_precisions, world)
    inputs = Inputs()
    if world.local_rank == 0:
        try:
            inputs = read_inputs(parsed.recipe, parsed.overrides, parsed.ds_config, world, parsed.plugin)
        except Exception as error:
            inputs.problems.append(warned("options", f"could not be read ({brief(error)})", "mend what failed above first"))
        rows += collect("deepspeed", check_deepspeed)
        rows += collect("disks", check_disks, inputs.folder, count_model(inputs.run), inputs.checkpoints, world)
    rows += collect("launch", check_launch, world) + collect("launch", check_limits, world)
    rows += collect("launch", check_secrets)
    if world.local_rank == 0:
        hub = ask_hub()
        rows += collect("network", check_network, world) + collect("network", check_hub, hub)
        rows += collect("run", check_inputs, inputs)
        if inputs.run:
            rows += collect("run", check_data, inputs.run, hub)
            rows += collect("run", check_model_files, inputs.run, inputs.tree, hub)
    return rows, inputs


def introduce(world: World, rows: list[Row]) -> Answer:
    """This rank's findings, to be sent to rank 0."""
    try:
        cards = [(card.name, card.capability) for card in own_cards(world)]
    except Exception:  # check_cards has a row about it
        cards = []
    return Answer(world.rank, socket.gethostname(), versions(), cards, rows)
