"""Adapters under ZeRO: only they and the head are sampled, averaged, clipped and saved, exactly; the base does not change."""

import pytest

from tests.support.expected import HALF_VARIANTS, PRECISIONS, STAGES, VARIANTS, named
from tests.support.launch import run_ranks

pytestmark = pytest.mark.dist

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-2}


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids="{} ranks".format)
def report(request, tmp_path_factory):
    report = run_ranks("tests.workers.lora", request.param, str(tmp_path_factory.mktemp("lora")))
    trainings = named("{}, {}, zero-{}", ("adam", "checkpointed"), PRECISIONS, STAGES, of=2)
    trainings |= named("{}, {}, zero-{}", ("sgd", "clipped", "noise", "uneven", *VARIANTS), ("fp32",), STAGES, of=2)
    trainings |= {"{}, {}, zero-{}".format(*one) for one in HALF_VARIANTS}
    continued = named("resumed, {}, zero-{}", PRECISIONS, STAGES, of=2) | named("resumed, {}, zero-{}", VARIANTS, (2, 3))
    assert report.keys() == trainings | continued | named("trained, {}", ("lora", *VARIANTS))
    return report


def variant(name):
    """Of LoRA, in a training by name."""
    return next((variant for variant in VARIANTS if variant in name.split(",")[0]), "lora")


def test_every_stage_and_precision_gives_the_oracles_adapters_and_head(report):
    found = {name: entry["distance"] for name, entry in report.items() if isinstance(entry, dict)}
    assert not {name: far for name, far in found.items() if not far <= TOLERANCE[name.split(", ")[1]]}


def test_frozen_parameters_do_not_change_by_a_bit_and_the_first_step_moves_every_adapter(report):
    for name, entry in report.items():
        if isinstance(entry, dict):
            frozen, trained, total = entry["parts"]
            # DoRA trains a length for each row besides.
            assert frozen + trained == total and trained == (10 if variant(name) == "dora" else 8) and frozen > trained, name
            assert entry["thawed"] == entry["unmoved"] == [], name


def test_the_sampler_gets_only_trained_parameters(report):
    trainings = {name: entry for name, entry in report.items() if isinstance(entry, dict)}
    assert all(entry["sampled"] == report[f"trained, {variant(name)}"] for name, entry in trainings.items())


def test_an_interrupted_run_is_bit_identical_and_saves_no_frozen_weight(report):
    found = {name: same for name, same in report.items() if name.startswith("resumed")}
    assert all(found.values()), found
