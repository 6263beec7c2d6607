"""Reads the data of folders as a run would, with limited memory, and prints a line of JSON with the outcome for each."""

import json
import resource
import sys
import time
from pathlib import Path

GIB = 2**30


def peak():
    """The peak memory of this process in bytes, since the last call."""
    text = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def main():
    import pyarrow.parquet

    from mat_ds.errors import UserError
    from mat_ds.tasks.examples import load_task_data
    from mat_ds.tasks.options import DataConfig
    from mat_ds.tasks.registry import TASKS

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # frees memory that is not used any more
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2 * GIB, in_use + 2 * GIB))
    for folder in sys.argv[1:]:
        before, began = peak(), time.monotonic()
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        try:
            data = load_task_data(TASKS["sst2"], DataConfig(path=folder))
            said = [example.label for example in data.train[:9]]
        except UserError as error:
            said = str(error)
        print(
            json.dumps(
                {"folder": Path(folder).name, "said": said, "seconds": time.monotonic() - began, "bytes": peak() - before}
            )
        )
    return 0
