"""The mixture of snapshots answers, is attacked and abstains as its definition says."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom

import mat_ds
from mat_ds.artifacts.members import ABSTENTION
from mat_ds.cli import main
from mat_ds.errors import ExitCode, UserError
from mat_ds.evaluation.abstention import DELTA, bound_on_risk, fitted_steps
from mat_ds.evaluation.calibration import COVERAGES
from mat_ds.evaluation.mixture import Mixture, mean_logits
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.registry.served_model.mixing import log_outcomes, mixed, uncertainty
from mat_ds.storage.disk import write_json
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import TaskSpec
from tests.commands.test_predict import logits as logits_of_a_run
from tests.support.heads import adapter_run, finished_run, texts_of
from tests.support.members import with_members

TAGS = kind_of(TaskSpec(name="tags", kind="multi_label", text=("text",), labels=("a", "b"), metrics=("f1_micro",)))
CHOICES = kind_of(
    TaskSpec(name="quiz", kind="multiple_choice", text=("question",), choices=("choices",), metrics=("accuracy",))
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with three members."""
    return with_members(finished_run(tmp_path_factory.mktemp("run") / "run", "mnli"), 3)


@pytest.fixture(scope="module")
def shares(run):
    """The members' probabilities of some texts, (M, N, C) in float64, by transformers alone."""
    found = []
    for step in (1, 2, 3):
        (run / "one").mkdir(exist_ok=True)
        (run / "one" / "model").unlink(missing_ok=True)
        (run / "one" / "model").symlink_to(run / "snapshots" / f"step-{step:08d}")
        found.append(logits_of_a_run(run / "one", texts_of("mnli")).double().softmax(1))
    return torch.stack(found)


def entropy_of(p):
    return -sum(share * math.log(share) for share in p)


def test_answers_are_the_mean_and_its_entropy_less_that_of_the_members_is_their_disagreement(run, shares):
    labels = TASKS["mnli"].labels
    found = mat_ds.load(run, uncertainty=True).predict(texts_of("mnli"), 5)
    for answer, p in zip(found, shares.transpose(0, 1).tolist(), strict=True):
        mean = np.mean(p, axis=0)
        assert [answer["probabilities"][name] for name in labels] == pytest.approx(mean, abs=1e-6)
        assert answer["label"] == labels[int(mean.argmax())] and answer["confidence"] == pytest.approx(mean.max(), abs=1e-6)
        assert answer["entropy"] == pytest.approx(entropy_of(mean), abs=1e-5)
        assert answer["mutual_information"] == pytest.approx(entropy_of(mean) - np.mean([*map(entropy_of, p)]), abs=1e-5)
    assert min(answer["mutual_information"] for answer in found) > 1e-3, "or the test sees nothing"
    assert [set(answer) for answer in mat_ds.load(run, mixture=True).predict(texts_of("mnli"))] == [
        {"label", "probabilities"}
    ] * 12


def test_it_abstains_below_the_least_confidence_that_keeps_the_risk(run, shares, tmp_path, capsys):
    sure = shares.mean(0).max(1).values.numpy()
    low, high = np.quantile(sure, (0.25, 0.75))
    steps = [{"coverage": c, "confidence": t, "risk": r} for c, t, r in ((0.3, high, 0.1), (0.8, low, 0.2), (1.0, 0.0, 0.5))]
    write_json(run / "snapshots" / ABSTENTION, {"steps": steps})
    for risk, least in ((0.15, high), (0.2, low), (0.9, 0.0)):
        found = mat_ds.load(run, abstain=risk).predict(texts_of("mnli"))
        assert [answer["abstains"] for answer in found] == [bool(share < least) for share in sure]
        assert all((answer["label"] is None) == answer["abstains"] and answer["probabilities"] for answer in found)
    with pytest.raises(UserError, match=r"the least that one shows is 0\.100"):
        mat_ds.load(run, abstain=0.05)
    out = tmp_path / "out.jsonl"
    pair = ["--text", "A key.", "--text", "No key is golden."]
    assert main(["predict", str(run), *pair, "--abstain", "0.2", "--out", str(out)]) == ExitCode.OK
    assert {"label", "probabilities", "abstains"} < json.loads(out.read_text()).keys()
    assert main(["predict", str(run), *pair, "--abstain", "1.5"]) == ExitCode.USER_ERROR
    assert "--abstain" in capsys.readouterr().err


