"""What workers report on, by name: one that left a check out is not taken for one that passed."""

import itertools

STAGES, PRECISIONS = range(4), ("fp32", "bf16", "fp16")


def named(pattern, *parts):
    """The pattern filled with each combination of the parts."""
    return {pattern.format(*each) for each in itertools.product(*parts)}


def exactness(accumulation):
    return named("{} zero-{} accumulation {}", ("sgd", "rmsprop", "adam"), STAGES, (accumulation,))


def rivals(accumulation):
    """An exact derivative of the follower's step is not served by ZeRO-3."""
    plain = named("{}{}", ("freelb", "pgd", "smart", "alum", "rdrop"), ("", " regression"))
    plain |= {"freelb linf", "freeat", "r3f", "r4f"}
    salt = ("linf clamp {}", "l2 l2 {}", "raw rescale {}", "{} regression", "released {}")
    exact, differences = ({f"salt {form.format(how)}" for form in salt} for how in ("exact", "finite_difference"))
    name = "{}, zero-{}, accumulation {}"
    return named(name, plain | differences, STAGES, (accumulation,)) | named(name, exact, STAGES[:3], (accumulation,))
