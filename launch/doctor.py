"""The script for launchers: `deepspeed launch/doctor.py [key=value ...]`; without one, `mat-ds doctor`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Remove this folder, whose evaluate.py would hide Hugging Face's package of that name.
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    from mat_ds.cli import run

    run("doctor")
