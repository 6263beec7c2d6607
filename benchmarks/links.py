"""Time of an outer step over a slow link, and the bytes that cross it: one chain on two ranks against a chain on each.

    sudo python -m benchmarks.links [--mbits 100] [--delay 20] [--samples 1 2 5 10] [--arms one per_node ...] [--steps 4]
        [--json FILE] [--plot FILE] [key=value ...]

The two ranks are in the network namespaces of `slow_link.py`. Each arm has a run of so many outer steps and one of twice as
many: seconds are the median of both but for the first two steps of each, bytes are what the devices at both ends sent more in
the longer one, headers and acknowledgements with it. `--json` is also written after each K.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from safetensors import safe_open

from benchmarks.slow_link import ADDRESSES, CABLE, SIDES, crossed, two_nodes

ROOT = Path(__file__).parents[1]
PORT, LEFT_OUT = 29555, 1
ARMS = {
    "one": ("method.chains=one",),
    "per_node": ("method.chains=per_node",),
    "bf16": ("method.chains=per_node", "method.chains_compression=bf16"),
    "int8": ("method.chains=per_node", "method.chains_compression=int8"),
}


def trained(options: Sequence[str], steps: int) -> dict[str, Any]:
    """What a run with one rank at each end of the link took: seconds of each outer step but the first, bytes in all."""
    before = crossed()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        always = ("train.eval_per_epoch=0", f"train.max_steps={steps}", f"output_dir={run}", "tracking.uri=none")
        command = [sys.executable, "-m", "mat_ds.cli", "train", "--ds_config", "zero2", *options, *always]
        ranks = []
        for rank, side in enumerate(SIDES):
            own = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_SIZE": "1", "MASTER_ADDR": ADDRESSES[0],
                   "MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": CABLE, "OMP_NUM_THREADS": "1"}  # fmt: skip
            with (Path(folder) / f"rank-{rank}.log").open("w") as log:
                inside = ["ip", "netns", "exec", side, *command]
                ranks.append(subprocess.Popen(inside, cwd=ROOT, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT))
        if any([rank.wait(3600) for rank in ranks]):
            raise SystemExit("\n".join(file.read_text()[-3000:] for file in Path(folder).glob("*.log")))
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        environment = json.loads((run / "environment.json").read_text())
        ends = [event["time"] for event in events if event["event"] == "step"]
        with safe_open(run / "model" / "model.safetensors", "np") as model:
            parameters = sum(math.prod(model.get_slice(name).get_shape()) for name in model.keys())  # noqa: SIM118
    seconds = [end - begin for begin, end in pairwise(ends)]
    return {"seconds": seconds, "bytes": crossed() - before, "parameters": parameters, "commit": environment["git_commit"]}


def compared(options: Sequence[str], arms: Sequence[str], steps: int) -> dict[str, dict[str, Any]]:
    """Seconds and bytes of an outer step of each arm. The longer runs follow the shorter ones of all arms, so that what else
    the machine does hits all alike."""
    short, long = ({arm: trained([*options, *ARMS[arm]], steps * times) for arm in arms} for times in (1, 2))
    return {arm: _difference(short[arm], long[arm], steps) for arm in arms}


def _difference(short: Mapping[str, Any], long: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Of a run, and one of so many outer steps more."""
    seconds = [*short["seconds"][LEFT_OUT:], *long["seconds"][LEFT_OUT:]]
    size = (long["bytes"] - short["bytes"]) / steps
    return {
        "seconds": median(seconds), "bytes": size, "bytes_per_parameter": size / long["parameters"],
        "parameters": long["parameters"], "all_seconds": [round(one, 4) for one in seconds], "commit": long["commit"],
    }  # fmt: skip


def plot(found: Mapping[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for arm, asked in ARMS.items():
        if points := [(row["samples"], row[arm]["seconds"]) for row in found["rows"] if arm in row]:
            label = ", ".join(option.removeprefix("method.") for option in asked)
            axes.plot(*zip(*points, strict=True), "o-", label=label)
    title = f"{found['mbits']:g} Mbit/s, {found['delay']:g} ms"
    axes.set(xlabel="samples of the parameters in an outer step, K", ylabel="seconds of an outer step", title=title)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbits", type=float, default=100.0)
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds of a round trip")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    asked = parser.parse_intermixed_args()
    if asked.steps < 2:
        parser.error(f"--steps {asked.steps} leaves nothing to measure")
    found: dict[str, Any] = {name: getattr(asked, name) for name in ("mbits", "delay", "steps")}
    with two_nodes(asked.mbits, asked.delay) as means:
        print(f"{asked.mbits:g} Mbit/s, {asked.delay:g} ms, by {means}")
        machine = {"link": means, "cores": os.cpu_count(), "python": platform.python_version()}
        named = [option for option in asked.overrides if "/" not in option]  # but for paths of this machine
        found |= {"options": named, "machine": machine, "rows": []}
        for samples in asked.samples:
            options = [*asked.overrides, f"method.theta_steps={samples}"]
            arms = compared(options, asked.arms, asked.steps)
            for arm, each in arms.items():
                told = "{seconds:8.2f} s {bytes_per_parameter:7.2f} bytes a parameter".format_map(each)
                print(f"K {samples:3} {arm:9} {told}", flush=True)
            found["rows"].append({"samples": samples, **arms})
            if asked.json:
                asked.json.write_text(json.dumps(found, indent=1) + "\n")
    if asked.plot:
        plot(found, asked.plot)


if __name__ == "__main__":
    main()
