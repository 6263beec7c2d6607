"""On a GPU: passes that are captured and replayed are the passes, with the same units dropped, at any length."""

import gc
import sys

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification

from mat_ds.engine.graphs import capture_on_card
from mat_ds.errors import UserError
from mat_ds.methods import METHODS
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.packing import LENGTH_STEP, TOKEN_STEP
from mat_ds.models.unpadded import remove_padding
from tests.support.kinds import CLASSIFICATION
from tests.support.launch import environment, run_cli
from tests.support.one_process import OneProcess
from tests.support.processes import ROOT, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")]

DEVICE = torch.device("cuda")
# Heads of 64, as the kernels like them, and enough tokens for several multiples.
SIZES = dict(
    vocab_size=200, hidden_size=128, num_hidden_layers=3, num_attention_heads=2, intermediate_size=256, pad_token_id=1,
    bos_token_id=0, eos_token_id=2, num_labels=3, initializer_range=0.1, max_position_embeddings=160,
)  # fmt: skip
FAMILIES = ("roberta", "bert", "mpnet", "modernbert", "llama")
# How far from the same pass: matrix products may take another algorithm in a graph.
FAR = {torch.float32: 2e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def capture_of(model):
    return capture_on_card()


def engine_of(replays, family="roberta", dtype=torch.float32, dropout=0.2):
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this card has no bf16")
    config = AutoConfig.for_model(family, **SIZES)
    for option, value in config.to_dict().items():
        if "drop" in option and isinstance(value, float | int):
            setattr(config, option, dropout)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).to(DEVICE, dtype)
    assert remove_padding(model, TOKEN_STEP)
    return OneProcess(model, capture_of(model) if replays else None)


