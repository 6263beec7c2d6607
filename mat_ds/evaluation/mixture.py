"""The mixture of a chain's snapshots as one model: its logits are those of the members' mean probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mat_ds.artifacts.member_weights import load_members
from mat_ds.artifacts.members import members_of
from mat_ds.errors import Problem, UserError
from mat_ds.evaluation.abstention import read_steps, threshold_for
from mat_ds.evaluation.predictor import Predictor
from mat_ds.methods.batch import MicroBatch
from mat_ds.registry.served_model import mixing
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.base import Kind

# In place of a probability of 0, whose logarithm is not finite.
LEAST = 1e-300
# What it adds to answers.
TOLD = ("abstains", "confidence", "entropy", "mutual_information")


def is_independent(kind: Kind) -> bool:
    """Whether each label is a decision of its own, with a probability of its own."""
    return kind.problem_type == "multi_label_classification"


def check_mixes(kind: Kind) -> None:
    """Raises `UserError` if answers of a kind are not probabilities, whose mean would be an answer."""
    if not kind.calibrates:
        reason = f"averages probabilities of answers, and models for {kind.name} give none"
        raise UserError(Problem("mixture", True, reason, "leave it out: the model alone answers"))


def mean_logits(
    kind: Kind, kept: Sequence[NDArray[np.float32]], examples: Sequence[Example]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the mixture would keep of its logits, (N, C), and the probability of each answer, (N,).

    Args:
        kept: what evaluation keeps of each member's; entries for choices that a question lacks do not count.
        examples: the N that were answered.
    """
    found = [kind.answered(one.astype(np.float64), examples).probabilities for one in kept]
    p = np.mean([one for one in found if one is not None], axis=0)
    log_p = np.log(np.maximum(p, LEAST))
    if not is_independent(kind):
        return log_p, p.max(axis=1)
    return log_p - np.log(np.maximum(1 - p, LEAST)), np.maximum(p, 1 - p).min(axis=1)


class Mixture(nn.Module):
    """A model with the output of one: what attacks a model attacks the mixture, whose gradient is that of the log of the mean.

    Args:
        members: transformers models of one task.
        kind: of the task.

    Attributes:
        config: of the first member.
    """

    def __init__(self, members: Sequence[nn.Module], kind: Kind):
        super().__init__()
        self.members: Any = nn.ModuleList(members)
        self.config: Any = members[0].config
        self.name_or_path = str(getattr(members[0], "name_or_path", ""))
        self._kind = kind

    def get_input_embeddings(self) -> Any:
        """The first member's; a perturbation is added to those of all."""
        return self.members[0].get_input_embeddings()

    def each(self, inputs: dict[str, Tensor]) -> Tensor:
        """The members' logits, (M, B, C) in fp32."""
        return torch.stack([self._kind.read(member(**inputs), inputs).float() for member in self.members])

    def forward(self, **inputs: Tensor) -> Any:
        """`logits` (B, C): the log of the mean probability of each answer, or of a label against its absence."""
        z = self.each(inputs)
        if is_independent(self._kind):
            with_it, without = nn.functional.logsigmoid(z), nn.functional.logsigmoid(-z)
            return SimpleNamespace(logits=with_it.logsumexp(0) - without.logsumexp(0))
        return SimpleNamespace(logits=z.log_softmax(-1).logsumexp(0) - float(np.log(len(z))))


def load_mixture(folder: Path, name: str, model: Any, kind: Kind) -> Mixture:
    """Loads the mixture that belongs to a model, in its dtype and on its device.

    Args:
        folder: of the model.
        name: of the model in messages.
        model: loaded from it.
        kind: of its task.

    Raises:
        UserError: if it has no members, or its kind no probabilities.
    """
    check_mixes(kind)
    like = next(iter(model.parameters()))
    members: list[Any] = load_members(members_of(folder, name), model, like.dtype, like.device)
    for member in members:
        member.config.pad_token_id = model.config.pad_token_id  # by which decoders find the last token
    return Mixture(members, kind)


@dataclass(frozen=True)
class MixturePredictor(Predictor):
    """Answers with the mean of the members' probabilities.

    Attributes:
        uncertain: whether answers say how sure the members are, and how far they agree.
        threshold: of the confidence, below which an answer is None; None: it always answers.
    """

    uncertain: bool = False
    threshold: float | None = None

    def answers(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """As `Predictor.answers`, with `abstains`, `confidence`, `entropy` and `mutual_information` where asked for."""
        self.check(examples)
        return self._answers(examples)

    @torch.inference_mode()
    def _answers(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        kind = kind_of(self.spec)
        batch = MicroBatch(*self.collate(examples, self.device), 0)
        z = self.finite(self.model.each(batch.inputs)).numpy()
        independent = is_independent(kind)
        log_p = mixing.log_outcomes(z, independent)
        answers = kind.answers(mixing.logits_of(mixing.mixed(log_p), independent), examples)
        return mixing.told(answers, log_p, self.uncertain, self.threshold)


def as_mixture(alone: Predictor, folder: Path, uncertain: bool = False, risk: float | None = None) -> MixturePredictor:
    """The mixture in place of the model that `load_predictor` has loaded.

    Args:
        alone: the model.
        folder: of its files.
        uncertain: as for `MixturePredictor`.
        risk: largest share of wrong answers among those given, above which it abstains; None: it always answers.

    Raises:
        UserError: if it has no members, its kind no probabilities, or no threshold promises the risk.
    """
    kind = kind_of(alone.spec)
    check_mixes(kind)
    if alone.temperature != 1.0:
        reason = "is about the temperature of the model alone, which is not the mixture's"
        raise UserError(Problem("calibrated", True, reason, "leave it out, or the mixture"))
    if taken := [name for name in kind.columns if name in TOLD]:
        reason = "is a column of the texts and of the answers too"
        raise UserError(Problem("columns", taken[0], reason, "call the text column otherwise, and name it with --columns"))
    threshold = None if risk is None else threshold_for(risk, read_steps(folder, alone.name))
    known = {each.name: getattr(alone, each.name) for each in fields(alone)}
    known["model"] = load_mixture(folder, alone.name, alone.model, kind)
    return MixturePredictor(**known, uncertain=uncertain, threshold=threshold)
