"""Every method on every kind of task, under ZeRO and on two ranks, ends with the parameters of its float64 oracle."""

import pytest

from mat_ds.methods import METHODS
from mat_ds.tasks.kinds import KINDS
from tests.distributed.test_rivals import DIFFERENCES, ROUND_OFF
from tests.equivalence.kinds import EVERY_METHOD, TASKS
from tests.support.expected import kind_runs
from tests.support.launch import run_ranks

pytestmark = pytest.mark.dist


def test_every_method_gives_the_oracles_parameters_on_every_kind_of_task():
    report = run_ranks("tests.workers.kinds", 2)
    assert report.keys() == {f"{name} {method} zero-{stage}" for (name, method), stage in kind_runs()}
    tolerance = {name: DIFFERENCES if "salt zero-3" in name else ROUND_OFF for name in report}
    assert not {name: far for name, far in report.items() if not far <= tolerance[name]}


def test_every_kind_and_method_has_an_oracle():
    assert TASKS.keys() | {"classification", "regression"} == KINDS.keys()  # those two: tests/workers/rivals.py
    assert set(EVERY_METHOD) == METHODS.keys()
