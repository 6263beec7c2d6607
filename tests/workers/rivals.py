"""Worker: every rival method at every ZeRO stage, with one accumulation, against the float64 oracle.

Its arguments are the accumulation and, for fewer rivals, a precision of 16 bits.
"""

import sys

from deepspeed.accelerator import get_accelerator

from mat_ds.methods import METHODS
from mat_ds.models.freeze import freeze
from mat_ds.models.options import ModelConfig
from tests.equivalence import oracle, rivals
from tests.support.drawn import DrawnNoise
from tests.support.expected import HALF_RIVALS, rival_runs
from tests.support.tiny import global_batches, shallow_roberta
from tests.support.weighted import weighted_loss
from tests.workers.worker import PRECISION, ds_json, main, make, steps

BALL = {"delta_steps": 3, "delta_lr": 0.4, "delta_init_norm": 0.3, "delta_max_norm": 0.5}
YOPO = {**BALL, "delta_lr": 0.2, "layer_steps": 2, "layers": 2}
VIRTUAL = {"delta_lr": 5e-2, "delta_init_scale": 2e-2, "delta_max_norm": 4e-2, "lam": 3.0}

# name -> options of the method, and their names in the oracle if these differ.
CASES = {
    "freelb": {"name": "freelb", **BALL},
    "freelb linf": {
        "name": "freelb", "delta_norm": "linf", "delta_lr": 0.02, "delta_init_norm": 0.02, "delta_max_norm": 0.03},
    "freelb frozen": {"name": "freelb", **BALL},
    "freelb regression": {"name": "freelb", **BALL},
    "freelb weighted": {"name": "freelb", **BALL},
    "yopo": {"name": "yopo", **YOPO},
    "yopo linf": {
        "name": "yopo", **YOPO, "delta_norm": "linf", "delta_lr": 0.01, "delta_init_norm": 0.02, "delta_max_norm": 0.03},
    "yopo frozen": {"name": "yopo", **YOPO},
    "yopo regression": {"name": "yopo", **YOPO},
    "yopo weighted": {"name": "yopo", **YOPO},
    "yopo one layer": {"name": "yopo", **YOPO, "layers": 1},
    "pgd": {"name": "pgd", **BALL},
    "pgd regression": {"name": "pgd", **BALL},
    "freeat": {"name": "freeat", **BALL},
    "smart": {"name": "smart", "delta_steps": 2, **VIRTUAL, "teacher_decay": 0.5, "mu": 2.0},
    "smart regression": {"name": "smart", "delta_steps": 1, **VIRTUAL, "teacher_decay": 0.5},
    "alum": {"name": "alum", "delta_steps": 2, **VIRTUAL},
    "alum regression": {"name": "alum", "delta_steps": 1, **VIRTUAL},
    "rdrop": {"name": "rdrop", "alpha": 5.0},
    "rdrop regression": {"name": "rdrop", "alpha": 5.0},
    "neftune": {"name": "neftune", "alpha": 5.0},
    "neftune regression": {"name": "neftune", "alpha": 5.0},
    "sam": {"name": "sam", "rho": 0.3},
    "sam adaptive": {"name": "sam", "rho": 2.0, "adaptive": True},
    "sam frozen": {"name": "sam", "rho": 0.3},
    "sam regression": {"name": "sam", "rho": 0.3},
    # One trained number, and none of it on the second rank, which has to join in the sums of the ascent all the same.
    "sam of one regression": {"name": "sam", "rho": 0.3},
    "awp": {"name": "awp", **BALL, "gamma": 0.2},
    "awp alone": {"name": "awp", "delta_steps": 0, "gamma": 0.2},
    "awp frozen": {"name": "awp", "delta_steps": 0, "gamma": 0.2},
    "awp regression": {"name": "awp", **BALL, "gamma": 0.2},
    "r3f": {"name": "r3f", "lam": 3.0, "noise_scale": 0.1},
    "r4f": {"name": "r4f", "lam": 3.0, "noise_scale": 0.1},
    **{
        f"salt {gradient} {projection} {derivative}": {
            "name": "salt", **VIRTUAL, "delta_gradient": gradient, "delta_projection": projection, "derivative": derivative,
            "delta_lr": lr, "delta_max_norm": radius}
        for gradient, projection, lr, radius in (
            ("linf", "clamp", 5e-2, 4e-2), ("l2", "l2", 0.5, 0.4), ("raw", "rescale", 1.0, 4e-2))
        for derivative in ("exact", "finite_difference")
    },
    **{
        f"salt {derivative} regression": {"name": "salt", **VIRTUAL, "delta_gradient": "linf", "derivative": derivative}
        for derivative in ("exact", "finite_difference")
    },
    **{
        f"salt released {derivative}": {
            "name": "salt", **VIRTUAL, "delta_gradient": "raw", "delta_lr": 1.0, "derivative": derivative,
            "follower": "released"}
        for derivative in ("exact", "finite_difference")
    },
}  # fmt: skip
ORACLES = {
    "delta_init_norm": "delta_init",
    "delta_init_scale": "delta_init",
    "noise_scale": "delta_init",
    "teacher_decay": "decay",
    "delta_gradient": "delta_norm",
    "delta_projection": "projection",
}


def body(world, report):
    accumulation, half = int(sys.argv[2]), sys.argv[3:]
    precision = PRECISION[half[0] if half else "fp32"]
    for name, options in CASES.items():
        if half and name not in HALF_RIVALS:
            continue
        labels = 1 if name.endswith("regression") else 3
        micro, batches, objective, own_task = 8 // accumulation // world.size, global_batches(labels=labels), None, None
        if name.endswith("weighted"):
            batches, objective, own_task = weighted_loss()
        eager = {"attn_implementation": "eager"} if "exact" in name else {}
        still = ModelConfig(freeze=["embeddings"] if "frozen" in name else [])

        layers, one = options.get("layers", 1), "of one" in name

        def model(labels=labels, eager=eager, still=still, layers=layers, one=one):
            made = shallow_roberta(labels=labels, num_hidden_layers=layers, **eager)
            freeze(made, still, ())
            if one:
                made.requires_grad_(False).classifier.out_proj.bias.requires_grad_(True)
            return made

        own = {ORACLES.get(key, key): value for key, value in options.items() if key not in ("name", "derivative", "layers")}
        settings = rivals.Settings(regression=labels == 1, own_task=own_task, **own)
        if world.rank == 0:
            noise = DrawnNoise(model(), options, batches, device=get_accelerator().current_device_name())
            expected = rivals.run(model(), batches, settings, options["name"], noise)[0]
        for stage in sorted(stage for case, stage in rival_runs() if case == name):
            student = model()
            METHODS[options["name"]].prepare_model(student, None)
            engine, player = make(world, ds_json(stage, precision), options, micro, model=student, objective=objective)
            result = steps(world, engine, player, micro, batches)
            if world.rank == 0:
                far = oracle.distance(result, expected, dict(model().named_parameters()))
                report[f"{name}, zero-{stage}, accumulation {accumulation}"] = far
            engine.close()


if __name__ == "__main__":
    main(body)
