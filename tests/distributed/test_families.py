"""Sharding works for every model family: two ranks end with the parameters of one process in plain torch."""

import pytest

from tests.support.families import runs
from tests.support.launch import run_ranks

pytestmark = pytest.mark.dist


def test_two_ranks_make_the_same_step_of_mat_as_one_process_for_every_family():
    report = run_ranks("tests.workers.families", 2)
    assert report.keys() == {f"{family} {run}" for family, run in runs()}
    # In half precision they differ only by the order of rounded sums, so each is compared in its own precision.
    tolerance = {name: 1e-4 if "fp32" in name else 0.03 for name in report}
    assert not {name: far for name, far in report.items() if not far <= tolerance[name]}
