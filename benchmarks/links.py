"""Time of an outer step over a slow link: one chain on two ranks against a chain on each (`method.chains`).

    sudo python -m benchmarks.links [--rate 100mbit] [--delay 20ms] [--samples 1 2 5 10] [--json FILE] [--plot FILE]
        [key=value ...]

The two ranks are in network namespaces of this machine, joined by a virtual cable that `tc` holds to the rate, with half the
delay in each direction, where the kernel can delay. The runs alternate, and the first two outer steps of each are left out.
Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
SIDES = ("mat-ds-a", "mat-ds-b")
ADDRESSES = ("10.199.0.1", "10.199.0.2")
CABLE, PORT = "cable", 29555
LEFT_OUT = 2


def shell(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def two_nodes(rate: str, delay: str) -> Iterator[bool]:
    """Two network namespaces whose link has a rate and a delay, as `tc` writes them; yields whether this kernel has delays."""
    delayed = True
    half = f"{float(delay.removesuffix('ms')) / 2:g}ms"
    for side in SIDES:
        shell("ip", "netns", "add", side)
    try:
        shell("ip", "link", "add", CABLE, "netns", SIDES[0], "type", "veth", "peer", "name", CABLE, "netns", SIDES[1])
        for side, address in zip(SIDES, ADDRESSES, strict=True):
            inside = ("ip", "netns", "exec", side)
            shell(*inside, "ip", "address", "add", f"{address}/24", "dev", CABLE)
            for device in (CABLE, "lo"):
                shell(*inside, "ip", "link", "set", device, "up")
            add = (*inside, "tc", "qdisc", "add", "dev", CABLE, "root")
            if subprocess.run([*add, "netem", "rate", rate, "delay", half, "limit", "100000"], capture_output=True).returncode:
                shell(*add, "tbf", "rate", rate, "burst", "64kb", "latency", "2s")
                delayed = False
        yield delayed
    finally:
        for side in SIDES:
            shell("ip", "netns", "delete", side)


def seconds_of(options: Sequence[str], samples: int, chains: str) -> float:
    """Median seconds of an outer step of a run with one rank at each end of the link."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        asked = [f"method.theta_steps={samples}", f"method.chains={chains}", f"output_dir={run}", "tracking.uri=none", *options]
        command = [sys.executable, "-m", "mat_ds.cli", "train", "--ds_config", "zero2", *asked]
        ranks = []
        for rank, side in enumerate(SIDES):
            own = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_SIZE": "1", "MASTER_ADDR": ADDRESSES[0],
                   "MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": CABLE, "OMP_NUM_THREADS": "1"}  # fmt: skip
            inside = ["ip", "netns", "exec", side, *command]
            ranks.append(
                subprocess.Popen(inside, cwd=ROOT, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            )
        for rank in ranks:
            printed, _ = rank.communicate(timeout=1800)
            if rank.returncode:
                raise SystemExit(printed.decode()[-3000:])
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        batch = json.loads((run / "environment.json").read_text())["deepspeed_config"]["train_batch_size"]
        speeds = [event["samples_per_second"] for event in events if event["event"] == "step"]
        return median(batch / speed for speed in speeds[LEFT_OUT:])


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    with two_nodes(asked.rate, asked.delay) as delayed:
        delay = asked.delay if delayed else "no delay: this kernel has no netem"
        print(f"{asked.rate}, {delay}")
        for samples in asked.samples:
            each: dict[str, list[float]] = {"one": [], "per_node": []}
            for _ in range(2):
                for chains, values in each.items():
                    values.append(seconds_of(asked.overrides, samples, chains))
            seconds = {chains: median(values) for chains, values in each.items()}
            found.append({"samples": samples, **seconds, "ratio": seconds["one"] / seconds["per_node"], "all": each})
            print(
                f"K {samples:3}  one {seconds['one']:7.2f} s  per_node {seconds['per_node']:7.2f} s  {found[-1]['ratio']:.1f}x"
            )
    return {"rate": asked.rate, "delay": delay, "rows": found}


def plot(found: Sequence[dict[str, Any]], title: str, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for chains in ("one", "per_node"):
        axes.plot([row["samples"] for row in found], [row[chains] for row in found], "o-", label=f"method.chains={chains}")
    axes.set(xlabel="samples of the parameters in an outer step, K", ylabel="seconds of an outer step", title=title)
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--delay", default="20ms", help="of a round trip")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    asked = parser.parse_intermixed_args()
    found = measured(asked)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    if asked.plot:
        plot(found["rows"], f"{found['rate']}, {found['delay']}", asked.plot)


if __name__ == "__main__":
    main()
