"""`mat-ds doctor`: checks machine, packages, network and a run's input, and says what is wrong and how to fix it."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from mat_ds.config.packaged import DS_CONFIGS, USUAL, add_file_arguments
from mat_ds.doctor.cards import check_cards, check_noise, check_precisions, own_cards
from mat_ds.doctor.consultation import follow, lead, part
from mat_ds.doctor.differences import Answer, mixed_cards
from mat_ds.doctor.disks import check_disks
from mat_ds.doctor.inputs import Inputs, check_data, check_inputs, check_model_files, count_model, half, read_inputs
from mat_ds.doctor.launcher import check_launch, check_limits, check_own_card, check_secrets
from mat_ds.doctor.meeting import Meeting
from mat_ds.doctor.network import check_hub, check_network
from mat_ds.doctor.packages import check_deepspeed, check_packages, versions
from mat_ds.doctor.rows import Row, Status, brief, collect, failed, from_problem, passed, warned
from mat_ds.doctor.table import as_json, as_text, merge, worst
from mat_ds.errors import ExitCode, UserError
from mat_ds.ranks.exits import configure_process, report_problems
from mat_ds.runs.trainer_names import renamed
from mat_ds.tasks.hub import ask_hub
from mat_ds.terminal.display import show as say
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import run_process
from mat_ds.terminal.units import duration, scaled
from mat_ds.terminal.waiting import waiting

if TYPE_CHECKING:
    from mat_ds.ranks.world import World

EXAMPLE = "deepspeed --module mat_ds.commands.doctor --ds_config zero2 --recipe cola data.path=data"
TIMEOUT_SECONDS = 60.0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("doctor", __doc__, EXAMPLE, renamed)
    add_file_arguments(parser, ds_config=None)
    add_plugin_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for a rank, and for each collective (%(default).0f)",
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of the run, which win over the recipe")
    parsed = parser.parse_intermixed_args(arguments)
    if wrong := [argument for argument in parsed.overrides if "=" not in argument]:
        parser.error(f"neither a flag nor key=value: {' '.join(wrong)}")
    if parsed.ds_config is None and (parsed.recipe or parsed.overrides):
        parsed.ds_config = DS_CONFIGS.path(USUAL)
    if parsed.timeout <= 0:
        parser.error(f"--timeout {parsed.timeout} must be greater than 0")
    return parsed


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command on this rank and returns its exit code."""
    warnings.filterwarnings("ignore")
    with redirect_stdout(sys.stderr):  # packages may print while they are checked
        world, lost = find_world()
        try:
            parsed = parse(arguments)
        except UserError as error:
            return report_problems(error, world)
        lost += collect("launch", check_own_card, world) if world.size > 1 else []
        meeting = None if lost or world.size == 1 else open_meeting(world, parsed.timeout, lost)
        with waiting("looking at packages, devices, network and input", world.rank == 0):
            rows, inputs = examine(parsed, world)
        me = introduce(world, [replace(row, ranks=(world.rank,)) for row in [*rows, *lost]])
        if world.rank > 0:
            code, ended = _attend(meeting, world, me, parsed.timeout)
            return leave(code, ended)
        if meeting:
            answers, more, ended, between = lead(meeting, world, me, inputs.folder, half(inputs.tree), parsed.timeout)
            more += collect("ranks", worth_of_chains, inputs, world, between)
        else:
            answers, more, ended = [me], collect("devices", mixed_cards, [me]), True
    code = print_findings(answers, more, parsed.json)
    if meeting:
        part(meeting, world, code)
    return leave(code, ended)


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
    rows += collect("devices", check_noise, world)
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


