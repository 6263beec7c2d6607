"""The fine-tuning methods, one file each."""

from mat_ds.methods.alum import ALUM
from mat_ds.methods.awp import AWP
from mat_ds.methods.base import Method
from mat_ds.methods.freeat import FreeAT
from mat_ds.methods.freelb import FreeLB
from mat_ds.methods.mat import Mat
from mat_ds.methods.neftune import NEFTune
from mat_ds.methods.pgd import PGD
from mat_ds.methods.r3f import R3F
from mat_ds.methods.r4f import R4F
from mat_ds.methods.rdrop import RDrop
from mat_ds.methods.salt import SALT
from mat_ds.methods.sam import SAM
from mat_ds.methods.smart import SMART
from mat_ds.methods.vanilla import Vanilla
from mat_ds.methods.yopo import YOPO

KINDS = (ALUM, AWP, FreeAT, FreeLB, Mat, NEFTune, PGD, R3F, R4F, RDrop, SALT, SAM, SMART, Vanilla, YOPO)
METHODS: dict[str, type[Method]] = {kind.Settings.model_fields["name"].default: kind for kind in KINDS}
