"""Worker: every option of MAT, other numbers of labels, and other layouts of DeepSpeed, against the oracle."""

import json
from unittest.mock import patch

import torch
from deepspeed.accelerator import get_accelerator

from mat_ds.models.freeze import freeze
from mat_ds.models.options import ModelConfig
from tests.equivalence import oracle
from tests.support.drawn import DrawnNoise, by_place
from tests.support.tiny import global_batches, shallow_roberta
from tests.support.weighted import weighted_loss
from tests.workers.worker import BF16, FP16, LR, MAT, ORACLE_OPTIONS, STAGES, ds_json, main, make, steps

CPU_OFFLOAD = {"offload_optimizer": {"device": "cpu"}}

# Options that the oracle knows by the same name.
METHOD_OPTIONS = {
    "released": {"semantics": "released"},
    "clamp": {"delta_projection": "clamp"},
    "l2": {"delta_gradient": "l2", "delta_lr": 5.0},
    "raw, lambda 3": {"delta_gradient": "raw", "delta_lr": 5.0, "lam": 3.0},
    "sign": {"delta_gradient": "sign"},
    "betas": {"beta_s": 0.7, "beta_p": 0.1},
    "mixed delta, pure theta": {"delta_beta": 0.6, "theta_beta": 0.0, "beta_p": 0.0},
    "pure delta, mixed theta": {"delta_beta": 0.0, "theta_beta": 0.6},
    "random direction": {"delta_direction": "random"},
    "lambda 0": {"lam": 0.0},
}
SGD = {"name": "sgd", "lr": LR["sgd"]}
# Adam's steps hardly depend on the size of the gradients.
CLIPPED = {"optimizer": {**SGD, "max_grad_norm": 0.5}, "update": "sgd", "max_grad_norm": 0.5}
# Step sizes by layer, as options and as the oracle's settings.
UNEVEN = {"layer_decay": 0.5, "head_lr": 3e-3}
# DeepSpeed's own updates at ZeRO-1 are made where it is to measure them.
MEASURED = {"timers": {"throughput": {"enabled": True}}}
LAYOUTS = {
    "measured, zero-1": {**ds_json(1), **MEASURED},
    "prescaled, zero-1": {**ds_json(1), "prescale_gradients": True},
    "predivided, zero-1": {**ds_json(1), "gradient_predivide_factor": 4.0},
    "round robin, zero-1": ds_json(1, round_robin_gradients=True),
    "round robin": ds_json(2, round_robin_gradients=True),
    "aligned parameters": ds_json(2, parameter_alignment=True),
    "overlapped": ds_json(2, overlap_comm=True),
    "sub-groups": ds_json(3, sub_group_size=1000),
    "nothing persistent": ds_json(3, stage3_param_persistence_threshold=0),
    "parameter offload": ds_json(3, offload_param={"device": "cpu"}, **CPU_OFFLOAD),
    **{f"offload zero-{stage}": ds_json(stage, **CPU_OFFLOAD) for stage in (1, 2, 3)},
}


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True  # for this test alone: the CPU's fp16 is slow, not wrong
    micro = 2 // world.size * 2
    oracles = {}  # one run of the oracle serves all stages and layouts
    origin = dict(shallow_roberta().named_parameters())

    def compare(
        name, tree, method=None, optimizer=None, labels=3, delta_noise=0.0, theta_noise=0.0, kernel=None, frozen=(),
        weighted=False, **settings,
    ):  # fmt: skip
        kind = (method or {}).get("name", "mat")
        lr = (optimizer or {}).get("lr", 1e-3)
        own, objective, own_task = weighted_loss(labels) if weighted else (global_batches(labels=labels), None, None)
        shared = {**{k: MAT[k] for k in ORACLE_OPTIONS}, "lr": lr, **settings}
        chosen = method or {
            **MAT,
            "delta_noise": delta_noise,
            "theta_noise": theta_noise,
            **{k: v for k, v in settings.items() if k not in ("regression", "max_grad_norm", "update", *UNEVEN)},
        }

        def model():
            made = shallow_roberta(labels=labels)
            freeze(made, ModelConfig(freeze=list(frozen)), ())
            return made

        with patch("mat_ds.engine.engine.agreed_kernel", lambda device: kernel):
            engine, player = make(world, tree, chosen, micro, {"lr": lr, **(optimizer or {})}, model(), objective=objective)
        result = steps(world, engine, player, micro, own, lr=lr)
        if world.rank == 0:
            case = json.dumps([kind, labels, chosen, shared, bool(kernel), frozen, weighted])
            if case not in oracles:
                noise = DrawnNoise(model(), chosen, own, lr, kernel=kernel)
                oracles[case] = oracle.run(model(), own, oracle.Settings(**shared, own_task=own_task), kind, noise)
            start = dict(model().named_parameters()) if labels != 3 else origin
            report[name] = oracle.distance(result, oracles[case], start)
            report[f"skipped: {name}"] = engine.skipped_since_begin
            still = [n for n, p in model().named_parameters() if not p.requires_grad]
            report[f"thawed: {name}"] = [n for n in still if not torch.equal(result[n], origin[n])]
        engine.close()

    for name, settings in METHOD_OPTIONS.items():
        for stage in (2, 3):
            compare(f"{name}, zero-{stage}", ds_json(stage), **settings)
    for name, tree in LAYOUTS.items():  # with noise as on a card, whose numbers follow the places of elements
        compare(name, tree, theta_noise=1e-2, kernel=by_place)
    compare("uneven, round robin", LAYOUTS["round robin"], optimizer=UNEVEN, theta_noise=1e-2, kernel=by_place, **UNEVEN)
    for stage in STAGES:
        zero = ds_json(stage)
        compare(f"vanilla, zero-{stage}", zero, method={"name": "vanilla"})
        compare(f"regression, zero-{stage}", zero, labels=1, regression=True)
        compare(f"clipped, zero-{stage}", zero, **CLIPPED)
        compare(f"both noises, zero-{stage}", zero, delta_noise=1e-1, theta_noise=1e-2)
        compare(f"released, both noises, zero-{stage}", zero, delta_noise=1e-1, theta_noise=1e-2, semantics="released")
        compare(f"uneven, zero-{stage}", zero, optimizer=UNEVEN, theta_noise=1e-2, **UNEVEN)
        compare(f"frozen, zero-{stage}", zero, frozen=("embeddings", "query"), theta_noise=1e-2)
        compare(f"weighted, zero-{stage}", zero, weighted=True)
        compare(f"weighted regression, zero-{stage}", zero, labels=1, regression=True, weighted=True)
        compare(f"half: fp16, zero-{stage}", ds_json(stage, FP16))
        compare(f"half: fp16 sgd, zero-{stage}", ds_json(stage, FP16), optimizer=SGD, update="sgd")
        compare(f"half: fp16 clipped, zero-{stage}", ds_json(stage, FP16), **CLIPPED)
    for stage in (1, 2, 3):
        compare(f"half: bf16 offload, zero-{stage}", ds_json(stage, BF16, **CPU_OFFLOAD))
    fp32_accumulation = {**BF16, "data_types": {"grad_accum_dtype": "fp32"}}
    for stage in (1, 2, 3):
        compare(f"half: bf16 with fp32 accumulation, zero-{stage}", ds_json(stage, fp32_accumulation))


if __name__ == "__main__":
    main(body)
