"""Adapters under ZeRO: only they and the head are sampled, averaged, clipped and saved, exactly; the base does not change."""

import pytest

from tests.support.expected import PRECISIONS, STAGES, named
from tests.support.launch import run_ranks

pytestmark = pytest.mark.dist

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-2}


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids="{} ranks".format)
def report(request, tmp_path_factory):
    report = run_ranks("tests.workers.lora", request.param, str(tmp_path_factory.mktemp("lora")))
    trainings = named("{}, {}, zero-{}", ("adam", "checkpointed"), PRECISIONS, STAGES, of=2)
    trainings |= named("{}, {}, zero-{}", ("sgd", "clipped", "noise", "uneven"), ("fp32",), STAGES, of=2)
    assert report.keys() == trainings | named("resumed, {}, zero-{}", PRECISIONS, STAGES, of=2) | {"trained"}
    return report


def test_every_stage_and_precision_gives_the_oracles_adapters_and_head(report):
    found = {name: entry["distance"] for name, entry in report.items() if isinstance(entry, dict)}
    assert not {name: far for name, far in found.items() if not far <= TOLERANCE[name.split(", ")[1]]}


def test_frozen_parameters_do_not_change_by_a_bit_and_the_first_step_moves_every_adapter(report):
    for name, entry in report.items():
        if isinstance(entry, dict):
            frozen, trained, total = entry["parts"]
            assert frozen + trained == total and trained == 8 and frozen > trained, name
            assert entry["thawed"] == entry["unmoved"] == [], name


def test_the_sampler_gets_only_trained_parameters(report):
    assert {entry["sampled"] for entry in report.values() if isinstance(entry, dict)} == {report["trained"]}


def test_an_interrupted_run_is_bit_identical_and_saves_no_frozen_weight(report):
    found = {name: same for name, same in report.items() if name.startswith("resumed")}
    assert all(found.values()), found