def worth_of_chains(inputs: Inputs, world: World, between: float | None) -> Iterator[Row]:
    """Says what a chain of the parameters on each node is worth to a run, if its method has chains and all is known.

    Args:
        between: bytes per second of the slowest link between nodes; None if there is none.
    """
    run, tree = inputs.run, inputs.tree
    even = world.size % world.local_size == 0
    if (
        run is None
        or tree is None
        or inputs.problems
        or not between
        or not even
        or "chains" not in type(run.method).model_fields
    ):
        return
    from mat_ds.models.tiny import TINY
    from mat_ds.planning.crossing import crossing
    from mat_ds.tasks.own_data import task_of

    if run.model.name == TINY:  # whose size depends on the texts of the task
        return
    with suppress(UserError):  # the model is not here; `check_model_files` says so
        found = crossing(run, tree, task_of(run.task, run.data), world)
        one, per_node = (f"{scaled(size, 'B')}, {duration(size / between)}" for size in found)
        sent = run.method.divided.compression
        how = f" method.chains_compression={sent}" if sent != "none" else ""
        how += f" every {steps} outer steps" if (steps := run.train.local_steps) > 1 else ""
        fewer = "" if sent != "none" else "; method.chains_compression=bf16 half of that, int8 a quarter"
        yield passed(
            "chains", f"an outer step sends at least {one} between nodes, with method.chains=per_node{how} {per_node}{fewer}",
            "chains are another algorithm than one chain: compare their dev scores before you choose them",
        )  # fmt: skip


def introduce(world: World, rows: list[Row]) -> Answer:
    """This rank's findings, to be sent to rank 0."""
    try:
        cards = [(card.name, card.capability) for card in own_cards(world)]
    except Exception:  # check_cards has a row about it
        cards = []
    return Answer(world.rank, socket.gethostname(), versions(), cards, rows)


def find_world() -> tuple[World, list[Row]]:
    """This rank's `World`, and rows about what keeps it from being determined (then it counts as the only rank)."""
    try:
        from mat_ds.ranks.world import World

        world = World.from_environment()
        with suppress(Exception):
            configure_process()
        return world, []
    except Exception as error:  # psutil cannot be imported, or a launcher's variable is invalid
        rank = int(number) if (number := os.environ.get("RANK", "0")).isdecimal() else 0
        rows = [
            failed("ranks", f"cannot be determined ({brief(error)})", "mend it, and start ranks with deepspeed or torchrun")
        ]
        if isinstance(error, UserError):
            rows = [from_problem(problem) for problem in error.problems]
        alone = cast("World", SimpleNamespace(rank=rank, size=1, local_rank=0, local_size=1))
        return alone, [replace(row, group="launch") for row in rows]


def open_meeting(world: World, seconds: float, lost: list[Row]) -> Meeting | None:
    """Connects all ranks through rank 0's store, before anything else. Appends failures to `lost` and returns None."""
    try:
        return Meeting(world, seconds)
    except Exception as error:
        at = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        if world.rank == 0:
            row = failed("meeting", f"rank 0 cannot listen at {at} ({brief(error)})", "use another MASTER_PORT")
        else:
            row = failed(
                "meeting",
                f"rank 0 cannot be reached at {at} within {seconds:.0f} s ({brief(error)})",
                "check that MASTER_ADDR is rank 0's node as seen from here, and that no firewall blocks it",
            )
        lost.append(replace(row, group="launch"))
        return None


def _attend(meeting: Meeting | None, world: World, me: Answer, seconds: float) -> tuple[ExitCode, bool]:
    """Runs a rank other than 0: follows rank 0's instructions, or prints its own failures if rank 0 cannot be reached."""
    rows = [row for row in me.rows if row.status is Status.FAIL]
    if meeting:
        try:
            return follow(meeting, world, me, seconds)
        except Exception as error:
            rows.append(failed("meeting", f"rank 0 is gone ({brief(error)})", "see its output"))
    say("\n".join(f"rank {me.rank} on {me.host}: {row.name}: {row.found}\n    fix: {row.fix}" for row in rows), sys.stderr)
    return ExitCode.FAILED, True


def print_findings(answers: list[Answer], more: list[Row], as_a_program: bool) -> ExitCode:
    """Prints the results of all ranks and returns the exit code."""
    hosts = {answer.rank: answer.host for answer in answers}
    rows = merge([*(row for answer in answers for row in answer.rows), *more])
    names = sorted(set(hosts.values()))
    title = f"mat-ds doctor: {', '.join(names)}" + (f", {len(answers)} ranks" if len(answers) > 1 else "")
    print(as_json(rows, hosts) if as_a_program else as_text(title, rows, hosts), flush=True)
    return ExitCode.FAILED if worst(rows) is Status.FAIL else ExitCode.OK


def leave(code: ExitCode, ended: bool) -> ExitCode:
    """Returns the exit code; if a collective still hangs in a thread, exits the process, since the thread cannot be stopped."""
    if not ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    run_process(main)
