"""What only a GPU can show of speed, in one run of at most ten minutes.

    python -m benchmarks.gpu_check FILE [--shrunk] [--only SECTION]

The model is of RoBERTa-large's size with random weights, on which no speed depends, in batches of 32 x 128 tokens and of the
lengths of CoLA and MNLI. Each section has a deadline of its own; FILE (JSON) is written after each, so that what was measured
before an error or the end of the machine's time is kept. `--shrunk` takes two small layers, to try the script on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import card, replays
from benchmarks.speed.__main__ import machine
from benchmarks.speed.card import Check
from benchmarks.speed.step import alone


class LateError(Exception):
    """A section's time is over."""


# In the order of what matters most, with the seconds that each may take.
SECTIONS: dict[str, tuple[int, Callable[[Check, dict[str, Any]], None]]] = {
    "ceilings": (15, card.ceilings),
    "sampler": (35, card.sampler),
    "host_waits": (20, card.host_waits),
    "vanilla": (40, card.vanilla),
    "baseline": (70, card.baseline),
    "product": (80, card.product),
    "unpadded": (80, card.unpadded),
    "trace": (30, card.trace),
    "graphs": (120, replays.graphs),
    "compiled": (80, card.compiled),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the figures go")
    parser.add_argument("--shrunk", action="store_true", help="two small layers, to try the script on a CPU")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="run this section; may be repeated (all)")
    parsed = parser.parse_args()

    def late(*_: Any) -> None:
        raise LateError

    signal.signal(signal.SIGALRM, late)
    with alone() as device:
        check = Check(device, parsed.shrunk)
        check.found["machine"] = machine()
        for name in parsed.only or SECTIONS:
            limit, section = SECTIONS[name]
            start, found = time.perf_counter(), check.found.setdefault(name, {})
            signal.alarm(limit)
            try:
                section(check, found)
            except Exception as error:  # the other sections are worth their time all the same
                found |= {"failed": f"{type(error).__name__}: {error}"[:300], "where": traceback.format_exc()[-1500:]}
            finally:
                signal.alarm(0)
            found["took_s"] = round(time.perf_counter() - start, 1)
            parsed.file.write_text(json.dumps(check.found, indent=1) + "\n")
            print(name, json.dumps({k: v for k, v in found.items() if k not in ("table", "where")}), flush=True)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
