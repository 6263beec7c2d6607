"""Counts on the meta device equal a method's passes and the memory that autograd keeps on a real device."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from mat_ds.methods import METHODS
from mat_ds.models.lora import add_lora
from mat_ds.models.options import LoraConfig
from mat_ds.models.recompute import recompute_activations
from mat_ds.planning.costs import Costs, estimated_bytes, estimated_flops
from mat_ds.planning.live import Live, gpu_kernels
from mat_ds.planning.rehearsal import Rehearsal, Stub, blank_batches
from mat_ds.runs.options import RunConfig
from tests.support.families import FAMILIES, build
from tests.support.kinds import CLASSIFICATION
from tests.support.tiny import tiny_roberta

META = torch.device("meta")
LONG = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=4, max_position_embeddings=80)


def settings(name, **options):
    return RunConfig.model_validate({"method": {"name": name, **options}}).method


def method(chosen):
    return METHODS[chosen.name](chosen, CLASSIFICATION)


def inputs(device, examples=4, length=12):
    """Ids and mask; the last token of the first text is padding."""
    ids = torch.full((examples, length), 5, device=device)
    mask = torch.ones_like(ids)
    if device != META:
        mask[0, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def on(device, make, **arguments):
    with torch.device(device):
        return make(**arguments).train()


def saved_bytes(model, batch):
    """Bytes that autograd keeps for the backward of a pass, with the logits."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *batch.values())}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and storage.nbytes():
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(**batch).logits
    return sum(saved.values()), logits


def alive_bytes(model, batch):
    """Bytes of live tensors after a pass, and at the peak of the pass and its backward."""
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with Live((*model.parameters(), *model.buffers(), *batch.values())) as live:
        logits = model(**batch).logits
        after = live.now
        logits.sum().backward()
    return after, live.peak


@pytest.mark.parametrize("family", FAMILIES)
def test_live_bytes_on_the_meta_device_equal_those_that_a_real_pass_saves(family):
    real, meta = (on(device, build, family=family, dropout=0.1) for device in ("cpu", "meta"))
    for model in (real, meta):
        model.set_attn_implementation("eager")
    batch, blank = inputs(torch.device("cpu")), inputs(META)
    saved, logits = saved_bytes(real, batch)
    after, peak = alive_bytes(meta, blank)
    del logits
    assert after == pytest.approx(saved, rel=0.02)
    assert (after, peak) == pytest.approx(alive_bytes(real, batch), rel=0.001)


def test_recomputed_layers_keep_only_their_input():
    def bytes_of(again):
        model = on("meta", tiny_roberta, dropout=0.1, **LONG)
        if again:
            recompute_activations(model)
        with gpu_kernels():
            return alive_bytes(model, inputs(META, 8, 64))

    (all_kept, peak), (recomputed, lower) = bytes_of(False), bytes_of(True)
    hidden = 8 * 64 * 64 * 4
    assert recomputed < all_kept / 3 and recomputed >= 4 * hidden
    assert recomputed + (all_kept - recomputed) / 8 < lower < peak / 1.5


def test_a_gpu_keeps_one_byte_per_dropped_unit_and_no_attention_matrix():
    def kept(operation, *shape):
        given = [torch.empty(*shape, device=META, requires_grad=True) for _ in range(3)]
        with Live(given) as live:
            result = operation(*given)
        return live.now - result.numel() * 4

    def attend(query, key, value):
        mask = torch.ones(2, 1, 40, 40, dtype=torch.bool, device=META)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=0.1)

    with gpu_kernels():
        assert kept(lambda x, *_: F.dropout(x, 0.1), 5, 7) == 5 * 7
        # The bias made from the mask, with rows padded to 48, and one number per row and head, padded to 64 rows.
        attention = kept(attend, 2, 4, 40, 8)
        assert attention == pytest.approx(2 * 40 * 48 * 4 + 2 * 4 * 64 * 4, abs=100)
    assert kept(lambda x, *_: F.dropout(x, 0.1), 5, 7) == 5 * 7 * 4
    assert kept(attend, 2, 4, 40, 8) > attention + 2 * 2 * 4 * 40 * 40 * 4


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_passes_add_up_to_its_cost(name):
    chosen, examples, accumulation = settings(name), 3, 2
    tally = Rehearsal(Stub(24, CLASSIFICATION), torch.float32).play(
        method(chosen), blank_batches(accumulation, examples, 10, CLASSIFICATION)
    )
    units = tally.forward.examples + 2 * tally.backward.examples + tally.input_gradient.examples
    units += Fraction(2 * tally.first_layer.examples, chosen.counted_layers or 1)
    assert units == method(chosen).cost * examples * accumulation
    assert tally.updates == method(chosen).chain.samples
    assert tally.backward.calls % accumulation == 0


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(pytest.param(name, torch.float32, marks=[pytest.mark.slow] * (name not in ("vanilla", "mat"))) for name in METHODS),
        pytest.param("mat", torch.float16, marks=pytest.mark.slow),
    ],
)
def test_two_iterations_of_a_loop_hold_as_much_as_all(name, dtype):
    rehearsal, chosen = Rehearsal(on("meta", tiny_roberta, dropout=0.1, **LONG), dtype), settings(name)
    whole, short = (rehearsal.play(method(s), blank_batches(1, 4, 64, CLASSIFICATION)) for s in (chosen, chosen.shortened))
    assert short.peak - short.held == pytest.approx(whole.peak - whole.held, rel=0.01)