def test_the_perturbation_of_an_attack_reaches_every_member_alike(run):
    """The loss under delta is -log of the mean over members of p(label | delta), and so is its gradient."""
    predictor = mat_ds.load(run, mixture=True)
    kind, tokenizer = kind_of(TASKS["mnli"]), predictor.tokenizer
    one, other = zip(*texts_of("mnli", 4), strict=True)
    inputs = dict(tokenizer([*one], [*other], truncation=True, max_length=12, padding=True, return_tensors="pt"))
    labels = torch.tensor([0, 1, 2, 0])
    batch = SimpleNamespace(labels=labels)
    hook = EmbeddingPerturbation(predictor.model)
    delta = (0.05 * torch.randn(*inputs["input_ids"].shape, hook.width)).requires_grad_()
    with hook.applied(delta):
        found = kind.losses(kind.read(predictor.model(**inputs), inputs), batch)
    (gradient,) = torch.autograd.grad(found.sum(), delta)
    hook.remove()
    p = []
    for member in predictor.model.members:
        alone = EmbeddingPerturbation(member)
        with alone.applied(delta):
            p.append(member(**inputs).logits.double().softmax(1)[range(4), labels])
        alone.remove()
    expected = -torch.stack(p).mean(0).log()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), delta)[0], rtol=1e-3, atol=1e-6)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("kind", [TAGS, CHOICES], ids=["multi_label", "multiple_choice"])
def test_labels_of_their_own_and_choices_are_averaged_as_their_probabilities_are(kind):
    torch.manual_seed(0)
    z = 3 * torch.randn(4, 5, 2, dtype=torch.float64)
    independent = kind is TAGS
    mean = (z.sigmoid() if independent else z.softmax(-1)).mean(0)
    members = [torch.nn.Linear(1, 1) for _ in z]
    for member, own in zip(members, z, strict=True):
        member.config, member.forward = None, lambda own=own, **_: SimpleNamespace(logits=own)
    inputs = {"attention_mask": torch.ones(5, 2, 3)}
    logits = Mixture(members, kind)(**inputs).logits.double()
    torch.testing.assert_close(logits.sigmoid() if independent else logits.softmax(-1), mean, rtol=1e-6, atol=1e-7)
    examples = [Example(("q", "one", "two"), (0,) if independent else 0)] * 5
    kept, sure = mean_logits(kind, list(z.numpy()), examples)
    np.testing.assert_allclose(kind.answered(kept, examples).probabilities, mean, rtol=1e-9)
    likeliest = torch.where(mean > 0.5, mean, 1 - mean).min(1) if independent else mean.max(1)
    np.testing.assert_allclose(sure, likeliest.values, rtol=1e-9)
    found = uncertainty(log_outcomes(z.numpy(), independent))
    outcomes = torch.stack([1 - mean, mean], -1) if independent else mean[:, None]
    np.testing.assert_allclose(found["entropy"], -(outcomes * outcomes.log()).sum(-1).mean(-1), rtol=1e-9)
    assert (np.exp(mixed(log_outcomes(z.numpy(), independent))).sum(-1) == pytest.approx(1)) and min(
        found["mutual_information"]
    ) > 0


def test_members_of_adapters_share_their_base(tmp_path):
    run = with_members(adapter_run(tmp_path / "run", tmp_path / "base"), 2)
    model = mat_ds.load(run, mixture=True).model
    first, second = (dict(member.named_parameters()) for member in model.members)
    shared = {name for name in first if first[name] is second[name] and ".classifier." not in name}
    assert shared == {name for name in first if ".roberta." in name and "lora" not in name}


def test_what_has_no_mixture_is_told_so(run, tmp_path):
    scores = with_members(finished_run(tmp_path / "scores", "stsb"), 2)
    with pytest.raises(UserError, match="models for regression give none"):
        mat_ds.load(scores, mixture=True)
    with pytest.raises(UserError, match=r"train\.snapshots"):
        mat_ds.load(finished_run(tmp_path / "alone", "cola"), uncertainty=True)
    write_json(run / "model" / "calibration.json", {"temperature": 2.0})
    with pytest.raises(UserError, match="model alone"):
        mat_ds.load(run, calibrated=True, mixture=True)
    (run / "model" / "calibration.json").unlink()


@pytest.mark.parametrize("wrong, answered", [(0, 90), (3, 60), (40, 41)])
def test_the_bound_is_where_so_few_errors_would_be_as_rare_as_delta(wrong, answered):
    risk = bound_on_risk(wrong, answered, 0.01)
    assert sum(binom.pmf(k, answered, risk) for k in range(wrong + 1)) == pytest.approx(0.01, rel=1e-6)
    assert bound_on_risk(5, 5, 0.01) == 1.0


def test_on_all_but_a_few_dev_sets_no_threshold_promises_too_much():
    """An answer of confidence c, uniform between 1/2 and 1, is right with probability c: the risk above a threshold t is
    (1 - t) / 2."""
    rng, broken, tight = np.random.default_rng(0), 0, []
    for _ in range(200):
        sure = rng.uniform(0.5, 1.0, 400)
        steps = fitted_steps(sure, rng.random(400) < sure)
        assert [step["coverage"] for step in steps] == pytest.approx(COVERAGES)
        broken += any((1 - step["confidence"]) / 2 > step["risk"] for step in steps)
        tight.append(steps[-1]["risk"] - 0.25)
    assert broken <= 200 * DELTA and 0 < np.mean(tight) < 0.1


def test_equally_sure_answers_are_given_together():
    steps = fitted_steps(np.array([0.9] * 30 + [0.6] * 10), np.array([True] * 30 + [False] * 10))
    assert {(step["coverage"], step["confidence"]) for step in steps} == {(0.75, 0.9), (1.0, 0.6)}
