"""Commands that are printed can be typed as printed: from a checkout, from a wheel, in any folder."""

import ast
import re

from mat_ds.cli import COMMANDS
from tests.support.launch import ROOT
from tests.support.printed_examples import examples

# Folders and files of a checkout, which a wheel has elsewhere or not at all.
OF_A_CHECKOUT = re.compile(
    r"(?<![\w/])(launch|recipes|ds_configs|slurm|docs|examples|tests|benchmarks)/(?!s\b)|Makefile|make setup"
)


def test_the_example_of_each_command_works_in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = examples()
    assert found.keys() == COMMANDS.keys() and [name for name, words in found.items() if len(words) < 3] == ["env"]
    assert not list(tmp_path.iterdir())


def printed_texts(path):
    """The texts of a module that may be printed: all string constants, with the docstrings of commands only."""
    tree = ast.parse(path.read_text())
    silent = set()
    for node in ast.walk(tree):
        described = isinstance(node, ast.Module) and path.parent.name == "commands"
        for statement in (
            [] if described else getattr(node, "body", []) if not isinstance(node, (ast.Lambda, ast.IfExp)) else []
        ):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                silent.add(id(statement.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


def test_no_message_names_a_file_that_only_a_checkout_has():
    found = [
        (str(path.relative_to(ROOT)), line, text)
        for path in sorted((ROOT / "mat_ds").rglob("*.py"))
        for line, text in printed_texts(path)
        if OF_A_CHECKOUT.search(text)
    ]
    assert not found
