"""The door for launchers: `deepspeed launch/evaluate_run.py FOLDER [key=value ...]`; without one, `mat-ds evaluate`.

A file `evaluate.py` in this folder would hide the package of that name from every door.
"""

import sys

from mat_ds.robustness.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
