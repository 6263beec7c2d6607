"""A task of one's own, as a plugin: is the number of words in a sentence even?

    mat-ds train --plugin examples/my_task.py --ds_config ds_configs/zero1.json task=parity

A task whose rows lie in files needs no Python: a YAML file of the same keys, task=my_task.yaml and data.path=<folder>.
"""

from random import Random

import mat_ds

WORDS = "the key near old cabinets was golden and nobody who saw it had ever lifted these heavy lamps".split()


def rows(split):
    """The rows of a split; equal in every process, as the ranks of a run each make their own."""
    random = Random(split)
    for _ in range({"train": 512, "validation": 128}[split]):
        length = random.randint(3, 12)
        yield {"sentence": " ".join(random.choices(WORDS, k=length)), "label": length % 2}


mat_ds.register_task(name="parity", text=["sentence"], labels=["even", "odd"], metrics=["accuracy"], test=[], generate=rows)
