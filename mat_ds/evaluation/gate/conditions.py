"""Conditions as a user writes them: `flip_rate(characters) <= 0.05, robust_accuracy(linf, 1e-3) >= 0.8, ece <= 0.05`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mat_ds.config.text_files import read_text_file
from mat_ds.config.yaml_files import MOST_BYTES, parse_yaml
from mat_ds.errors import Problem, UserError, collect_problems, nearest, raise_if_any
from mat_ds.evaluation.gate.place import Place
from mat_ds.evaluation.gate.places import PLACES, InBall, without_defaults
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.tasks.kinds.base import Kind

KEY = "--require"
MEANING = (
    'refuse with exit code 4 unless the model meets these conditions on every dev split, such as "clean >= 0.8, '
    'robust_accuracy(linf, 1e-3) >= 0.7, ece <= 0.05", or those in a YAML file; nothing else is measured but what options name'
)
FIX = 'write conditions such as "clean >= 0.8, accuracy(word_drop, 0.1) >= 0.7, ece <= 0.05", or name a YAML list of them'
COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt
}  # fmt: skip
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
CHAMPION = "champion"
FORM = re.compile(
    rf"(?P<quantity>\w+)\s*(?:\((?P<place>[^()]*)\))?\s*(?P<comparison><=|>=|<|>)\s*"
    rf"(?:(?P<bound>{NUMBER})|(?P<champion>{CHAMPION})\s*(?P<offset>[-+]\s*{NUMBER.removeprefix('[-+]?')})?)"
)


@dataclass(frozen=True)
class Condition:
    """A condition on a quantity.

    Attributes:
        quantity, place: what is measured, and where.
        comparison: `<=`, `>=`, `<` or `>`.
        bound: the number that it is compared with; if `relative`, what is added to the champion's.
    """

    quantity: str
    place: Place
    comparison: str
    bound: float
    relative: bool
    subject: str

    def __str__(self) -> str:
        offset = f" {'-' if self.bound < 0 else '+'} {abs(self.bound):g}" if self.bound else ""
        return f"{self.subject} {self.comparison} {f'{CHAMPION}{offset}' if self.relative else f'{self.bound:g}'}"

    def met_by(self, found: float | None, champion: float | None = None, compared: bool = False) -> bool:
        """Whether a number meets it. A number that is None or NaN meets nothing.

        Args:
            found: of the model.
            champion: of the one in its place.
            compared: whether there is one; else conditions that are `relative` are met.
        """
        numbers = [found, *([champion] if self.relative and compared else [])]
        if any(number is None or number != number for number in numbers):
            return False
        bound = (champion or 0.0) + self.bound if self.relative else self.bound
        return (self.relative and not compared) or COMPARED[self.comparison](found or 0.0, bound)


def read_conditions(given: Sequence[str]) -> list[Condition]:
    """The conditions that `--require` gives: texts, and names of YAML files.

    Raises:
        UserError: naming every one that is not a condition.
    """
    texts = [
        part
        for text in given
        for part in (_conditions_in(Path(text)) if text.endswith((".yaml", ".yml")) else _split_at_commas(text))
    ]
    problems: list[Problem] = []
    found: list[Condition] = []
    for text in texts:
        if one := collect_problems(problems, _condition, text):
            found.append(one)
    if given and not texts:
        problems.append(Problem(KEY, ", ".join(given), "holds no condition", FIX))
    balls = {one.place.norm: one for one in found if isinstance(one.place, InBall)}
    if len(balls) > 1:
        reason = "an evaluation attacks in one ball"
        problems.append(
            Problem(KEY, ", ".join(map(str, balls.values())), reason, "require the other in an evaluation of its own")
        )
    raise_if_any(problems)
    return list(dict.fromkeys(found))


def completed(options: EvaluationOptions, conditions: Sequence[Condition]) -> EvaluationOptions:
    """The options with which all is measured that conditions and options name, and no more; unchanged without conditions.

    Raises:
        UserError: if they name different balls, or a condition needs an option that is not there.
    """
    if not conditions:
        return options
    given, options = options, without_defaults(options)
    for one in conditions:
        if isinstance(one.place, InBall) and "norm" in given.attack.model_fields_set and given.attack.norm != one.place.norm:
            raise UserError(Problem("attack.norm", given.attack.norm, f"but {KEY} has {one}", "leave attack.norm out"))
        options = one.place.asked(options)
    raise_if_any(_lacking_problems(conditions, options, None))
    return options


def unmeasured_problems(
    conditions: Sequence[Condition], kind: Kind, options: EvaluationOptions, tests: Sequence[str] = ()
) -> Iterator[Problem]:
    """Yields a problem for each condition on what is not measured on a task, or with these options.

    Args:
        tests: names of the tests of behaviour.
    """
    yield from _lacking_problems(conditions, options, tests)
    for one in conditions:
        if one.quantity not in (known := one.place.of_task(kind)):
            reason = f"is not measured on {kind.spec.name}, a task of {kind.name}"
            yield Problem(KEY, str(one), reason, nearest(one.quantity, known) if known else "leave it out")


def _lacking_problems(
    conditions: Sequence[Condition], options: EvaluationOptions, tests: Sequence[str] | None
) -> Iterator[Problem]:
    for one in conditions:
        if said := one.place.lacking(options, tests):
            yield Problem(KEY, str(one), *said)


def alone_problems(conditions: Sequence[Condition]) -> Iterator[Problem]:
    """Yields a problem for each condition that compares with a champion, where there is none."""
    for one in conditions:
        if one.relative:
            yield Problem(KEY, str(one), "there is no champion in an evaluation", "name a number, or ask `mat-ds promote`")


def _split_at_commas(text: str) -> list[str]:
    """The conditions in a text: what is between commas outside brackets."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _condition(text: str) -> Condition:
    match = FORM.fullmatch(text)
    if match is None:
        raise _no_condition(text, "is not a condition: QUANTITY <= NUMBER, or <, >=, >", FIX)
    quantity, inside = match["quantity"], match["place"]
    words = [word.strip() for word in inside.split(",")] if inside else []
    every = {name for kind in PLACES for name in kind.quantities}
    own = [kind for kind in PLACES if quantity in kind.quantities]
    place = next((place for kind in own if (place := kind.read(words)) is not None), None)
    if quantity not in every:
        raise _no_condition(text, f"there is no quantity {quantity!r}", nearest(quantity, every))
    if place is None:
        where = f"({', '.join(words)}) is no place to measure {quantity}"
        reason = where if words else f"{quantity} is not measured on texts as they are"
        raise _no_condition(text, reason, f"write {' or '.join(f'{quantity}{kind.form}' for kind in own)}")
    subject = f"{quantity}({', '.join(words)})" if words else quantity
    bound = match["bound"] or (match["offset"] or "0").replace(" ", "")
    return Condition(quantity, place, match["comparison"], float(bound), match["champion"] is not None, subject)


def _no_condition(text: str, reason: str, fix: str) -> UserError:
    return UserError(Problem(KEY, text, reason, fix))


def _conditions_in(path: Path) -> list[str]:
    """The conditions in a YAML file."""
    try:
        tree = parse_yaml(read_text_file(path, KEY, MOST_BYTES, FIX))
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise UserError(Problem(KEY, str(path), f"is not YAML: {said}", FIX)) from None
    found = tree.get("require") if isinstance(tree, dict) and len(tree) == 1 else tree
    if not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
        raise UserError(Problem(KEY, str(path), "is not a list of conditions, or `require:` with one", FIX))
    return [part for one in found for part in _split_at_commas(one)]
