"""Writes the model card: `README.md` in `model/`, with metadata for the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mat_ds.artifacts.calibrated import calibration_text
from mat_ds.artifacts.confusion import confusion_text, markdown
from mat_ds.artifacts.evaluated import evaluations_of
from mat_ds.artifacts.finished import Finished
from mat_ds.artifacts.robustness import robustness_text, with_robustness
from mat_ds.errors import printable
from mat_ds.methods.base import units_text
from mat_ds.models.tiny import TINY
from mat_ds.storage.disk import write_text
from mat_ds.tasks.kinds import KINDS, kind_of
from mat_ds.tasks.measures import LOSS, METRICS
from mat_ds.tasks.registry import TASKS

CARD = "README.md"
# Names of metrics on the hub, where they differ.
ON_THE_HUB = {"pearson": "pearsonr", "spearman": "spearmanr", "auroc": "roc_auc"}

TEXT = """# {title}

{model}, fine-tuned on {task} by mat_ds {version} with `method.name={method}`.

## Task and data

{reads} {answers} Inputs are cut at {max_length} tokens. Trained on the split{train} of `{task}` ({source}){others}, scored on
{dev}. SHA-256 of all examples and the vocabulary: `{data_sha256}`; of the dev splits: `{dev_sha256}`.

## Scores on {dev}

| evaluation | step | score | {metrics} |
|---|---|---|{rule}|
{scores}
{confusion}
The score is {meaning} over the dev splits. The best of many evaluations on one dev set flatters: the median of
the last half of the evaluations is {median}. In this folder are the `{which}` weights, of step {step}; loaded by plain
transformers they score {score} in float32.

{calibration}## Method and settings

| option | value |
|---|---|
{settings}

{frozen}{loss}Seed {seed}. One seed is one draw: other seeds give other scores.

## Hardware and cost

{ranks} rank(s) on {devices}, ZeRO stage {stage}. {steps} outer steps of {batch} examples, {seconds:.0f} seconds of training,
{units} forward units (a forward pass of one batch is 1, a backward pass 2).

## Intended use and limits

For texts of the kind that `{task}` holds, and for research into fine-tuning. The scores say how the model does on its dev
splits; they say nothing of other domains or languages, of texts longer than {max_length} tokens, or of fairness towards
anyone. {probabilities} What holds for the model it was made from, its licence included, holds for this one.

## How to load

{loading}
"""

LOADING = """    from transformers import {auto_class}, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("<this folder>")
    model = {auto_class}.from_pretrained("<this folder>")

or `mat-ds predict <this folder> <file>`."""
LOADING_ADAPTERS = """    from peft import PeftModel
    from transformers import AutoConfig, {auto_class}, AutoTokenizer

    tokenizer, config = (kind.from_pretrained("<this folder>") for kind in (AutoTokenizer, AutoConfig))
    base = {auto_class}.from_pretrained("<base>", config=config, dtype="float32")
    model = PeftModel.from_pretrained(base, "<this folder>")

These are adapters: `<base>` is the model they were trained on. `mat-ds export <this folder> <new folder> --merge` makes a
model of both."""


def write_card(finished: Finished, folder: Path) -> None:
    """Writes the card into a folder that holds the run's model or its adapters."""
    adapters = (folder / "adapter_config.json").exists()
    card = ModelCard(f"---\n{_metadata(finished, adapters).to_yaml()}\n---\n\n{_body(finished, adapters)}")
    write_text(folder / CARD, str(card))


def write_copy(source: Path, out: Path, differences: list[str], merged: bool, scored: bool) -> None:
    """Writes the card of a modified copy of a model.

    Args:
        source, out: folders of the model and of its copy.
        differences: sentences about what differs in the copy.
        merged: whether adapters have been merged into it.
        scored: whether the scores in the card still apply.
    """
    card = ModelCard.load(source / CARD)
    if merged:
        card.data["library_name"] = "transformers"
        for auto_class in {kind.auto_class for kind in KINDS.values()}:
            adapters, whole = (text.format(auto_class=auto_class) for text in (LOADING_ADAPTERS, LOADING))
            card.text = card.text.replace(adapters, whole)
    if not scored:
        card.data.eval_results = None
        card.text = with_robustness(card.text, "")
    elif section := robustness_text(evaluations_of(source)):
        card.text = with_robustness(card.text, section)
    if differences:
        card.text += "\n".join(["\n## This copy\n", *differences, ""])
    write_text(out / CARD, str(card))


