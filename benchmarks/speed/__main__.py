"""The speed of training compared with torch's fused optimizer and with the authors' loop.

    python -m benchmarks.speed [--only NAME] [--json FILE] [--model FOLDER] [--data FOLDER]

Prints a table, and writes its figures and raw measurements as JSON. The two sides of a ratio are measured alternately in one
run, on one thread; the table has the median over the rounds, with minimum and maximum. If more processes want to run than there
are cores, there is no ratio, but the measurements are in the JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.speed import counts, growth, peak, sampler, scaling, share, stall, start, step, wire
from benchmarks.speed.timing import Figure

Section = Callable[[argparse.Namespace], Figure]
SECTIONS: dict[str, Section] = {
    "outer_step_padded": lambda given: step.measure(given.model, given.data, unpadded=False),
    "outer_step_unpadded": lambda given: step.measure(given.model, given.data, unpadded=True),
    "sampler_mixture": lambda given: sampler.measure(0.0, given.model),
    "sampler_noise": lambda given: sampler.measure(2e-6, given.model),
    "deepspeed_share": lambda given: share.measure(given.model, given.data),
    "host_waits": lambda given: counts.host_waits(),
    "loop_collectives": lambda given: counts.loop_collectives(),
    "bytes_per_update": lambda given: wire.measure(),
    "first_step_cpu_seconds": lambda given: start.measure(),
    "share_of_peak": lambda given: peak.measure(given.model, given.data),
    "data_stall": lambda given: stall.measure(given.model, given.data),
    "two_ranks": lambda given: scaling.measure(),
    "linear_cost": lambda given: growth.measure(given.json and given.json.with_suffix(".png")),
}
ROOT = Path(__file__).parents[2]


def machine() -> dict[str, str | int]:
    """Machine and versions of the measurement."""
    commit = subprocess.run(("git", "describe", "--always", "--dirty"), cwd=ROOT, capture_output=True, text=True, check=False)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    cpu = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "processor": cpu[0] if cpu else platform.machine(),
        "cores": len(cpu),
        "card": card,
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "commit": commit.stdout.strip(),
    }


def line(name: str, figure: Figure) -> str:
    """A row of the table."""
    seen = [
        f"{by} {figure.details[f'ratio_{by}']} {figure.details[f'spread_{by}']}" for by in ("cpu", "wall") if figure.is_ratio
    ]
    value = f"none: {figure.refusal}" if figure.refusal else figure.value
    return f"| {name} | {value} | {', '.join(seen)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(SECTIONS), help="one figure")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--model", type=Path, help="folder of a classifier's encoder and tokenizer; else MiniLM's shape")
    parser.add_argument("--data", type=Path, help="folder with cola/; else sentences of its lengths")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [given.only] if given.only else list(SECTIONS)
    print("| figure | value | median, lowest and highest by processor time and by the wall |\n|---|---|---|")
    found: dict[str, Figure] = {}
    for name in names:
        found[name] = SECTIONS[name](given)
        print(line(name, found[name]), flush=True)
    if given.json:
        figures = {name: figure.value for name, figure in found.items()}
        details = {name: {**figure.details, "refusal": figure.refusal} for name, figure in found.items()}
        tree = {**figures, "details": details, "machine": machine(), "command": shlex.join(sys.argv[1:])}
        given.json.write_text(json.dumps(tree, indent=1) + "\n")
    sys.exit(1 if any(figure.refusal for figure in found.values()) else 0)


if __name__ == "__main__":
    main()
