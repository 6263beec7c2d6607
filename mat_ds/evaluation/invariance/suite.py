"""Reads tests of a model's behaviour from a YAML of templates, and expands them to texts. It imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, UserError, nearest, raise_if_any
from mat_ds.evaluation.invariance.templates import combinations, count_of, filled, slots_in
from mat_ds.evaluation.invariance.written import TOLERANCE, WrittenTest, parsed, problems_of_test, slot_problems
from mat_ds.tasks.example import Example, text_fault
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec

# Texts that the tests of a file may expand to, all together.
MOST_TEXTS = 1_000_000


@dataclass(frozen=True)
class BehaviourTest:
    """A test, expanded.

    Attributes:
        name, kind: of the test; `mft`, `inv` or `dir`.
        label: number of the expected label, or of the one whose probability may not fall; None for `inv`.
        tolerance: by how much that probability may fall.
        combinations: of fills that there are; more than there are cases if some were drawn.
        cases: of each case the examples that are compared; one for `mft`; for `dir` the first is what the others change.
    """

    name: str
    kind: str
    label: int | None
    tolerance: float
    combinations: int
    cases: tuple[tuple[Example, ...], ...]


@dataclass(frozen=True)
class Suite:
    """The tests of a file, whose digest `sha256` is."""

    file: str
    sha256: str
    tests: tuple[BehaviourTest, ...]

    @property
    def examples(self) -> list[Example]:
        """All examples, test by test and case by case."""
        return [example for test in self.tests for case in test.cases for example in case]


def read_tests(file: str, spec: TaskSpec, seed: int) -> Suite:
    """Reads and expands the tests in a YAML file.

    Args:
        file: its path.
        spec: the task of the model.
        seed: decides which combinations of fills are taken where there are more than `cases`.

    Raises:
        UserError: naming every problem in the file.
    """
    if not kind_of(spec).soft_labels:
        reason = f"compares labels, of which an answer of {spec.name} is not one"
        raise UserError(Problem("invariance", file, reason, "leave it out; it is for tasks of classification"))
    tree = read_yaml(Path(file))
    shared = tree.get("slots", {})
    found = [Problem(f"{file}: {key}", None, "there is no such key", nearest(key, ("slots", "tests")))
             for key in tree.keys() - {"slots", "tests"}]  # fmt: skip
    found += slot_problems(f"{file}: slots", shared)
    written = tree.get("tests")
    if not isinstance(written, list) or not written:
        found.append(Problem(f"{file}: tests", written, "is not a list of tests", "write `tests:` and `- name: ...` below it"))
    raise_if_any(found)
    tests: list[BehaviourTest] = []
    for i, one in enumerate(written):  # type: ignore[arg-type]
        where = f"{file}: tests[{i}]"
        test = parsed(one, where, found)
        if test and (wrong := list(problems_of_test(test, where, shared, spec))):
            found += wrong
        elif test and test.name in [other.name for other in tests]:
            found.append(Problem(f"{where}.name", test.name, "is another test's name too", "give each a name of its own"))
        elif test:
            tests.append(_expanded(test, shared, spec, seed, file))
            found += _text_problems(tests[-1], where)
    raise_if_any(found)
    if (count := sum(len(case) for test in tests for case in test.cases)) > MOST_TEXTS:
        raise UserError(Problem(file, f"{count:,} texts", f"are more than {MOST_TEXTS:,}", "lower `cases`, or vary less"))
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return Suite(file, digest, tuple(tests))


def _templates(test: WrittenTest, spec: TaskSpec) -> list[tuple[str, ...]]:
    """The template and its variants, each as a template for each column."""
    every = (test.template, *test.variants)
    return [(one,) if isinstance(one, str) else tuple(one[column] for column in spec.text) for one in every]


def _expanded(test: WrittenTest, shared: dict[str, list[str]], spec: TaskSpec, seed: int, file: str) -> BehaviourTest:
    """The cases of a test without problems."""
    templates, slots = _templates(test, spec), {**shared, **test.slots}
    used = dict.fromkeys(slot for texts in templates for text in texts for slot in slots_in(text))
    over = {slot: slots[slot] for slot in used if slot != test.vary}
    cases = []
    for number, fills in enumerate(combinations(over, test.cases, (seed, "invariance", test.name))):
        where = f"{file}: {test.name}, case {number}"
        ways = [{**fills, test.vary: fill} for fill in slots[test.vary]] if test.vary else [fills]
        texts = [tuple(filled(text, way) for text in columns) for way in ways for columns in templates]
        cases.append(tuple(Example(one, None, where=where) for one in texts))
    label = None if test.label is None else spec.labels.index(test.label)
    tolerance = TOLERANCE if test.tolerance is None else test.tolerance
    return BehaviourTest(test.name, test.kind, label, tolerance, count_of(over), tuple(cases))


def _text_problems(test: BehaviourTest, where: str) -> Iterator[Problem]:
    """Yields a problem if a test expands to what is no text for a model: the first such text."""
    for case in test.cases:
        for example in case:
            if fault := _first_fault(example.texts):
                yield Problem(where, fault[0], fault[1], "mend the template or the fills")
                return


def _first_fault(texts: Sequence[str]) -> tuple[object, str] | None:
    for text in texts:
        if wrong := text_fault("it", text):
            return wrong.value, f"expands to what is no text: {wrong.reason}"
    return None if any(text.strip() for text in texts) else (texts[0], "expands to a blank text")
