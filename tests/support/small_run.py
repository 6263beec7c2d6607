"""A run directory of a few kilobytes with two checkpoints, written by the product's own functions."""

from mat_ds.config.yaml_files import as_yaml
from mat_ds.engine import checkpoint
from mat_ds.engine.export import export_model
from mat_ds.errors import UserError, raise_if_any
from mat_ds.runs.options import RunConfig
from mat_ds.runs.resume import changed_input, find_resume
from mat_ds.storage.checkpoints import checkpoints_of
from mat_ds.storage.disk import write_json, write_text
from mat_ds.storage.integrity import MANIFEST, entry_of, files_below
from mat_ds.storage.rundir import RunDirectory
from tests.support.small_engine import SmallEngine, Tokenizer

DS_CONFIG = {"bf16": {"enabled": False}, "zero_optimization": {"stage": 2}}


def options(path):
    return RunConfig.model_validate({"output_dir": str(path), "train": {"resume": "auto"}, "optimizer": {"lr": 2e-5}})


def small_run(path):
    """A run whose checkpoints after steps 3 and 7 hold the values 3 and 7."""
    run, engine = RunDirectory(path), SmallEngine()
    run.create()
    write_text(run.config, as_yaml(options(path).model_dump(mode="json")))
    write_json(run.environment, {"deepspeed_config": DS_CONFIG, "data_sha256": "d", "frozen_sha256": "f", "starts": []})
    for step in (3, 7):
        engine.fill(step)
        export_model(engine, Tokenizer(), run.model)
        evaluation = {"step": step, "score": step / 10, "dev": {"accuracy": step / 10}}
        state = {"step": step, "evaluations": [evaluation], "seconds": 1.5, "samples": 8 * step, "tokens": 90, "exported": step}
        checkpoint.save(engine, run.checkpoints, state, keep_last=2, model=run.model)
    return run


def goes_on(path):
    """The value from which a run continues, and the remarks on skipped checkpoints; if it does not continue, the error."""
    engine = SmallEngine()
    try:
        found = find_resume(options(path), DS_CONFIG)
        assert found, "the run would start afresh"
        raise_if_any(changed_input("d", "f", RunDirectory(path)))
        state, passed_over = checkpoint.load_checkpoint(engine, found, RunDirectory(path).model)
    except UserError as error:
        return None, str(error)
    assert engine.value == state["step"]
    return engine.value, "; ".join(passed_over)


def sign(folder):
    """Rewrites a checkpoint's manifest so that it matches the files."""
    write_json(folder / MANIFEST, {name: entry_of(folder / name) for name in files_below(folder)})


def newest(path):
    return checkpoints_of(path, beyond_latest=True)[0]
