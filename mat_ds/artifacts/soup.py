"""The average of the weights of finished runs (model soups, Wortsman et al. 2022; stochastic weight averaging, Izmailov et al.
2018), and its card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from torch import Tensor, nn

from mat_ds.artifacts.card import CARD, LOADING
from mat_ds.artifacts.confusion import markdown
from mat_ds.artifacts.described import Description, base_of, write_description
from mat_ds.artifacts.finished import Finished
from mat_ds.errors import Problem, raise_if_any
from mat_ds.models.folder import is_adapter
from mat_ds.models.pretrained import load_tokenizer
from mat_ds.models.tiny import TINY
from mat_ds.storage.disk import write_json, write_text
from mat_ds.tasks.kinds import kind_of

TEXT = """# {task}: a soup of {count} runs

The {how} of the float32 weights of {count} fine-tuned models (model soups, Wortsman et al. 2022). It was
not trained further.{adapters}

| model | method | seed | score on {dev} |
|---|---|---|---|
{rows}
| **this soup** | | | {score:.4f} |

All scores are of the same examples, and the soup was {chosen} by them; they say nothing of other texts. Its probabilities
are not calibrated. Licences and limits of the averaged models, and of the one they were made from, hold for it.

## How to load

{loading}
"""


def soup_problems(runs: Sequence[Finished]) -> Iterator[Problem]:
    """Yields why the weights of runs have no meaningful average, as far as their descriptions say it."""
    first, fix = runs[0], "average runs of one task from one model"
    if len({run.folder.path.resolve() for run in runs}) < max(2, len(runs)):
        yield Problem("RUN", None, "a soup takes two or more different runs", "name others")
    for run in runs[1:]:
        where = str(run.folder.path)
        against = f"where {first.folder.path} has"
        if run.spec.kind != first.spec.kind or run.spec.text != first.spec.text or run.spec.metrics != first.spec.metrics:
            yield Problem("RUN", where, f"has the task {run.spec.name}, {against} {first.spec.name}", fix)
        elif run.spec.labels != first.spec.labels:
            names = [", ".join(each.spec.labels) for each in (run, first)]
            yield Problem("RUN", where, f"has the labels {names[0]}, {against} {names[1]}", fix)
        elif (base := base_of(run.folder.model)) != (other := base_of(first.folder.model)):
            names = [each[0] if each else TINY for each in (base, other)]
            yield Problem("RUN", where, f"was made from {names[0]}, {against} {names[1]}", fix)
        elif run.run.model.name == TINY and run.run.seed != first.run.seed:
            yield Problem("RUN", where, "began with other random weights", "average runs of one pre-trained model")
        elif run.results["dev_sha256"] != first.results["dev_sha256"]:
            yield Problem(
                "RUN", where, f"was scored on other dev examples than {first.folder.path}", "evaluate them alike first"
            )
        elif run.max_length != first.max_length:
            reason = f"cuts inputs at {run.max_length} tokens, {against} {first.max_length}"
            yield Problem("RUN", where, reason, "average runs of one data.max_length")


def check_alike(run: Finished, model: Any, first: Finished, like: Any) -> None:
    """Raises `UserError` if two models have not the same architecture, label numbers and vocabulary."""
    one, other = model.state_dict(), like.state_dict()
    here: list[Problem] = []
    where, against = str(run.folder.path), str(first.folder.path)
    config, known = (each.config for each in (model, like))
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        here.append(Problem("RUN", where, f"has another architecture than {against}", "average runs of one model"))
    elif config.id2label != known.id2label:
        here.append(Problem("RUN", where, f"numbers its labels otherwise than {against}", "average runs of one task"))
    elif (
        load_tokenizer(str(run.folder.model), "RUN", adapters=True).get_vocab()
        != load_tokenizer(str(first.folder.model), "RUN", adapters=True).get_vocab()
    ):
        here.append(Problem("RUN", where, f"has another vocabulary than {against}", "average runs of one model"))
    raise_if_any(here)


class WeightAverage:
    """The uniform average of the weights that were added; sums are in fp64, so their order does not matter in fp32.

    Attributes:
        count: of the models in it.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, weights: Mapping[str, Tensor], times: int = 1) -> None:
        """Adds a model; takes it out again with -1."""
        self.count += times
        for name, value in weights.items():
            if value.is_floating_point():
                held = self._sums.get(name)
                self._sums[name] = times * value.double() if held is None else held.add_(value.double(), alpha=times)

    def fill(self, model: nn.Module) -> None:
        """Gives a model the average; what is not a float, such as positions, stays."""
        model.load_state_dict({name: (value / self.count).float() for name, value in self._sums.items()}, strict=False)


def write_soup(
    out: Path, model: Any, runs: Sequence[Finished], scores: Mapping[Path, float], score: float, greedy: bool
) -> None:
    """Writes a soup as a model folder.

    Args:
        out: an empty folder.
        model: with the averaged weights.
        runs: that are in it.
        scores: of each run by its folder, on the dev splits.
        score: of the soup.
        greedy: whether runs were left out that would have lowered it.
    """
    first, kind = runs[0], kind_of(runs[0].spec)
    model.save_pretrained(str(out))
    load_tokenizer(str(first.folder.model), "RUN", adapters=True).save_pretrained(str(out))
    write_description(out, Description(first.spec, first.max_length))
    members = [
        {"run": run.folder.path.absolute().name, "method": run.run.method.name, "seed": run.run.seed,
         "score": scores[run.folder.path]} for run in runs
    ]  # fmt: skip
    write_json(
        out / "soup.json", {"runs": members, "score": score, "greedy": greedy, "dev_sha256": first.results["dev_sha256"]}
    )
    rows = [f"| {markdown(str(m['run']))} | {m['method']} | {m['seed']} | {m['score']:.4f} |" for m in members]
    text = TEXT.format(
        task=first.spec.name, count=len(runs), how="greedily chosen average" if greedy else "uniform average",
        adapters=" Adapters were merged into their base before." if any(is_adapter(run.folder.model) for run in runs) else "",
        dev=", ".join(first.spec.dev), rows="\n".join(rows), score=score, chosen="chosen" if greedy else "not chosen",
        loading=LOADING.format(auto_class=kind.auto_class),
    )  # fmt: skip
    data = ModelCardData(
        library_name="transformers", pipeline_tag=kind.pipeline, metrics=list(first.spec.metrics), tags=["mat_ds", "model-soup"]
    )
    write_text(out / CARD, str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")))