def batch_of(lengths, seed=0, index=0):
    """A micro-batch of texts of these lengths, padded to a multiple."""
    longest = -(-max(lengths) // LENGTH_STEP) * LENGTH_STEP
    ids = torch.randint(3, 200, (len(lengths), longest), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    inputs = {"input_ids": ids.where(mask.bool(), 1).to(DEVICE), "attention_mask": mask.to(DEVICE)}
    return MicroBatch(inputs, (torch.arange(len(lengths)) % 3).to(DEVICE), index)


def batches():
    """Of three shapes, one without padding; the last has the shape of the first and other lengths."""
    return [
        batch_of(lengths, seed)
        for seed, lengths in enumerate(([5, 30, 9, 21] * 4, [60, 11, 33, 64] * 4, [32] * 16, [6, 29, 10, 25] * 4))
    ]


def delta_of(batch):
    shape = *batch.inputs["input_ids"].shape, SIZES["hidden_size"]
    return 1e-2 * torch.arange(float(torch.tensor(shape).prod()), device=DEVICE).cos().view(shape) * batch.mask


def payoff(logits):
    return logits.square().sum(1)


def far(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_a_replay_drops_the_units_that_its_seed_drops_outside_of_it():
    def run(x):
        return F.dropout(F.dropout(x, 0.3).exp(), 0.4)

    x, generator = torch.ones(513, 257, device="cuda"), torch.cuda.default_generators[torch.cuda.current_device()]
    replayed, masks = capture_on_card()(run, (x.clone(),)), []
    for seed in (3, 2**40 + 1, 3, 4):
        generator.manual_seed(seed)
        expected = run(x)
        generator.manual_seed(seed)
        masks.append(replayed(x).clone())
        assert torch.equal(masks[-1], expected)
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[3])


@pytest.mark.parametrize("dtype", FAR)
@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_and_gradients_are_those_of_the_pass_while_all_are_alive(family, dtype):
    replayed, made, found, expected = engine_of(True, family, dtype), engine_of(False, family, dtype), [], []
    scale = 1e-9 if dtype == torch.float16 else 1.0
    for masks in (("a",), None, ("b",)):
        for batch in batches():
            for engine, results in ((replayed, found), (made, expected)):
                results.append(engine.probe(batch, masks))
                results.append(engine.probe(batch, masks, delta_of(batch)))
                results.append(engine.delta_gradient(batch, masks, delta_of(batch), lambda logits: scale * payoff(logits)))
    assert not [i for i, pair in enumerate(zip(found, expected, strict=True)) if not far(*pair) < FAR[dtype]]
    # Other keys drop other units, and by far more than the above.
    assert all(far(found[i], found[24 + i]) > 0.1 for i in range(12))
    # Three kinds of passes of three shapes, with dropout and without.
    assert replayed.graphs.captured == 18 and replayed.graphs.replayed == 36 and bool(replayed._all_finite)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_replay_has_the_masks_of_the_pass_that_trains(dtype):
    engine = engine_of(True, dtype=dtype)
    for batch in batches():
        replay = engine.probe(batch, ("theta",), delta_of(batch))
        assert far(replay, engine.forward(batch, ("theta",), delta_of(batch)).detach()) < FAR[dtype]


@pytest.mark.parametrize("name", ["mat", "alum", "pgd"])
def test_outer_steps_of_a_method_end_near_the_same_weights(name):
    """The weights change between replays; without dropout, where rounding grows least."""
    ends = []
    for replays in (False, True):
        kind, engine = METHODS[name], engine_of(replays, dropout=0.0)
        method = kind(kind.Settings.model_validate({"name": name, "delta_lr": 1e-2, "delta_max_norm": 1e-2}), CLASSIFICATION)
        before = torch.cat([p.detach().flatten() for p in engine.model.parameters()])
        for step in range(3):
            engine._outer_step = step
            means = method.step(engine, batches())
            assert means["loss"].isfinite()
        after = torch.cat([p.detach().flatten() for p in engine.model.parameters()])
        ends.append(after - before)
        if replays:
            assert engine.graphs.captured == len(engine.graphs._passes) < engine.graphs.replayed
    assert far(ends[1], ends[0]) < 2e-2


def test_the_host_does_not_wait_for_a_replay():
    engine, (batch, *_) = engine_of(True), batches()
    delta = delta_of(batch)

    def passes():
        engine.probe(batch, ("a",))
        engine.delta_gradient(batch, ("a",), delta, payoff)

    passes()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        passes()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda._sleep(100_000_000)
    busy = torch.cuda.Event()
    busy.record()
    passes()
    assert not busy.query()


def test_the_memory_of_graphs_is_given_back():
    def held():
        gc.collect()
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    def captured():
        engine = engine_of(True)
        for batch in batches():
            engine.delta_gradient(batch, ("a",), delta_of(batch), payoff)
        assert engine.graphs.captured == 3
        return held()

    captured()
    before = held()
    within = captured()
    assert within > before and held() <= before + (4 << 20)


def refused():
    """In a process of its own, since a capture that failed leaves torch's generator and allocator as they were in it."""
    engine, (batch, *_) = engine_of(True), batches()
    engine.model.register_forward_hook(lambda module, inputs, output: float(output.logits.sum()) and None)
    with pytest.raises(UserError, match="cannot be captured"):
        engine.probe(batch, None)


def test_a_pass_that_reads_the_card_is_refused_by_name():
    command = [sys.executable, "-c", "from tests.gpu.test_graphs import refused; refused()"]
    done = run(command, 150, cwd=ROOT, env=environment("cuda"))
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("profile", ["zero1", "zero2"])
def test_a_run_that_replays_trains_and_its_export_reproduces_its_score(profile, tmp_path):
    options = ("train.max_steps=12", "train.telemetry_every=5", "model.dropout=0.1", "tracking.uri=none")
    done = run_cli("--ds_config", f"ds_configs/{profile}.json", "model.compile=graphs", *options,
                   f"output_dir={tmp_path}/run", ranks=1, device="cuda", timeout=150)  # fmt: skip
    assert done.returncode == 0 and "reproduces its score" in done.stdout, done.stderr[-3000:]
