"""Texts chosen by strangers are printed without control characters: they cannot move the cursor, recolour or add lines."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mat_ds.commands.models import as_table
from mat_ds.doctor.rows import Row, Status
from mat_ds.doctor.table import as_text
from mat_ds.errors import Problem, UserError, printable, printable_json
from mat_ds.ranks.failure import Failure, say
from mat_ds.runs.options import RunConfig
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.registry import TASKS
from mat_ds.terminal.display import Display, show
from mat_ds.training.announce import place_lines, plan_lines
from mat_ds.training.setup import Data, Model, Options, Setup, Size, Start

PACKAGE = Path(__file__).parents[2] / "mat_ds"
# Escape sequences of 7 and 8 bits, a carriage return, a bell, a backspace, reversed text, the end of a paragraph, half a
# character.
EVIL = "x\x1b[2J\x1b]0;title\x07\x9b31m\rfix: rm\b\u202eevil\u2066\u2028\u0085\x00\x7f\udc80y"


def seen(text):
    """The characters of a text that a terminal does not print literally."""
    return [c for c in text if not c.isprintable() and c != "\n"]


def test_control_characters_are_escaped_and_others_kept():
    assert not seen(printable(EVIL)) and printable("naïve 東京 😀 a'b\"c\\d") == "naïve 東京 😀 a'b\"c\\d"
    assert printable("\x1b\u202e\n") == "\\x1b\\u202e\\n"


def test_value_reason_and_fix_of_an_error_are_one_line_each(capsys):
    text = str(UserError(Problem(EVIL, EVIL, EVIL, EVIL), Problem("a\nb", ["c\x1b"], "d\ne", "f\ng")))
    assert not seen(text) and len(text.splitlines()) == 1 + 2 * 3
    show(text)
    assert capsys.readouterr().out == text + "\n"


def test_a_long_value_is_shortened():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, ["x"] * 10**6, 10**5000, deep):
        assert len(str(Problem("key", value, "reason", "fix"))) < 1000


@pytest.mark.parametrize("moving", [False, True])
def test_a_display_prints_no_control_characters(moving, capsys):
    shown = Display(True)
    if moving:
        with shown.bar("train", 2, 0):
            shown.say(EVIL)
            shown.warn(EVIL)
    else:
        shown.say(EVIL)
        shown.warn(EVIL)
        shown.conclude(EVIL)
    out = capsys.readouterr()
    assert not seen(out.out) and not [c for c in seen(out.err) if c != "\r"] and "\\x1b[2J" in out.out + out.err


def test_texts_add_no_lines_to_an_announcement(tmp_path):
    run = RunConfig.model_validate(
        {"model": {"name": "a\nmirrored   nowhere\x1b"}, "tracking": {"uri": "none"}}
    ).at_micro_batch(8)
    data = SimpleNamespace(spec=TASKS["cola"], train=[], dev={"d\x1b": []}, tallies={})
    options, data, model = Options(run, {"zero_optimization": {}}), Data(data, None, 8), Model(None, ["h\x1b"], "", False)
    loader = SimpleNamespace(steps_per_epoch=1, dropped_per_epoch=0)
    setup = Setup(options, data, model, Start("", {}, []))
    lines = (
        *plan_lines(setup, loader, Size(1, 1), 3, 1, "card\x1b", ""),
        *place_lines(RunDirectory(tmp_path / "r\x1b\nx"), run.tracking),
    )
    assert len(lines) == 7 and not any(c for line in lines for c in line if not c.isprintable())


def test_the_tables_of_doctor_and_registry_have_no_control_characters():
    row = Row(group="input", name=EVIL, status=Status.FAIL, found=EVIL, fix=EVIL, ranks=(0,))
    assert not seen(as_text(EVIL, [row], {0: "host\x1b"}))
    entry = SimpleNamespace(name=EVIL, version="1", aliases=[EVIL + "\n"], tags={})
    lines = as_table([entry]).splitlines()
    assert not seen("".join(lines)) and len(lines) == 2


def test_the_error_of_a_rank_is_printed_without_control_characters(capsys):
    say(Failure.of(RuntimeError(EVIL), 0).text)
    assert not seen(capsys.readouterr().err)


def test_predictions_stay_json_whatever_a_label_holds():
    answer = {"label": "a\u202eb\x9bc\u3000d😀é\U000e0001", "n": [1.5]}
    text = printable_json(json.dumps(answer, ensure_ascii=False))
    assert not seen(text) and json.loads(text) == answer and "😀é" in text


PRINTING = ("predict", "export", "models", "doctor")


def test_all_printing_goes_through_display():
    """Other `print` calls would not escape control characters. The listed ones print fixed texts or JSON."""
    allowed = {"terminal/display.py", "runs/table.py", *(f"commands/{name}.py" for name in PRINTING)}
    printing = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if re.search(r"(?<![\w.])print\(", path.read_text())
    }
    assert printing <= allowed
    stream = io.StringIO()
    show(EVIL, stream)
    assert not seen(stream.getvalue())