def _metadata(finished: Finished, adapters: bool) -> ModelCardData:
    run, spec, pipeline = finished.run, finished.spec, kind_of(finished.spec).pipeline
    # A user's own files are not the hub's dataset, even under its name.
    hub = None if run.data.own else spec.hub
    results = [] if run.data.eval_limit else [
        EvalResult(
            task_type=pipeline, dataset_type=hub or spec.name, dataset_name=spec.name, dataset_config=spec.hub_config,
            dataset_split=split, metric_type=ON_THE_HUB.get(metric, metric), metric_name=metric, metric_value=value,
        )
        for split, metrics in {**{dev: finished.exported[dev] for dev in spec.dev}, **finished.results["test"]}.items()
        for metric, value in metrics.items() if metric in spec.metrics  # not the loss
    ]  # fmt: skip
    return ModelCardData(
        model_name=f"{spec.name}-{run.method.name}",
        base_model=None if _is_ours(run.model.name) else run.model.name,
        datasets=[hub] if hub else None,
        language="en" if spec.name in TASKS else None,
        library_name="peft" if adapters else "transformers",
        pipeline_tag=pipeline,
        metrics=[ON_THE_HUB.get(metric, metric) for metric in spec.metrics],
        tags=["mat_ds", run.method.name],
        eval_results=results or None,  # scores on a part of a dev set would be misleading
    )


def _body(finished: Finished, adapters: bool) -> str:
    run, spec, results, environment = finished.run, finished.spec, finished.results, finished.environment
    base = f"`{TINY}`, a small model made from scratch" if run.model.name == TINY else _code(_without_folders(run.model.name))
    hub = f"{_code(spec.hub or '')} on the hub"
    source = "made by mat_ds" if spec.generate else "files of the user's own" if run.data.own else hub
    if run.data.cut_share:
        source += f", without the {100 * run.data.cut_share:g}% that are kept to validate on"
    columns = [f"{split} {metric}" for split in spec.dev for metric in (*spec.metrics, LOSS)]
    start = environment["starts"][-1]
    answer, names = kind_of(spec).range_of_answers
    return TEXT.format(
        title=f"{spec.name}: {run.method.name}", model=base[0].upper() + base[1:], task=spec.name, method=run.method.name,
        version=markdown(environment["packages"].get("mat_ds", "of an unknown version")),
        reads=f"Reads {markdown(kind_of(spec).reads)}.",
        answers=f"Answers with {answer} {', '.join(map(markdown, names))}".rstrip() + ".",
        max_length=finished.max_length, train=f"{'s' * (len(spec.train) > 1)} {_mixture(spec.train)}", source=source,
        others=f", and on {_mixture(spec.also_train_on)}" if spec.also_train_on else "",
        dev=", ".join(spec.dev), data_sha256=_safe(environment["data_sha256"]), dev_sha256=_safe(results["dev_sha256"]),
        metrics=" | ".join(columns), rule="|".join("---" for _ in columns), scores="\n".join(_score_rows(finished)),
        calibration=calibration_text(results["calibration"]) if results.get("calibration") else "",
        probabilities=_told_of_probabilities(finished), meaning=_meaning(spec.metrics),
        confusion=confusion_text(results["confusion"]) if results.get("confusion") else "",
        median=f"{results['median_last_half']:.4f}", which=results["export"]["which"], step=results["export"]["step"],
        score=f"{finished.score:.4f}", settings="\n".join(_settings(finished)), frozen=_frozen(finished),
        loss=_loss(environment.get("loss", "")), seed=run.seed, ranks=start["world_size"],
        devices=markdown(", ".join(sorted(set(environment["devices"])))), stage=start["zero_stage"], steps=results["steps"],
        batch=run.train.batch_size, seconds=results["seconds"], units=units_text(finished.forward_units),
        loading=(LOADING_ADAPTERS if adapters else LOADING).format(auto_class=kind_of(spec).auto_class),
    )  # fmt: skip


