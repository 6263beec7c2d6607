"""The names of all checks that workers must report, so that a check left out does not count as passed."""

import itertools

STAGES, PRECISIONS = range(4), ("fp32", "bf16", "fp16")


def named(pattern, *parts):
    """The pattern, filled in with each combination of the parts."""
    return {pattern.format(*each) for each in itertools.product(*parts)}


def exactness(accumulation):
    return named("{} zero-{} accumulation {}", ("sgd", "rmsprop", "adam"), STAGES, (accumulation,))


def rivals(accumulation):
    """The rivals' checks; ZeRO-3 cannot compute the exact derivative of the follower's step."""
    plain = named("{}{}", ("freelb", "pgd", "smart", "alum", "rdrop"), ("", " regression"))
    plain |= {"freelb linf", "freeat", "r3f", "r4f"}
    salt = ("linf clamp {}", "l2 l2 {}", "raw rescale {}", "{} regression", "released {}")
    exact, differences = ({f"salt {form.format(how)}" for form in salt} for how in ("exact", "finite_difference"))
    name = "{}, zero-{}, accumulation {}"
    return named(name, plain | differences, STAGES, (accumulation,)) | named(name, exact, STAGES[:3], (accumulation,))
