"""The table of docs/models.md is what the program does."""

import pytest

from mat_ds.models.attention import kernels_of
from mat_ds.models.lora import TARGETS
from mat_ds.models.unpadded import remove_padding
from tests.models.test_perturbable import TWO_SIDED, WITHOUT_TABLE, XLNET, made
from tests.support.families import FAMILIES, build
from tests.support.launch import ROOT

# Every family here is tried in test_families.py, or in test_perturbable.py.
TRIED = {kind: lambda family=family: build(family) for family, (kind, *_) in FAMILIES.items()}
TRIED |= {
    kind: lambda kind=kind, more=more: made(kind, **more)
    for kind, more in {**TWO_SIDED, "xlnet": XLNET, **WITHOUT_TABLE}.items()
}
LINES = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
ROWS = {
    row[0].strip("`"): row[2:]
    for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in LINES)
    if row and row[0].startswith("`")
}


def test_every_family_that_is_tried_has_a_row():
    assert list(ROWS) == list(TRIED)


@pytest.mark.parametrize("kind", TRIED)
def test_a_row_is_what_the_program_does(kind):
    model = TRIED[kind]()
    perturbed = "in the encoder" if kind in TWO_SIDED else "no" if kind in {"xlnet", *WITHOUT_TABLE} else "yes"
    found, attention, padding, targets = ROWS[kind]
    assert found.partition(":")[0] == perturbed
    assert attention == ", ".join(kernels_of(type(model)))
    assert padding == ("left out" if remove_padding(model) else "computed")
    assert targets == ", ".join(TARGETS.get(kind, ("to be named",)))
    names = [name for name, _ in model.named_modules()]
    assert all(any(name.endswith(f".{end}") for name in names) for end in TARGETS.get(kind, ()))