def _mixture(sources: Mapping[str, int]) -> str:
    """Names of the training data, with the times an epoch shows each if more than once."""
    return ", ".join(name + (f" ({repeats} times)" if repeats > 1 else "") for name, repeats in sources.items())


def _loss(described: str) -> str:
    """A paragraph about the loss that was trained, if it is not the task's own."""
    own = "Loss and robustness on dev and test splits are measured without them."
    return f"Trained on the task's loss with {markdown(described)}. {own}\n\n" if described else ""


def _score_rows(finished: Finished) -> Iterator[str]:
    """Yields the rows of the score table. The median is of scores only and has no metrics."""
    for name in ("last", "best"):
        evaluation = finished.results[name]
        found = [evaluation[split].get(name) for split in finished.spec.dev for name in (*finished.spec.metrics, LOSS)]
        values = ["" if value is None else f"{value:.4f}" for value in found]  # an earlier version kept no loss
        yield f"| {name} | {evaluation['step']} | {evaluation['score']:.4f} | {' | '.join(values)} |"
    empty = " |" * len(finished.spec.dev) * (len(finished.spec.metrics) + 1)
    yield f"| median of the last half | | {finished.results['median_last_half']:.4f} |{empty}"


def _meaning(metrics: Sequence[str]) -> str:
    """What the score is."""
    if any(METRICS[name].lower for name in metrics):
        return "minus the mean of the metrics, of which less is better,"
    return "the mean of the metrics"


def _told_of_probabilities(finished: Finished) -> str:
    """What to think of the probabilities."""
    if not finished.results.get("calibration"):
        return "Probabilities are not calibrated."
    return "Probabilities are calibrated only with the temperature above, and only for texts like those of the dev splits."


def _settings(finished: Finished) -> Iterator[str]:
    """Yields table rows of all options that affect what is learnt."""
    run = finished.run.model_dump(mode="json")
    run["data"]["max_length"] = finished.max_length
    for section in ("method", "optimizer", "model"):
        yield from (f"| `{section}.{key}` | {_code(_without_folders(str(value)))} |" for key, value in run[section].items())
    for section, changed in (("loss", finished.run.loss.changed), ("sampling", finished.run.sampling.changed)):
        yield from (f"| `{section}.{key}` | {_code(str(value))} |" for key, value in changed.items())
    chosen = ("epochs", "max_steps", "batch_size", "export", "export_weights")
    yield from (f"| `train.{key}` | `{run['train'][key]}` |" for key in chosen)
    yield from (f"| `data.{key}` | `{run['data'][key]}` |" for key in ("max_length", "train_limit", "eval_limit", "bad_rows"))


def _frozen(finished: Finished) -> str:
    """A paragraph on how many parameters were trained, if not all were."""
    size = finished.results.get("parameters") or {"all": 0, "trained": 0}
    if size["trained"] == size["all"]:
        return ""
    trained = f"{size['trained']:,} of its {size['all']:,} parameters were trained"
    return f"{trained}; the others are those of the model it was made from.\n\n"


def _is_ours(name: str) -> bool:
    """Whether a model name is not an id on the hub."""
    return name == TINY or Path(name).is_absolute() or Path(name).exists() or len(Path(name).parts) > 2


def _without_folders(value: str) -> str:
    """An absolute path's last part; the folders above it are private."""
    return Path(value).name if Path(value).is_absolute() else value


def _safe(text: str) -> str:
    """Untrusted text for use between backquotes."""
    return printable(text).replace("`", "'").replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{_safe(text)}`"