def stub_tally(name, count):
    """Counts for `count` micro-batches of two examples with ten tokens and 240 hidden units."""
    return Rehearsal(Stub(240, CLASSIFICATION), torch.float32).play(
        method(settings(name)), blank_batches(count, 2, 10, CLASSIFICATION)
    )


def test_perturbations_of_all_micro_batches_are_held_at_once():
    few, many = stub_tally("mat", 2), stub_tally("mat", 5)
    assert many.held - few.held == pytest.approx(3 * 2 * 10 * 240 * 4, rel=0.1)
    assert many.backward.calls == 5 * 10


def test_methods_that_make_each_backward_pass_before_the_next_forward_pass():
    steady = {name for name in METHODS if stub_tally(name, 2).one_by_one}
    assert steady == {"vanilla", "pgd", "freelb", "yopo", "freeat", "rdrop", "neftune", "r3f", "r4f", "sam", "awp"}


def test_a_model_is_made_whole_once_for_each_run_of_passes_without_gradients_of_the_weights():
    gathers = {name: stub_tally(name, 2).gathers for name in METHODS}
    none = {"vanilla", "freelb", "freeat", "rdrop", "neftune", "r3f", "r4f", "sam"}
    assert {name for name, times in gathers.items() if not times} == none
    # Two micro-batches: for both together before the updates, or each time that one is trained on, and its teacher apart.
    assert gathers["mat"] == gathers["pgd"] == gathers["awp"] == 1 and gathers["smart"] > 2
    found = costs().pass_bytes(settings("mat"), 8, False)
    assert 0.3 < found.whole / found.most < 0.5  # half as many inputs, and no weights' inputs kept
    assert costs().pass_bytes(settings("vanilla"), 8, False).whole == 0


def costs(build=None, **more):
    return Costs(
        build or (lambda again: on("meta", tiny_roberta, dropout=0.1, **LONG, **more)), torch.float32, CLASSIFICATION, 64, 32
    )


@pytest.mark.parametrize("name", ["alum", "mat", "r4f"])
def test_the_peak_is_a_convex_function_of_the_micro_batch(name):
    found, chosen = costs(vocab_size=2000), settings(name)
    one, three, eight = (found.pass_bytes(chosen, size, False) for size in (1, 3, 8))
    assert all(three[i] <= one[i] + (eight[i] - one[i]) * 2 / 7 for i in range(2))
    assert eight.most > one.most
    assert found.estimated == ""


def test_frozen_layers_save_the_multiplications_of_their_gradients():
    def adapted(again):
        with META:
            return add_lora(on("meta", tiny_roberta, **LONG), "nowhere", LoraConfig(r=2), [], seed=0)

    forward, backward, back, _ = costs().flops(settings("mat"), False)
    # Fused attention recomputes its matrix in the backward pass.
    assert backward == pytest.approx(2 * forward, rel=0.15) and back == pytest.approx(forward, rel=0.15)
    _, with_adapters, *_ = costs(adapted).flops(settings("mat"), False)
    assert with_adapters < 0.65 * backward
    of_layer = costs().flops(settings("yopo", layers=4), False)[3]
    assert of_layer == pytest.approx((forward + back) / 4, rel=0.15)
    done = costs().tally(settings("mat"), 4, 1)
    flops = done.forward.examples * forward + done.backward.examples * backward + done.input_gradient.examples * back
    assert costs().step_flops(settings("mat"), 4, 1, False) == pytest.approx(flops)


def test_a_model_that_cannot_run_without_values_is_estimated_and_the_plan_says_so():
    def stubborn(again):
        model = on("meta", tiny_roberta, **LONG)
        model.register_forward_pre_hook(lambda module, args, kwargs: int(kwargs["input_ids"].max()), with_kwargs=True)
        return model

    found, chosen = costs(stubborn), settings("mat")
    counted, estimated = costs().pass_bytes(chosen, 8, False), found.pass_bytes(chosen, 8, False)
    assert "meta" in found.estimated
    config = on("meta", tiny_roberta, **LONG).config
    assert estimated == tuple(estimated_bytes(config, count * 64, 64, 4, False) for count in (2 * 8, 8))
    assert all(0.5 < one / other < 1.5 for one, other in zip(counted, estimated, strict=True))
    forward, backward, back = estimated_flops(found.parameters[0], 32, False)
    assert found.flops(chosen, False)[:3] == (forward, backward, back)
    assert found.flops(settings("yopo", layers=4), False)[3] == (forward + back) / 4
