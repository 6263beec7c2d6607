"""Under ZeRO-3 no rank ever holds the whole model, and the run is the same as with whole models."""

import pytest

from tests.support.launch import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_model_read_into_shards_equals_the_model_read_whole_and_takes_a_ranks_share_of_memory(ranks, tmp_path):
    report = run_ranks("tests.workers.loading", ranks, str(tmp_path))
    (size, *shares), (_, *wholes) = report.pop("memory")
    assert {name: found for name, found in report.items() if found != [True] * 4} == {} and len(report) == 12
    assert min(wholes) > 0.9 * size, "the measurement measures"
    if ranks == 2:
        assert max(shares) < 0.75 * size < min(wholes)
