"""A run from Python: train, read the results, predict, evaluate.

python examples/train_from_python.py
"""

from pathlib import Path

import mat_ds


def main():
    run = mat_ds.train(
        {"train.max_steps": 8, "train.batch_size": 16, "train.micro_batch_size": 8, "data.eval_limit": 100},
        method={"name": "mat", "delta_steps": 2, "theta_steps": 2, "delta_max_norm": 5e-3, "delta_lr": 5e-3},
        optimizer={"lr": 1e-3},
        data={"train_limit": 128},  # any option of docs/options.md can be passed
        tracking={"uri": "none"},
        ds_config={"zero_optimization": {"stage": 1}},
        quiet=True,
    )
    print(f"{run.path}: score {run.score:.3f} after {run.results['steps']} steps")
    print("losses:", [round(event["loss"], 3) for event in run.events if event["event"] == "step"])

    for answer in mat_ds.load(run.path).predict(["the key near the cabinets is golden", "the key are golden"]):
        print(answer["label"], answer["probabilities"])

    report = mat_ds.evaluate(run.path, {"attack.radii": [1e-2], "noise.rates": []}, limit=50)
    print(report["splits"]["validation"]["clean"], Path(report["folder"]).name)

    try:
        mat_ds.train(method={"name": "vanila"})  # the default DeepSpeed configuration is zero2
    except mat_ds.UserError as error:  # all mistakes at once, before training starts
        print(error)


if __name__ == "__main__":
    main()
