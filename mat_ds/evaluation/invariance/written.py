"""Tests of a model's behaviour as they are written in a YAML, and what can be wrong with them.

It imports no torch, so that a mistake is answered at once. docs/robustness.md describes the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from mat_ds.config.section import Count, Section
from mat_ds.config.validation import meant_choice
from mat_ds.errors import Problem, nearest
from mat_ds.evaluation.invariance.templates import slots_in
from mat_ds.tasks.spec import TaskSpec

MFT, INV, DIR = "mft", "inv", "dir"
# Keys that a test of each kind needs, and that tests of the other kinds may not have.
OWN = {MFT: ("label",), INV: ("vary", "variants"), DIR: ("label", "variants", "tolerance")}
EXAMPLES = {
    "name": "name: negated praise", "kind": "kind: mft", "template": 'template: "This film is {praise}."',
    "slots": "slots: {praise: [good, great]}", "label": "label: positive", "vary": "vary: praise",
    "variants": 'variants: ["{praise}!"]', "tolerance": "tolerance: 0.1", "cases": "cases: 200", "tests": "tests: [{...}]",
}  # fmt: skip
# As in the tests of CheckList's authors: a smaller fall is not counted.
TOLERANCE = 0.1
CASES = 200


def _template(value: object) -> object:
    if isinstance(value, str) or (isinstance(value, dict) and value and all(isinstance(v, str) for v in value.values())):
        return value
    raise ValueError("is neither a text in quotes nor such a text for each column of the task")


def _fills(value: object) -> object:
    for slot, fills in value.items() if isinstance(value, dict) else ():
        if not isinstance(fills, list) or not fills or not all(isinstance(fill, str) for fill in fills):
            raise ValueError(f"{slot}: is not a list of words or texts; numbers, true and null need quotes")
        if len(set(fills)) < len(fills):
            raise ValueError(f"{slot}: has a fill twice")
    return value


OneTemplate = Annotated[Any, BeforeValidator(_template)]
Slots = Annotated[dict[str, list[str]], BeforeValidator(_fills)]


class WrittenTest(Section):
    """A test as it is written."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    kind: Literal["mft", "inv", "dir"]
    template: OneTemplate
    slots: Slots = Field({})
    label: str | None = None
    vary: str | None = None
    variants: Annotated[tuple[OneTemplate, ...], Field(strict=False)] = ()
    tolerance: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    cases: Count = CASES


def slot_problems(key: str, slots: object) -> Iterator[Problem]:
    """Yields a problem if the shared slots are not lists of fills."""
    try:
        _fills(slots)
    except ValueError as error:
        yield Problem(key, None, str(error), f"write it as in `{EXAMPLES['slots']}`")
    if not isinstance(slots, dict):
        yield Problem(key, slots, "is not a mapping of slots to their fills", f"write it as in `{EXAMPLES['slots']}`")


def parsed(tree: Any, where: str, found: list[Problem]) -> WrittenTest | None:
    """A test as written; None if it has another form, and `found` then says how."""
    if not isinstance(tree, dict):
        found.append(Problem(where, tree, "is not a test", f"write it as in `{EXAMPLES['name']}`, with a key in each line"))
        return None
    try:
        return WrittenTest.model_validate(tree)
    except ValidationError as error:
        for each in {str(wrong["loc"][0]): wrong for wrong in error.errors()}.values():
            key = str(each["loc"][0])
            reason = each["msg"].removeprefix("Value error, ")
            reason = reason[:1].lower() + reason[1:]
            example = f"{meant_choice(each)}write it as in `{EXAMPLES.get(key, '')}`"
            if each["type"] == "extra_forbidden":
                reason, example = "there is no such key", nearest(key, WrittenTest.model_fields)
            found.append(Problem(f"{where}.{key}", None if each["type"] == "missing" else tree.get(key), reason, example))
        return None


def problems_of_test(test: WrittenTest, where: str, shared: dict[str, list[str]], spec: TaskSpec) -> Iterator[Problem]:
    """Yields what is wrong with a test that has the right form."""
    for key in ("label", "vary", "variants", "tolerance"):
        if (value := getattr(test, key)) not in (None, ()) and key not in OWN[test.kind]:
            yield Problem(f"{where}.{key}", value, f"is not for a test of kind {test.kind}", "delete it, or change the kind")
    needed = [key for key in OWN[test.kind] if key != "tolerance"]
    lacking = [key for key in needed if getattr(test, key) in (None, ())]
    if test.kind == INV and len(lacking) != 1:
        reason = "needs one of `vary`, a slot, and `variants`, other templates: between which no prediction may change"
        yield Problem(where, test.name, reason, f"write one, as in `{EXAMPLES['vary']}`")
    elif test.kind != INV:
        for key in lacking:
            fix = f"write it, as in `{EXAMPLES[key]}`"
            yield Problem(f"{where}.{key}", None, f"is missing: a test of kind {test.kind} needs it", fix)
    if test.label is not None and test.label not in spec.labels:
        yield Problem(f"{where}.label", test.label, f"is no label of {spec.name}", nearest(test.label, spec.labels))
    used = set[str]()
    for i, one in enumerate((test.template, *test.variants)):
        key = f"{where}.template" if not i else f"{where}.variants[{i - 1}]"
        fits = len(spec.text) == 1 if isinstance(one, str) else one.keys() == set(spec.text)
        if not fits:
            form = (
                "one text in quotes" if len(spec.text) == 1 else "{" + ", ".join(f'{name}: "..."' for name in spec.text) + "}"
            )
            yield Problem(key, one, f"{spec.name} reads {' and '.join(spec.text)}", f"write {form}")
        for text in [one] if isinstance(one, str) else one.values():
            try:
                used |= set(slots_in(text))
            except ValueError as error:
                yield Problem(key, text, str(error), "write {name} for a slot, and {{ or }} for a brace")
                return
    slots = {**shared, **test.slots}
    for slot in sorted(used - slots.keys()):
        yield Problem(f"{where}.template", f"{{{slot}}}", "is a slot without fills", f"slots: {{{slot}: [...]}}")
    for slot in sorted(test.slots.keys() - used):
        yield Problem(f"{where}.slots", slot, "stands in no template of the test", "delete it, or write {" + slot + "}")
    if test.vary is not None and (test.vary not in used or len(slots.get(test.vary, ())) < 2):
        yield Problem(f"{where}.vary", test.vary, "is no slot of the template with two fills or more", "name such a slot")
