"""`mat-ds soup`: averages the weights of finished runs into one model, and scores it on their dev splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.ranks.exits import as_rank, compute_deterministically
from mat_ds.ranks.processors import share_processors
from mat_ds.ranks.world import World
from mat_ds.runs.plugins import load_plugins
from mat_ds.terminal.display import show
from mat_ds.terminal.layout import table_text
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing

EXAMPLE = "mat-ds soup runs/cola-1 runs/cola-2 runs/cola-3 models/cola-soup --greedy"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    return as_rank(lambda world: _soup(arguments, world))


def _soup(arguments: Sequence[str], world: World) -> ExitCode:
    parser = Parser("soup", __doc__, EXAMPLE)
    parser.add_argument("run", metavar="RUN", nargs="+", type=Path, help="directories of finished runs of one task and model")
    parser.add_argument("out", metavar="OUT", type=Path, help="target folder; must be empty or not exist")
    parser.add_argument(
        "--greedy", action="store_true", help="leave runs out that lower the score on the dev splits, the best run first"
    )
    add_plugin_argument(parser)
    parsed = parser.parse_args(arguments)
    if world.size > 1:
        raise UserError(Problem("soup", None, "was started on several ranks", "start it in one process"))
    if parsed.out.exists() and not (parsed.out.is_dir() and not any(parsed.out.iterdir())):
        raise UserError(Problem("OUT", str(parsed.out), "exists and is not an empty folder", "name a new folder"))
    load_plugins(parsed.plugin)
    share_processors(1)
    with importing():  # only now, as it takes seconds
        from mat_ds.engine.group import process_group
        from mat_ds.evaluation.soup import dev_score, make_soup, read_ingredients
    runs = read_ingredients(parsed.run)
    compute_deterministically(warn_only=True)
    with process_group(world) as device:
        made = make_soup(runs, parsed.out, parsed.greedy, dev_score(runs[0], world, device))
    rows = [[str(run), f"{score:.4f}", "" if run in made.used else "left out"] for run, score in made.scores.items()]
    show(table_text([["model", "score", ""], *rows, [str(parsed.out), f"{made.score:.4f}", f"soup of {len(made.used)}"]]))
    if made.score < (best := max(made.scores.values())):
        show(f"the best run alone scores more, {best:.4f}: these runs do not lie in one valley of the loss")
    return ExitCode.OK
