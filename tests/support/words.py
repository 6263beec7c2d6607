"""Words and tags for tests of token classification."""

from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SPEC = TaskSpec(name="own", kind="token_classification", labels=BIO, metrics=("seqeval_f1", "accuracy"), test=())
KIND = kind_of(SPEC)
CONLL = """-DOCSTART- -X- O

Anna NNP B-PER
Smith NNP I-PER
lives VBZ O

Oslo NNP B-LOC
"""
FOUND = [(("Anna", "Smith", "lives"), (1, 2, 0)), (("Oslo",), (3,))]


def pairs(examples):
    return [(example.texts, example.label) for example in examples]
