"""The named tasks: GLUE, ANLI, the MAT paper's NLI mixture, the built-in demo, and benchmarks that are for evaluation alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mat_ds.config.names import RULE, is_name
from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, UserError, nearest, raise_if_any
from mat_ds.tasks import demo
from mat_ds.tasks.contradictions import contradictions
from mat_ds.tasks.published import ADV_GLUE, ANLI
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.written import read_spec

NLI_LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")
ANLI_ROUNDS = ("r1", "r2", "r3")


def _glue(name: str, **settings: Any) -> TaskSpec:
    return TaskSpec(name=name, hub="nyu-mll/glue", hub_config=name, **settings)


def _anli(name: str, train: dict[str, int], **settings: Any) -> TaskSpec:
    return TaskSpec(
        name=name, text=("premise", "hypothesis"), labels=NLI_LABELS, hub=ANLI, train=train,
        dev=tuple(f"dev_{r}" for r in ANLI_ROUNDS), test=tuple(f"test_{r}" for r in ANLI_ROUNDS), test_labelled=True,
        **settings)  # fmt: skip


def _by_name(*specs: TaskSpec) -> dict[str, TaskSpec]:
    return {spec.name: spec for spec in specs}


TASKS = _by_name(
    TaskSpec(name="demo", text=("sentence",), labels=("unacceptable", "acceptable"), metrics=("matthews_correlation",),
             test=(), generate=demo.rows),
    _glue("cola", text=("sentence",), labels=("unacceptable", "acceptable"), metrics=("matthews_correlation",),
          submission={"test": "CoLA.tsv"}),
    _glue("sst2", text=("sentence",), labels=("negative", "positive"), submission={"test": "SST-2.tsv"}),
    _glue("mrpc", text=PAIR, labels=("not_equivalent", "equivalent"), metrics=("accuracy", "f1"),
          submission={"test": "MRPC.tsv"}),
    _glue("qqp", text=("question1", "question2"), labels=("not_duplicate", "duplicate"), metrics=("accuracy", "f1"),
          submission={"test": "QQP.tsv"}),
    _glue("stsb", text=PAIR, range=(0.0, 5.0), metrics=("pearson", "spearman"), submission={"test": "STS-B.tsv"}),
    _glue("mnli", text=("premise", "hypothesis"), labels=NLI_LABELS, dev=("validation_matched", "validation_mismatched"),
          test=("test_matched", "test_mismatched"), submit_names=True,
          submission={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}),
    _glue("qnli", text=("question", "sentence"), labels=ENTAILMENT, submit_names=True, submission={"test": "QNLI.tsv"}),
    _glue("rte", text=PAIR, labels=ENTAILMENT, submit_names=True, submission={"test": "RTE.tsv"}),
    _glue("wnli", text=PAIR, labels=("not_entailment", "entailment"), submission={"test": "WNLI.tsv"}),
    TaskSpec(name="snli", text=("premise", "hypothesis"), labels=NLI_LABELS, hub="stanfordnlp/snli",
             skip_unlabelled=True, test_labelled=True),
    TaskSpec(name="fever_nli", text=("context", "query"), labels=NLI_LABELS, dev=("dev",),
             label_map={"SUPPORTS": "entailment", "NOT ENOUGH INFO": "neutral", "REFUTES": "contradiction"},
             # The dataset on the hub calls the claim its premise and the evidence its hypothesis.
             hub="pietrolesci/nli_fever", hub_columns={"context": "hypothesis", "query": "premise"}, test=()),
    _anli("anli", {f"train_{r}": 1 for r in ANLI_ROUNDS}),
    *(_anli(f"anli_{r}", {f"train_{r}": 1}) for r in ANLI_ROUNDS),
    # Up-sampled as ANLI's authors did (Nie et al. 2020).
    _anli("anli_mixture", {"train_r1": 10, "train_r2": 20, "train_r3": 10},
          also_train_on={"mnli": 1, "snli": 1, "fever_nli": 1}),
)  # fmt: skip

# Tasks that are evaluated only, each with the one whose models it measures: AdvGLUE (Wang et al. 2021), and ANLI's rounds.
EVALUATED = {
    "adv_sst2": "sst2", "adv_qqp": "qqp", "adv_mnli": "mnli", "adv_mnli_mismatched": "mnli", "adv_qnli": "qnli",
    "adv_rte": "rte", **{f"anli_eval_{r}": "anli" for r in ANLI_ROUNDS},
}  # fmt: skip


def _evaluated(name: str, of: str) -> TaskSpec:
    if of == "anli":
        r = name.removeprefix("anli_eval_")
        splits: dict[str, Any] = {"dev": (f"dev_{r}",), "test": (f"test_{r}",)}
    else:
        splits = {"dev": ("validation",), "test": (), "submission": {}, "submit_names": False, "group": "method",
                  "hub": ADV_GLUE, "hub_config": name}  # fmt: skip
    return TASKS[of].model_copy(update={"name": name, "train": {}, **splits})


TASKS |= _by_name(*(_evaluated(name, of) for name, of in EVALUATED.items()))

# Published numbers of labelled training examples per epoch, without `also_train_on`, for planning a run without its data.
TRAINING_EXAMPLES = {
    "cola": 8_551, "sst2": 67_349, "mrpc": 3_668, "qqp": 363_846, "stsb": 5_749, "mnli": 392_702, "qnli": 104_743,
    "rte": 2_490, "wnli": 635, "snli": 549_367, "fever_nli": 208_346, "anli": 162_865, "anli_r1": 16_946, "anli_r2": 45_460,
    "anli_r3": 100_459, "anli_mixture": 10 * 16_946 + 20 * 45_460 + 10 * 100_459,
}  # fmt: skip

# Tasks whose files are in another task's folder.
FOLDERS = {name: "anli" for name in TASKS if name.startswith("anli_")}


def _alike(one: TaskSpec, other: TaskSpec) -> bool:
    return one.labels == other.labels and len(one.text) == len(other.text)


def find_task(name: str) -> TaskSpec:
    """The task called `name`, or described by the YAML file `name`.

    Raises:
        UserError: if there is no such task, or the file does not describe one.
    """
    if name in TASKS:
        return TASKS[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(Problem("task", name, "there is no such task", nearest(name, TASKS) + " Or pass a task YAML."))
    tree = read_yaml(path)
    if "name" not in tree and not is_name(path.stem):
        raise UserError(Problem(f"{path}: name", path.stem, "(the name of the file) cannot name a task: a name becomes "
                                f"part of a path, so use {RULE}", "write `name: <name>` into it"))  # fmt: skip
    spec = read_spec({"name": path.stem, **tree}, str(path))
    raise_if_any((*contradictions(spec, str(path)), *_mixture_problems(path, spec)))
    return spec


def _mixture_problems(path: Path, spec: TaskSpec) -> Iterator[Problem]:
    """Yields the reasons why a task in `also_train_on` cannot be added."""
    key = f"{path}: also_train_on"
    for other in spec.also_train_on:
        if other == spec.name:
            fix = f"say how often an epoch shows them: train: {{{next(iter(spec.train))}: 2}}"
            yield Problem(key, other, "is the task itself, which already trains on its own splits", fix)
        elif other not in TASKS or not _alike(TASKS[other], spec):
            able = [known.name for known in TASKS.values() if _alike(known, spec) and known.train and not known.also_train_on]
            fix = nearest(other, able) if able else "delete it: no task known by name has these labels"
            yield Problem(key, other, "is not a task with the same labels and number of texts", fix)
        elif not TASKS[other].train:
            yield Problem(key, other, "is for evaluation: it has no training split", f"name {EVALUATED[other]}")
        elif TASKS[other].also_train_on:
            fix = f"name its parts: {', '.join(TASKS[other].also_train_on)}, and those of {other} itself"
            yield Problem(key, other, "is a mixture itself", fix)
