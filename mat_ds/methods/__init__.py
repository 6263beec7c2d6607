"""The fine-tuning methods, one small file each."""

from mat_ds.methods.base import Method
from mat_ds.methods.mat import Mat
from mat_ds.methods.vanilla import Vanilla

METHODS: dict[str, type[Method]] = {"mat": Mat, "vanilla": Vanilla}
