"""Worker: every method on every kind of task, at ZeRO-2 and ZeRO-3, against the float64 oracle."""

import functools

from deepspeed.accelerator import get_accelerator

from mat_ds.methods import METHODS
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec
from tests.equivalence import oracle, rivals
from tests.equivalence.kinds import TASKS
from tests.support.drawn import DrawnNoise
from tests.support.expected import kind_runs
from tests.workers.rivals import BALL, ORACLES, VIRTUAL, YOPO
from tests.workers.worker import MAT, ORACLE_OPTIONS, ds_json, main, make, steps

# Options of each method; for what they are chosen, see rivals.py.
OPTIONS = {
    "vanilla": {},
    "mat": MAT,
    **dict.fromkeys(("freelb", "pgd", "freeat"), BALL),
    "yopo": YOPO,
    "smart": {"delta_steps": 2, **VIRTUAL, "teacher_decay": 0.5, "mu": 2.0},
    "alum": {"delta_steps": 1, **VIRTUAL},
    "rdrop": {"alpha": 5.0},
    "neftune": {"alpha": 2.0},
    "sam": {"rho": 0.3},
    "awp": {**BALL, "gamma": 0.2},
    **{method: {"lam": 3.0, "noise_scale": 0.1} for method in ("r3f", "r4f")},
    "salt": {**VIRTUAL, "delta_gradient": "linf", "delta_projection": "clamp"},
}
MICRO = 2


@functools.cache
def expected(name, method):
    """The parameters that the oracle ends with, on one process."""
    task, options = TASKS[name], {"name": method, **OPTIONS[method]}
    noise = DrawnNoise(task.model(), options, task.batches(), device=get_accelerator().current_device_name(), kind=kind(name))
    if method in ("mat", "vanilla"):
        settings = oracle.Settings(own_task=task, **{key: options[key] for key in ORACLE_OPTIONS if key in options})
        return oracle.run(task.model(), task.batches(), settings, method, noise)
    own = {ORACLES.get(key, key): value for key, value in options.items() if key not in ("name", "layers")}
    return rivals.run(task.model(), task.batches(), rivals.Settings(own_task=task, **own), method, noise)[0]


def kind(name):
    return kind_of(TaskSpec(name="own", **TASKS[name].spec))


def body(world, report):
    for (name, method), stage in kind_runs():
        task, options = TASKS[name], {"name": method, **OPTIONS[method]}
        eager = {}
        if method == "salt":  # ZeRO-3 cannot compute the exact derivative, and fused kernels have no second one
            options["derivative"] = "finite_difference" if stage == 3 else "exact"
            eager = {"attn_implementation": "eager"} if stage < 3 else {}
        student = task.model(**eager)
        METHODS[method].prepare_model(student, None)
        engine, player = make(world, ds_json(stage), options, MICRO, model=student, kind=kind(name))
        result = steps(world, engine, player, MICRO, task.batches())
        if world.rank == 0:
            found = {key: value for key, value in expected(name, method).items() if key not in task.without_gradient}
            far = oracle.distance(result, found, dict(task.model().named_parameters()))
            report[f"{name} {method} zero-{stage}"] = far
        engine.close()


if __name__ == "__main__":
    main(body)
