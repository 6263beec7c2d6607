"""A custom task as a plugin: is the number of words in a sentence even?

    mat-ds train --plugin examples/my_task.py --ds_config ds_configs/zero1.json task=parity

A task with data in files needs no Python: write a YAML file with the same keys, and pass task=my_task.yaml data.path=<folder>.
"""

from random import Random

import mat_ds

WORDS = "the key near old cabinets was golden and nobody who saw it had ever lifted these heavy lamps".split()


def rows(split):
    """The rows of a split; they must be the same in every process, since each rank of a run generates them."""
    random = Random(split)
    for _ in range({"train": 512, "validation": 128}[split]):
        length = random.randint(3, 12)
        yield {"sentence": " ".join(random.choices(WORDS, k=length)), "label": length % 2}


mat_ds.register_task(name="parity", text=["sentence"], labels=["even", "odd"], metrics=["accuracy"], test=[], generate=rows)
