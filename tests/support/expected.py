"""What workers measure, and the names of the checks they must report, so that a check left out does not count as passed."""

import itertools
import os

STAGES, PRECISIONS = range(4), ("fp32", "bf16", "fp16")
VARIANTS = ("dora", "rslora", "pissa")  # of LoRA
HALF_VARIANTS = (("checkpointed dora", "bf16", 3), ("rslora", "bf16", 2), ("pissa", "fp16", 2))


def few(*axes, of=2):
    """Combinations of the axes' values: all of them under `make test-all`, which sets WHOLE_GRIDS, otherwise one in `of`.

    Those are the combinations whose positions on the axes add up to a multiple of `of`. With three axes and `of=2`, each value
    of one axis still meets each value of every other.
    """
    step = 1 if "WHOLE_GRIDS" in os.environ else of
    numbered = itertools.product(*(enumerate(axis) for axis in axes))
    return [tuple(v for _, v in each) for each in numbered if sum(i for i, _ in each) % step == 0]


def named(pattern, *axes, of=1):
    """The pattern filled with the combinations of the axes that `few` chooses; all of them by default."""
    return {pattern.format(*each) for each in few(*axes, of=of)}


def exactness(accumulation):
    return named("{} zero-{} accumulation {}", ("sgd", "rmsprop", "adam"), STAGES, (accumulation,))


# Rivals that are also tried in 16 bits: what each asks of the engine, another asks too.
HALF_RIVALS = ("freelb", "yopo", "sam", "sam adaptive", "awp", "rdrop")


def rival_runs():
    """(case, stage) of every run of a rival. ZeRO-3 can neither compute the exact derivative of the follower's step nor leave
    a pass at its first layer."""
    plain = [f"{name}{kind}" for name in ("freelb", "pgd", "smart", "alum", "rdrop", "neftune") for kind in ("", " regression")]
    plain += ["freelb linf", "freelb frozen", "freelb weighted", "freeat", "r3f", "r4f"]
    plain += ["sam", "sam adaptive", "sam frozen", "sam regression"]
    plain += ["sam of one regression"]
    plain += ["awp", "awp alone", "awp frozen", "awp regression"]
    salt = ("linf clamp {}", "l2 l2 {}", "raw rescale {}", "{} regression", "released {}")
    exact, differences = ([f"salt {form.format(how)}" for form in salt] for how in ("exact", "finite_difference"))
    yopo = [f"yopo{kind}" for kind in ("", " linf", " frozen", " regression", " weighted", " one layer")]
    return {*few(plain + differences, STAGES), *few(exact + yopo, STAGES[:3])}


def kind_runs():
    """(kind, method, stage) of every run of a kind of task other than those that the rivals run on; YOPO does not at ZeRO-3."""
    from tests.equivalence.kinds import TASKS

    pairs = few([(name, method) for name, task in TASKS.items() for method in task.methods], (2, 3))
    return [((name, method), 2 if method == "yopo" else stage) for (name, method), stage in pairs]


def continued(ranks):
    """(precision, stage that saved, stage that goes on) of every run that another number of ranks continues.

    Four ranks cost four times as much as one: in `make test` they take each stage once, on both sides.
    """
    halves = [(name, *pair) for name in ("bf16", "fp16") for pair in ((1, 3), (3, 2), (2, 0), (0, 1))]
    of = 4 if ranks == 4 else 1
    return [("fp32", *pair) for pair in few(STAGES, STAGES, of=of)] + [half for (half,) in few(halves, of=of)]
