"""The gate of `mat-ds promote` on a real MLflow server: it refuses and passes, and what was found is stored."""

import json

import pytest
from mlflow import MlflowClient, artifacts

from mat_ds.artifacts.described import model_sha256
from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.registry.versions import download, registered_versions
from mat_ds.tasks.registry import TASKS
from tests.artifacts.test_robustness import report, section, write
from tests.support.heads import finished_run, texts_of
from tests.support.mlflow_server import answers_of, server

__all__ = ["server"]  # a fixture
pytestmark = pytest.mark.dist
CHAMPION = ["--alias", "champion"]


@pytest.fixture
def share(server, tmp_path):
    """Two versions of a model, on examples whose labels are the answers of the first; the share that the second answers so."""
    runs = [finished_run(tmp_path / f"seed-{seed}", "cola", seed=seed) for seed in (0, 1)]
    one, other = ([answer["label"] for answer in answers_of(run, "cola", tmp_path)] for run in runs)
    write(runs[0], report(model={"sha256": model_sha256(runs[0] / "model")}, gate=None))
    for run in runs:
        assert main(["register", str(run), "gated", "--uri", server]) == ExitCode.OK
    labels = map(TASKS["cola"].labels.index, one)
    rows = [{"sentence": row[0], "label": label} for row, label in zip(texts_of("cola"), labels, strict=True)]
    (tmp_path / "data" / "cola").mkdir(parents=True)
    (tmp_path / "data" / "cola" / "validation.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    share = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    assert 0 < share < 1, "or the test sees nothing"
    return share


def test_a_gate_measures_a_version_and_the_one_in_its_place_on_the_same_examples(share, server, tmp_path, capsys):
    (tmp_path / "gate.yaml").write_text(f"require:\n- clean >= {share}\n- accuracy(word_drop, 0.2) >= 0\n")

    def promoted(version, *required, more=()):
        capsys.readouterr()
        flags = [part for text in required for part in ("--require", str(text))]
        command = ["promote", "gated", str(version), *CHAMPION, "--uri", server, f"data.path={tmp_path}/data", *more, *flags]
        code = main(command)
        return code == ExitCode.OK if code in (ExitCode.OK, ExitCode.UNMET) else code, "".join(capsys.readouterr())

    def entry(version):
        return next(entry for entry in registered_versions("gated", server) if entry.version == version)

    def card(version):
        return (download(f"models:/gated/{version}", server) / "README.md").read_text()

    assert section(card(1)) and "### The gate" not in card(1) and "Robustness" not in card(2), "it was not evaluated"
    assert promoted(1, "clean >= 1.01")[0] is False and not entry(1).aliases
    assert "| clean &gt;= 1.01 | validation | 1.0000 |" in section(card(1))
    assert promoted(1, tmp_path / "gate.yaml")[0] is True and entry(1).aliases == ["champion"]
    assert "gate was met" in section(card(1)) and "1.01" not in card(1)
    assert "| validation | attack, characters | 50 |" in card(1), "as before it was registered"

    passed, said = promoted(2, tmp_path / "gate.yaml", "clean >= champion")
    assert "gate was **not** met" in section(card(2)) and "noise, word\\_drop 0.2" in card(2)
    assert passed is False and "champion is version 1, as before" in said and f"{share:.4f}" in said and "1.0000" in said
    assert "measuring version 1" not in said, "its numbers are stored"
    assert (entry(1).tags["mat_ds.gate.met"], entry(2).tags["mat_ds.gate.met"]) == ("true", "false")
    assert json.loads(entry(2).tags["mat_ds.gate.found"])["clean"] == {"validation": pytest.approx(share)}
    assert "clean >= champion" in entry(2).tags["mat_ds.gate.required"]
    run_id = MlflowClient(server).get_model_version("gated", "2").run_id
    kept = artifacts.load_dict(f"runs:/{run_id}/gate/gated-2/robustness.json")
    assert kept["gate"]["met"] is False and kept["data"]["sha256"] == entry(2).tags["mat_ds.gate.data_sha256"]
    assert (kept["model"]["folder"], kept["options"]["output_dir"]) == ("models:/gated/2", None)

    passed, said = promoted(2, "clean >= champion", more=["limit=9"])
    assert passed is False and "measuring version 1" in said, "it was measured on other examples"
    assert promoted(2, "clean >= 1", more=["--force"])[0] is False and entry(1).aliases == ["champion"]
    assert promoted(2, tmp_path / "gate.yaml")[0] is True and entry(2).aliases == ["champion"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--require", "clen > 0"], "did you mean 'clean'"),
        (["limit=3"], "pass --require"),
        (["limitt=3", "--require", "clean > 0"], "did you mean 'limit'"),
        (["output_dir=x", "--require", "clean > 0"], "kept with the version"),
    ],
)
def test_what_cannot_be_required_is_refused_before_the_registry_is_asked(words, reason, capsys):
    assert main(["promote", "gated", "1", *CHAMPION, "--uri", "sqlite:///no/where.db", *words]) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert reason in said and "no/where" not in said
