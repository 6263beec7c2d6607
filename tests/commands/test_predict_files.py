"""`mat-ds predict` never changes its input files."""

import os

from mat_ds.commands.predict import main
from mat_ds.errors import ExitCode


def test_answers_never_overwrite_the_texts(tmp_path, capsys):
    texts, same = tmp_path / "texts.jsonl", tmp_path / "same.jsonl"
    texts.write_text('{"sentence": "lovely"}\n')
    os.link(texts, same)
    for out in (texts, same):
        assert main(["nowhere", str(texts), "--out", str(out)]) == ExitCode.USER_ERROR
        assert "would be overwritten" in capsys.readouterr().err and texts.read_text() == '{"sentence": "lovely"}\n'
