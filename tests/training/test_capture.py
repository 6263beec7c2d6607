"""`model.compile=graphs` is refused before training where passes cannot be captured."""

from types import SimpleNamespace

from transformers import RobertaConfig

from mat_ds.engine.graphs import graph_problems
from mat_ds.models.build import Built
from mat_ds.models.options import ModelConfig
from tests.support.launch import ROOT
from tests.support.run_folders import QUICK, ZERO2
from tests.training.test_preflight import offline, problems  # noqa: F401


def test_passes_that_cannot_be_replayed_are_refused(monkeypatch):
    asked, zero3 = "model.compile=graphs", ROOT / "ds_configs" / "zero3.json"
    for more, ds_config, reason in (
        ((), ZERO2, "no NVIDIA GPU"),
        (("method.name=freelb",), ZERO2, "freelb as asked for has no passes but those that train"),
        (("method.lam=0",), ZERO2, "mat as asked for has no passes"),
        ((), zero3, "ZeRO-3 gathers weights"),
        (("model.gradient_checkpointing=true",), ZERO2, "compute layers again"),
    ):
        found = problems(asked, *more, *QUICK, ds_config=ds_config)
        assert set(found) == {"model.compile"} and reason in found["model.compile"].reason
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    config = RobertaConfig()
    for unpadded, options, reason in (
        (True, {}, None),
        (False, {}, "as roberta does"),
        (False, {"attention": "eager"}, "=eager"),
    ):
        built = Built(SimpleNamespace(config=config), [], {}, unpadded=unpadded)
        said = [problem.reason for problem in graph_problems(ModelConfig(compile="graphs", **options), built)]
        assert reason in said[0] if reason else not said
        assert not list(graph_problems(ModelConfig(**options), built))
