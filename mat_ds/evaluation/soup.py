"""Makes a soup of finished runs: of all, or greedily of those that do not lower the score on their dev splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mat_ds.artifacts.exported import load_classifier
from mat_ds.artifacts.finished import Finished, read_finished
from mat_ds.artifacts.member_weights import merged_model
from mat_ds.artifacts.soup import WeightAverage, check_alike, soup_problems, write_soup
from mat_ds.errors import raise_if_any
from mat_ds.evaluation.scores import Evaluator
from mat_ds.ranks.world import World
from mat_ds.storage.folders import write_folder
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator

# A model's score on the dev splits.
Score = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Soup:
    """What was made.

    Attributes:
        used: folders of the runs in it, the first one first.
        scores: of each run alone, by its folder.
        score: its own.
    """

    used: tuple[Path, ...]
    scores: dict[Path, float]
    score: float


def read_ingredients(paths: Sequence[Path]) -> list[Finished]:
    """The finished runs of a soup; raises `UserError` if they have no meaningful average."""
    runs = [read_finished(path) for path in paths]
    for run in runs:
        run.check_ended()
    raise_if_any(soup_problems(runs))
    return runs


def dev_score(run: Finished, world: World, device: torch.device) -> Score:
    """What scores models of a run's task on its dev splits; needs the process group."""
    kind = kind_of(run.spec)
    dev = load_task_data(run.spec.model_copy(update={"train": {}, "also_train_on": {}, "test": ()}), run.run.data, False).dev
    tokenizer = load_classifier(run.folder.model, torch.float32, torch.device("cpu"))[1]
    evaluator = Evaluator(run.spec, Collator(tokenizer, run.max_length, kind), 32, world, device)

    def score(model: nn.Module) -> float:
        module: Any = model.to(device).eval()
        module.config.pad_token_id = module.config.pad_token_id or tokenizer.pad_token_id

        def forward(inputs: dict[str, Tensor]) -> Tensor:
            return kind.read(module(**inputs), inputs)

        return evaluator.scores(forward, dev)[1]

    return score


def make_soup(runs: Sequence[Finished], out: Path, greedy: bool, score: Score) -> Soup:
    """Averages the weights of runs, scores the average and writes it to a folder.

    Greedily (Wortsman et al. 2022, recipe 1): the runs are tried in the order of their scores, and one stays in the average
    unless that scores less with it than without.

    Raises:
        UserError: if the models differ in architecture, label numbers or vocabulary.
    """
    model, average, alone = merged_model(runs[0].folder.model), WeightAverage(), dict[Path, float]()
    for run in runs:
        here = merged_model(run.folder.model)
        check_alike(run, here, runs[0], model)
        alone[run.folder.path] = score(here)
    order = sorted(runs, key=lambda run: -alone[run.folder.path]) if greedy else list(runs)
    used, reached = list[Finished](), float("-inf")
    for run in order:
        weights = merged_model(run.folder.model).state_dict()
        average.add(weights)
        if greedy:
            average.fill(model)
            if (found := score(model)) < reached:
                average.add(weights, -1)
                continue
            reached = found
        used.append(run)
    average.fill(model)
    reached = score(model)
    write_folder(out, lambda aside: write_soup(aside, model.cpu(), used, alone, reached, greedy))
    return Soup(tuple(run.folder.path for run in used), alone, reached)
