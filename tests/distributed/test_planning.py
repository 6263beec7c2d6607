"""A plan against what ranks hold and send: every model state to within 5%, the rest within the bounds given here."""

import pytest

from tests.support.expected import STAGES, named
from tests.support.launch import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]

WHOLE = named("{} zero-{}", ("fp32", "bf16"), STAGES)
PARTS = named("average: fp32 zero-{}", (1, 3)) | named("adapters: fp32 zero-{}", (0, 2, 3)) | {"adapters: bf16 zero-3"}
PARTS |= named("{}: bf16 zero-{}", ("offload", "fp32 gradients"), (1, 2, 3)) | {"parameters too: fp32 zero-3"}
PARTS |= {"half: fp16 zero-0", "sgd: fp32 zero-2", "rmsprop: bf16 zero-3"}
PARTS |= (
    named("{}: fp32 zero-{}", ("vanilla", "freelb"), (2, 3)) | named("smart: fp32 zero-{}", (1, 2)) | {"by layer: fp32 zero-3"}
)
STATES = ("weights", "gradients", "masters", "kept", "update")


@pytest.fixture(scope="module", params=[1, 2], ids="{} ranks".format)
def report(request):
    return run_ranks("tests.workers.planning", request.param, timeout=1200)


def test_every_model_state_is_what_was_planned(report):
    assert report.keys() == WHOLE | PARTS
    if not report["fp32 zero-2"]["sent"][0]:
        # On a CPU device and host memory are the same, and a tensor of one may be a view of the other.
        report.pop("parameters too: fp32 zero-3", None)
    off = {
        (name, state): pair
        for name, found in report.items()
        for state, pair in found.items()
        if state in STATES and pair[1] != pytest.approx(pair[0], rel=0.05)
    }
    assert not off
    for name, found in report.items():
        kept = {"sgd": 1, "rmsprop": 2, "average": 4, "vanilla": 2, "freelb": 2, "smart": 3}.get(name.split(":")[0], 3)
        assert found["kept"][1] == pytest.approx(kept * (found["masters"][1] or found["gradients"][1]), rel=0.05), name


def test_the_peak_is_not_higher_than_planned(report):
    peaks = {name: found["peak"] for name, found in report.items() if "peak" in found}
    assert peaks.keys() == WHOLE
    assert not {name: pair for name, pair in peaks.items() if not 0.75 <= pair[1] / pair[0] <= 1.02}


def test_what_is_sent_is_what_was_planned(report):
    for name, found in report.items():
        planned, sent = found["sent"]
        if planned:
            # ZeRO-3's prefetching loses track of the passes of MAT's loop, but not always; then it gathers less than planned.
            exact = not name.startswith("by layer")
            assert sent == pytest.approx(planned, rel=0.01 if exact else 0.3), name
        else:
            assert not sent, name
